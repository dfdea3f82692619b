// Package extsort sorts more than fits into memory, with the help of a file.
package extsort

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
)

// A Sorter takes records, which are some bytes, and gives them back in the order
// of their first KeySize bytes. Up to Memory bytes are held in memory; what is
// more goes to a file in os.TempDir, which has no name there and takes as much as the
// records and four bytes for each. It is for one goroutine.
type Sorter struct {
	KeySize int
	Memory  int

	arena []byte
	at    []uint32 // where records begin
	file  *os.File
	runs  []run
	size  int64
}

// A run is a part of the file, in order.
type run struct{ start, end int64 }

const maxMemory = 1 << 31 // offsets are of 32 bits

// Add takes a copy of a record.
func (s *Sorter) Add(record []byte) error {
	if len(record) < s.KeySize || len(record) > maxMemory/2 {
		return fmt.Errorf("cannot sort a record of %d bytes by the first %d", len(record), s.KeySize)
	}
	if len(s.at) > 0 && len(s.arena)+len(record)+8*len(s.at) > min(s.Memory, maxMemory) {
		if err := s.spill(); err != nil {
			return err
		}
	}
	if need := 4 + len(record); need > cap(s.arena)-len(s.arena) {
		// append alone would grow it by a quarter, and copy it again and again.
		s.arena = slices.Grow(s.arena, max(need, min(len(s.arena), s.Memory-len(s.arena))))
	}
	s.at = append(s.at, uint32(len(s.arena)))
	s.arena = binary.BigEndian.AppendUint32(s.arena, uint32(len(record)))
	s.arena = append(s.arena, record...)
	return nil
}

func (s *Sorter) record(at uint32) []byte {
	n := binary.BigEndian.Uint32(s.arena[at:])
	return s.arena[at+4:][:n]
}

func (s *Sorter) sort() {
	slices.SortFunc(s.at, func(a, b uint32) int {
		return bytes.Compare(s.arena[a+4:][:s.KeySize], s.arena[b+4:][:s.KeySize])
	})
}

// spill writes what is in memory to the file.
func (s *Sorter) spill() error {
	if s.file == nil {
		f, err := os.CreateTemp("", "s3storage-sort-")
		if err != nil {
			return fmt.Errorf("making a file to sort in: %w", err)
		}
		s.file = f
		_ = os.Remove(f.Name()) // it stays open, and is gone when this process is
	}
	s.sort()
	w := bufio.NewWriterSize(s.file, 1<<20)
	start := s.size
	for _, at := range s.at {
		n := 4 + int(binary.BigEndian.Uint32(s.arena[at:]))
		if _, err := w.Write(s.arena[at:][:n]); err != nil {
			return s.failed(err)
		}
		s.size += int64(n)
	}
	if err := w.Flush(); err != nil {
		return s.failed(err)
	}
	s.runs = append(s.runs, run{start, s.size})
	s.arena, s.at = s.arena[:0], s.at[:0]
	return nil
}

func (s *Sorter) failed(err error) error {
	return fmt.Errorf("sorting in a file in %s, which may need more room: %w", os.TempDir(), err)
}

// Sorted returns the records in order, those of equal keys in any. Each is valid
// until the next. It can be gone over several times; nothing may be added any
// more.
func (s *Sorter) Sorted() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if s.file == nil {
			s.sort()
			for _, at := range s.at {
				if !yield(s.record(at), nil) {
					return
				}
			}
			return
		}
		if len(s.at) > 0 {
			if err := s.spill(); err != nil {
				yield(nil, err)
				return
			}
		}
		s.arena, s.at = nil, nil
		s.merge(yield)
	}
}

func (s *Sorter) merge(yield func([]byte, error) bool) {
	var h heads
	h.key = s.KeySize
	for _, r := range s.runs {
		in := bufio.NewReaderSize(io.NewSectionReader(s.file, r.start, r.end-r.start), 128<<10)
		head := &head{in: in}
		if ok, err := head.next(); err != nil {
			yield(nil, s.failed(err))
			return
		} else if ok {
			h.all = append(h.all, head)
		}
	}
	heap.Init(&h)
	for len(h.all) > 0 {
		first := h.all[0]
		if !yield(first.record, nil) {
			return
		}
		ok, err := first.next()
		switch {
		case err != nil:
			yield(nil, s.failed(err))
			return
		case ok:
			heap.Fix(&h, 0)
		default:
			heap.Pop(&h)
		}
	}
}

// Close removes the file, if there is one.
func (s *Sorter) Close() error {
	s.arena, s.at = nil, nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// A head is the first record of a run that has not been returned.
type head struct {
	in     *bufio.Reader
	record []byte
}

func (h *head) next() (ok bool, err error) {
	var size [4]byte
	if _, err := io.ReadFull(h.in, size[:]); err == io.EOF {
		return false, nil
	} else if err != nil {
		return false, err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	h.record = slices.Grow(h.record[:0], n)[:n]
	_, err = io.ReadFull(h.in, h.record)
	return err == nil, err
}

type heads struct {
	all []*head
	key int
}

func (h *heads) Len() int { return len(h.all) }
func (h *heads) Less(i, j int) bool {
	return bytes.Compare(h.all[i].record[:h.key], h.all[j].record[:h.key]) < 0
}
func (h *heads) Swap(i, j int) { h.all[i], h.all[j] = h.all[j], h.all[i] }
func (h *heads) Push(x any)    { h.all = append(h.all, x.(*head)) }
func (h *heads) Pop() any {
	last := h.all[len(h.all)-1]
	h.all = h.all[:len(h.all)-1]
	return last
}
