package index

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A Writer writes a table as a stream. In memory it has one leaf, and the
// directory, 4 bytes a leaf. A failure stays. It is for one goroutine.
type Writer struct {
	w    io.Writer
	db   [16]byte
	info Info
	err  error
	last Entry

	directory []byte
	leaves    int
	lastFirst zodb.Oid // first of the leaf before

	// The leaf that is being filled.
	pending     []pending
	explicit    int // entries of which the tid is written
	other       int // bytes besides these tids
	low, high   zodb.Tid
	middle      bool // it begins within an object
	predecessor predecessors

	buf []byte
}

// pending is an entry that is to be written, when the base and the width of tids
// are known.
type pending struct {
	Entry
	step zodb.Oid
	tag  byte
}

// predecessors are the last tid and k of each rank in a group, and the rank of
// the entry that was read or written last.
type predecessors struct {
	rank int
	tid  [ranks]zodb.Tid
	k    [ranks]uint32
}

// NewWriter returns a writer of the table with that id, of the database. It
// writes the file to w from its first byte on, some 20 KB at a time.
func NewWriter(w io.Writer, db [16]byte, id ID) *Writer {
	x := &Writer{w: w, db: db, info: Info{ID: id}}
	x.write(appendHeader(nil, db, id))
	return x
}

func appendHeader(b []byte, db [16]byte, id ID) []byte {
	b = fileformat.AppendStart(b, magic, formatVersion, groupEntries)
	b = append(b, db[:]...)
	b = append(b, id[:]...)
	return binary.BigEndian.AppendUint32(b, fileformat.CRC(b))
}

func (w *Writer) write(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	if err != nil {
		w.err = fmt.Errorf("writing the index table %s: %w", w.info.ID.Name(), err)
	}
	w.info.Size += int64(n)
}

// Add adds an entry. They come in the order of (oid, tid), each once.
func (w *Writer) Add(e Entry) error {
	if w.err != nil {
		return w.err
	}
	switch {
	case e.Oid > zodb.MaxOid || e.Tid == zodb.NoTid || e.Tid > zodb.MaxTid:
		w.err = fmt.Errorf("writing the index table %s: object %s of transaction %s: no such object or transaction", w.info.ID.Name(), e.Oid, e.Tid)
	case w.info.Entries > 0 && !w.last.before(e.Oid, e.Tid):
		w.err = fmt.Errorf("writing the index table %s: object %s of transaction %s comes after object %s of transaction %s",
			w.info.ID.Name(), e.Oid, e.Tid, w.last.Oid, w.last.Tid)
	default:
		w.add(e)
	}
	return w.err
}

func (w *Writer) add(e Entry) {
	goesOn := w.info.Entries > 0 && w.last.Oid == e.Oid
	if n := len(w.pending); n > 0 {
		full := n >= leafEntries || w.size(w.low, w.high, 0) >= leafFull
		if full && !goesOn || w.size(min(w.low, e.Tid), max(w.high, e.Tid), maxEntry) > maxLeaf {
			w.endLeaf()
		}
	}
	if len(w.pending) == 0 {
		w.middle = goesOn
		w.low, w.high = e.Tid, e.Tid
	}
	w.low, w.high = min(w.low, e.Tid), max(w.high, e.Tid)
	w.append(e)

	if w.info.Entries == 0 {
		w.info.First = e.Tid
	}
	w.last = e
	w.info.Entries++
	w.info.First, w.info.Last = min(w.info.First, e.Tid), max(w.info.Last, e.Tid)
	w.info.MaxOid = e.Oid
}

// maxEntry is the most that an entry may add to a leaf.
const maxEntry = 1 + binary.MaxVarintLen64 + maxTidWidth + 4 + groupSize

// size returns the bytes of the leaf, if its tids are from low to high, and more
// bytes are added to its entries.
func (w *Writer) size(low, high zodb.Tid, more int) int {
	return leafHeaderSize + w.other + w.explicit*tidWidth(low, high) + more + sumSize
}

// tidWidth returns the bytes that the tids of a leaf take.
func tidWidth(low, high zodb.Tid) int { return (bits.Len64(uint64(high-low)) + 7) / 8 }

// append adds an entry to the leaf.
func (w *Writer) append(e Entry) {
	p := pending{Entry: e}
	before := &w.predecessor
	if len(w.pending)%groupEntries == 0 { // (oid, tid) is in the list of groups
		before.reset(e.Tid)
		w.other += groupSize
	} else {
		p.step = e.Oid - w.last.Oid
	}
	k := before.next(p.step)
	r := before.rank
	if before.tid[r] == e.Tid {
		p.tag |= sameTidBit
	} else {
		w.explicit++
		k = 0
	}
	if p.step < stepLong {
		p.tag |= byte(p.step)
	} else {
		p.tag |= stepLong
		w.other += (bits.Len64(uint64(p.step-stepLong)|1) + 6) / 7
	}
	if e.Deleted {
		p.tag |= deletedBit
	}
	width := byte(0)
	switch {
	case e.K == k:
	case e.K < 1<<8:
		width = 1
	case e.K < 1<<16:
		width = 2
	default:
		width = 3
	}
	p.tag |= width << kShift
	w.other += 1 + kWidths[width]
	before.tid[r], before.k[r] = e.Tid, e.K
	w.pending = append(w.pending, p)
}

