package segment

import (
	"context"

	"s3storage/internal/fileformat"
)

// Parts says what Scan reads besides the headers. They can be combined.
type Parts uint8

// What Scan reads.
const (
	HeadersOnly    Parts = 0
	WithReferences Parts = 1 // Class, Refs and RefsKnown
	WithData       Parts = 2 // Data
)

// portionSize is after how many bytes of data fn gets what there is.
const portionSize = 8 << 20

// Scan calls fn for all transactions, in order, with their records.
//
// A transaction of very many records, or of much data, comes in portions: fn is
// called several times with the same Tid, Meta and Committed, and the records
// that follow. One without records comes once. The transaction, and the slice of
// its records, are fn's until it returns; what these point to shares memory that
// is not used again.
//
// It reads ahead in ranges of 4 MiB. It needs some 50 MiB, and four times the
// largest record if it reads data. It returns when all calls of fetch have
// returned, and fails with what fetch or fn fails with. Where the parts that it
// reads do not agree with each other, with the directory or with its totals, the
// error wraps zodb.ErrCorrupt; fn may have been called before that is found.
func (d *Directory) Scan(ctx context.Context, fetch Fetch, parts Parts, fn func(*Txn) error) error {
	return d.ScanWithout(ctx, fetch, parts, nil, fn)
}

// ScanWithout does what Scan does, but the records of some keys may come without
// their Data. A block in which there are only such records is not decompressed: all
// that is verified of it is its checksum and its place. The keys ascend; there may
// be keys of other segments among them.
func (d *Directory) ScanWithout(ctx context.Context, fetch Fetch, parts Parts, without []Key, fn func(*Txn) error) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &scan{d: d, fn: fn, without: without, headers: newStream(d, fetch, d.headers)}
	defer s.headers.wait()
	if parts&WithReferences != 0 {
		s.references = &references{stream: newStream(d, fetch, d.references)}
		defer s.references.stream.wait()
	}
	if parts&WithData != 0 {
		s.data = &data{stream: newStream(d, fetch, d.Data())}
		defer s.data.stream.wait()
	}
	defer cancel() // before the waits

	if s.references != nil {
		_, stored, _, err := newStream(d, fetch, []Block{d.classes}).next(ctx)
		if err != nil {
			return err
		}
		if s.references.classes, err = d.DecodeClasses(stored); err != nil {
			return err
		}
	}
	for {
		b, stored, ok, err := s.headers.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			return s.end()
		}
		err = d.DecodeHeaders(b, stored, func(t *Txn, first bool) error { return s.transaction(ctx, b, t, first) })
		if err != nil {
			return err
		}
	}
}

// A scan joins the three kinds of blocks.
type scan struct {
	d          *Directory
	fn         func(*Txn) error
	headers    *stream
	references *references // or nil
	data       *data       // or nil
	without    []Key       // whose data is not wanted, from last on

	txn  Txn  // as its first block described it, without records
	last Key  // of the record before
	seen Info // the totals
}

// transaction takes those records of a transaction that are in one block.
func (s *scan) transaction(ctx context.Context, b Block, t *Txn, first bool) error {
	if first && t.Tid <= s.txn.Tid || !first && (t.Tid != s.txn.Tid || t.Records[0].K <= s.last.K) {
		return s.corrupt(b.Offset, "transaction %s follows %s, and begins there: %v", t.Tid, s.txn.Tid, first)
	}
	if first {
		if s.seen.Txns == 0 {
			s.seen.First = t.Tid
		}
		s.seen.Last = t.Tid
		s.seen.Txns++
		s.txn = Txn{Tid: t.Tid, Meta: t.Meta, Committed: t.Committed}
	}
	size, from := 0, 0
	for i := range t.Records {
		r := &t.Records[i]
		s.last = Key{t.Tid, r.K}
		if r.K >= s.txn.Committed {
			return s.corrupt(b.Offset, "record %s of a transaction of %d", s.last, s.txn.Committed)
		}
		s.seen.Records++
		s.seen.DataBytes += int64(r.Size)
		if r.Deleted {
			continue
		}
		if s.references != nil {
			if err := s.references.read(ctx, s, r); err != nil {
				return err
			}
		}
		if s.data == nil {
			continue
		}
		if err := s.data.read(ctx, s, r); err != nil {
			return err
		}
		if size += len(r.Data); size >= portionSize {
			if err := s.deliver(t.Records[from : i+1]); err != nil {
				return err
			}
			size, from = 0, i+1
		}
	}
	if from < len(t.Records) || len(t.Records) == 0 {
		return s.deliver(t.Records[from:])
	}
	return nil
}