// reset is for the start of a group; tid is that of its first entry.
func (p *predecessors) reset(tid zodb.Tid) {
	p.rank = -1
	p.tid = [ranks]zodb.Tid{0: tid}
	p.k[0] = ^uint32(0)
}

// next goes to the next entry, step oids on, and returns the k that it has if its
// tid is that of its predecessor and k has no bytes.
func (p *predecessors) next(step zodb.Oid) uint32 {
	switch {
	case step > 0:
		p.rank = 0
	case p.rank < ranks-1:
		p.rank++
	}
	return p.k[p.rank] + 1
}

// endLeaf writes the leaf.
func (w *Writer) endLeaf() {
	width := tidWidth(w.low, w.high)
	groups := (len(w.pending) + groupEntries - 1) / groupEntries
	b := w.buf[:0]
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.pending)))
	b = append(b, byte(width), 0)
	b = binary.BigEndian.AppendUint64(b, uint64(w.low))
	list := len(b)
	b = append(b, make([]byte, groups*groupSize)...)
	for i, p := range w.pending {
		if i%groupEntries == 0 {
			g := b[list:]
			binary.BigEndian.PutUint64(g, uint64(p.Oid))
			binary.BigEndian.PutUint64(g[8:], uint64(p.Tid))
			binary.BigEndian.PutUint16(g[16:], uint16(len(b)))
			list += groupSize
		}
		b = p.append(b, w.low, width)
	}
	first := w.pending[0]
	b = binary.BigEndian.AppendUint32(b, leafSum(w.info.ID, w.info.Size, b))

	step := uint64(first.Oid-w.lastFirst) << 1
	if w.middle {
		w.directory = binary.AppendUvarint(w.directory, step|1)
		w.directory = binary.BigEndian.AppendUint64(w.directory, uint64(first.Tid))
	} else {
		w.directory = binary.AppendUvarint(w.directory, step)
	}
	w.directory = binary.BigEndian.AppendUint16(w.directory, uint16(len(b)))
	w.leaves++
	w.lastFirst = first.Oid
	w.pending = w.pending[:0]
	w.explicit, w.other = 0, 0
	w.buf = b
	w.write(b)
}

// append appends the bytes of an entry.
func (p *pending) append(b []byte, low zodb.Tid, width int) []byte {
	b = append(b, p.tag)
	if p.tag&stepBits == stepLong {
		b = binary.AppendUvarint(b, uint64(p.step-stepLong))
	}
	if p.tag&sameTidBit == 0 {
		b = appendUint(b, uint64(p.Tid-low), width)
	}
	return appendUint(b, uint64(p.K), kWidths[p.tag>>kShift])
}

// appendUint appends the lowest bytes of a number.
func appendUint(b []byte, v uint64, width int) []byte {
	for width--; width >= 0; width-- {
		b = append(b, byte(v>>(8*width)))
	}
	return b
}

// leafSum returns the checksum of a leaf.
func leafSum(id ID, offset int64, leaf []byte) uint32 {
	return fileformat.CRC(id[:], binary.BigEndian.AppendUint64(nil, uint64(offset)), leaf)
}

// Close writes what is left, and says what was written. It does not close the
// io.Writer.
func (w *Writer) Close() (Info, error) {
	if w.err == nil && len(w.pending) > 0 {
		w.endLeaf()
	}
	b := w.directory
	b = binary.BigEndian.AppendUint32(b, uint32(len(w.directory)))
	b = binary.BigEndian.AppendUint32(b, uint32(w.leaves))
	b = binary.BigEndian.AppendUint64(b, uint64(w.info.Entries))
	b = binary.BigEndian.AppendUint64(b, uint64(w.info.First))
	b = binary.BigEndian.AppendUint64(b, uint64(w.info.Last))
	b = binary.BigEndian.AppendUint64(b, uint64(w.info.MaxOid))
	b = binary.BigEndian.AppendUint32(b, directorySum(w.db, w.info.ID, b))
	w.info.Tail = uint32(len(b))
	w.write(b)
	return w.info, w.err
}

// directorySum returns the checksum of the directory and the footer.
func directorySum(db [16]byte, id ID, b []byte) uint32 { return fileformat.CRC(db[:], id[:], b) }