func (s *scan) deliver(records []Record) error {
	t := s.txn
	t.Records = records[:len(records):len(records)]
	err := s.fn(&t)
	clear(records) // lets go of the data
	return err
}

// wanted tells whether the data of the present record is.
func (s *scan) wanted() bool {
	for len(s.without) > 0 && s.without[0].Compare(s.last) < 0 {
		s.without = s.without[1:]
	}
	return len(s.without) == 0 || s.without[0] != s.last
}

// end checks that nothing is left.
func (s *scan) end() error {
	if s.references != nil && s.references.more() || s.data != nil && s.data.more() {
		return s.corrupt(s.d.info.Scan, "there are more records than headers")
	}
	want := s.d.info
	s.seen.ID, s.seen.Size, s.seen.Tail, s.seen.Scan = want.ID, want.Size, want.Tail, want.Scan
	if s.seen != want {
		return s.corrupt(want.Scan, "there is %+v, by the directory there is %+v", s.seen, want)
	}
	return nil
}

func (s *scan) corrupt(offset int64, format string, args ...any) error {
	return fileformat.NewReader(s.d.info.ID.Name(), offset, nil).Corrupt(format, args...)
}

// data reads the data of one record after the other.
type data struct {
	stream *stream
	block  Block
	stored []byte     // of the block
	items  *dataItems // nil while the block is not decompressed
	passed int        // records in it before the present one that were not wanted
}

func (d *data) more() bool { return len(d.stream.blocks) > 0 || d.items != nil && d.items.more() }

// ended tells whether the record of a key is in the next block.
func (d *data) ended(k Key) bool {
	if d.items != nil {
		return !d.items.more()
	}
	return d.stored == nil || len(d.stream.blocks) > 0 && d.stream.blocks[0].First == k
}

// read reads the data of the record that follows, which is to be r.
func (d *data) read(ctx context.Context, s *scan, r *Record) error {
	if d.ended(s.last) {
		b, stored, ok, err := d.stream.next(ctx)
		if err == nil && !ok {
			err = s.corrupt(s.d.info.Scan, "the data of record %s is missing", s.last)
		}
		if err != nil {
			return err
		}
		if b.First != s.last {
			return s.corrupt(b.Offset, "record %s expected, by the directory the block begins with %s", s.last, b.First)
		}
		d.block, d.stored, d.items, d.passed = b, stored, nil, 0
	}
	if d.items == nil {
		if !s.wanted() {
			d.passed++
			return nil
		}
		if err := d.open(s.d); err != nil {
			return err
		}
	}
	bytes, err := d.items.next()
	if err != nil {
		return err
	}
	if d.items.key != s.last || d.items.oid != r.Oid || len(bytes) != int(r.Size) {
		return s.corrupt(d.block.Offset, "%d bytes of record %s of object %s expected, %d of record %s of object %s are there",
			r.Size, s.last, r.Oid, len(bytes), d.items.key, d.items.oid)
	}
	r.Data = bytes
	return nil
}

// open decompresses the block, and goes to the present record.
func (d *data) open(dir *Directory) (err error) {
	if d.items, err = dir.openData(d.block, d.stored, nil); err != nil {
		return err
	}
	for range d.passed {
		if _, err := d.items.next(); err != nil {
			return err
		}
	}
	return nil
}

// references reads the references of one record after the other.
type references struct {
	stream  *stream
	block   Block
	items   *referenceItems
	classes []string
}

func (d *references) more() bool {
	return len(d.stream.blocks) > 0 || d.items != nil && d.items.more()
}

// read reads the references of the record that follows, which is to be r.
func (d *references) read(ctx context.Context, s *scan, r *Record) error {
	if d.items == nil || !d.items.more() {
		b, stored, ok, err := d.stream.next(ctx)
		if err == nil && !ok {
			err = s.corrupt(s.d.info.Scan, "the references of record %s are missing", s.last)
		}
		if err != nil {
			return err
		}
		d.block = b
		if d.items, err = s.d.openReferences(b, stored); err != nil {
			return err
		}
	}
	if err := d.items.next(); err != nil {
		return err
	}
	if d.items.key != s.last {
		return s.corrupt(d.block.Offset, "references of record %s expected, those of %s are there", s.last, d.items.key)
	}
	r.Refs, r.RefsKnown = d.items.refs, d.items.known
	var err error
	r.Class, err = d.items.className(d.classes)
	return err
}
