package filestorage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"s3storage/internal/zodb"
)

// A Transaction is one that a Reader has found whole: the lengths and positions
// of all its records were checked. Its strings are valid until the next call of
// Next.
type Transaction struct {
	Tid     zodb.Tid
	Meta    zodb.TxnMeta
	Pos     int64 // in the file
	Size    int64 // in the file
	Records int64
}

// A Record is what a transaction did to one object. Its data is valid until the
// next call of the Reader.
type Record struct {
	Oid zodb.Oid

	// Tid is what the record says itself: the transaction's, but in files that
	// ZODB's fsrecover wrote it may be another.
	Tid zodb.Tid

	Pos  int64 // in the file
	Prev int64 // of the object's record before this, or 0; not checked
	Back int64 // the back pointer, or 0

	// Data is nil where the object does not exist from here on. Where there is
	// a back pointer it is what that leads to, over any number of others.
	Data []byte

	// DataTxn is the tid of the record that the back pointer points to: that of
	// the transaction to name in restore. NoTid where there is none.
	DataTxn zodb.Tid
}

// A Gap is a part of a file that a Reader has skipped.
type Gap struct {
	Pos  int64
	Size int64
	Err  error // why
}

// A Reader reads a Data.fs from some transaction on, forward. It holds a
// megabyte, or as much as the largest record takes. It is for one goroutine.
//
// Transactions with status 'u' are left out, as FileStorage does.
type Reader struct {
	// SkipDamaged makes Next look for the next whole transaction where it finds
	// damage, and note in Gaps what it has skipped.
	SkipDamaged bool

	name    string
	file    *os.File // nil for a NewReader
	python2 bool
	size    int64
	w       window

	next       int64    // where the next transaction begins
	last       zodb.Tid // of the last one before that
	unfinished bool
	gaps       []Gap

	txn     Transaction
	meta    []byte // the transaction's strings
	records int64  // where its next record is
	end     int64  // where its records end
	rec     Record

	scratch  [recordHeaderSize + pointerSize]byte
	back     []byte          // data that a back pointer leads to
	resolved map[int64]int64 // where records with back pointers lead
}

// Open opens the file for reading from its first transaction on.
func Open(name string) (*Reader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	r, err := NewReader(f, info.Size(), name)
	if err != nil {
		f.Close()
		return nil, err
	}
	r.file = f
	return r, nil
}

// NewReader reads what is no file of the system, or one that the caller closes.
// Errors call it name.
func NewReader(r io.ReaderAt, size int64, name string) (*Reader, error) {
	reader := &Reader{name: name, size: size, w: window{r: r}, next: magicSize, resolved: map[int64]int64{}}
	if size < magicSize {
		return nil, fmt.Errorf("%s is no Data.fs: it has %d bytes", name, size)
	}
	magic, err := reader.w.at(0, magicSize, size)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if string(magic) != magicPython3 && string(magic) != magicPython2 {
		return nil, fmt.Errorf("%s is no Data.fs: it begins with %q, not with %s or %s", name, magic, magicPython3, magicPython2)
	}
	reader.python2 = string(magic) == magicPython2
	return reader, nil
}

// Close closes the file, if Open opened it.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// Size returns the length of the file, as far as the reader knows it.
func (r *Reader) Size() int64 { return r.size }

// Python2 tells whether Python 2 wrote the file, and its records with it.
func (r *Reader) Python2() bool { return r.python2 }

// Gaps returns what was skipped so far.
func (r *Reader) Gaps() []Gap { return r.gaps }

// Unfinished returns how many bytes follow the last transaction because
// somebody was writing another when Next returned io.EOF; FileStorage cuts them
// off when it opens the file.
func (r *Reader) Unfinished() int64 {
	if !r.unfinished {
		return 0
	}
	return r.size - r.next
}

// errUnfinished reports a transaction that somebody is writing.
var errUnfinished = errors.New("unfinished transaction")

// Next moves to the next transaction, also where records of the last one were
// not read. It returns io.EOF after the last, and before one that is being
// written. Damage is an error that wraps zodb.ErrCorrupt, unless SkipDamaged is
// set; versions, which ZODB had until 2009, one that wraps zodb.ErrUnsupported.
// After an error, Next can be called again, and tries the same again.
func (r *Reader) Next() (*Transaction, error) {
	r.records, r.end, r.unfinished = 0, 0, false
	for {
		if r.next == r.size {
			return nil, io.EOF
		}
		t, err := r.examine(r.next, r.last)
		if err == nil && r.SkipDamaged {
			err = r.outlier(r.next, t)
		}
		switch {
		case err == nil:
			pos := r.next
			r.next += int64(t.header.length) + txnTrailerSize
			r.last = t.header.tid
			if t.header.status == statusUndone {
				continue
			}
			return &r.txn, r.begin(pos, t)
		case errors.Is(err, errUnfinished):
			r.unfinished = true
			return nil, io.EOF
		case r.SkipDamaged && (errors.Is(err, zodb.ErrCorrupt) || errors.Is(err, zodb.ErrUnsupported)):
			pos, searchErr := r.search(r.next + 1)
			if searchErr != nil {
				return nil, searchErr
			}
			r.gaps = append(r.gaps, Gap{r.next, pos - r.next, err})
			r.next = pos
		default:
			return nil, err
		}
	}
}

// begin makes an examined transaction the one whose records are read.
func (r *Reader) begin(pos int64, t examined) error {
	h := t.header
	strings, err := r.read(pos+txnHeaderSize, int(h.size()-txnHeaderSize))
	if err != nil {
		return err
	}
	r.meta = append(r.meta[:0], strings...)
	user, description := int(h.user), int(h.user)+int(h.description)
	r.txn = Transaction{
		Tid: h.tid,
		Meta: zodb.TxnMeta{
			User:        r.meta[:user:user],
			Description: r.meta[user:description:description],
			Extension:   r.meta[description:],
			Status:      h.status,
		},
		Pos:     pos,
		Size:    int64(h.length) + txnTrailerSize,
		Records: t.records,
	}
	r.records, r.end = pos+h.size(), pos+int64(h.length)
	return nil
}

// NextRecord returns the next record of the transaction that Next returned, or
// io.EOF. The record is the reader's own, and is overwritten by the next call.
func (r *Reader) NextRecord() (*Record, error) {
	if r.records >= r.end {
		return nil, io.EOF
	}
	pos := r.records
	b, err := r.read(pos, recordHeaderSize)
	if err != nil {
		return nil, err
	}
	h := parseRecordHeader(b)
	r.rec = Record{Oid: h.oid, Tid: h.tid, Pos: pos, Prev: int64(h.prev)}
	b, err = r.read(pos+recordHeaderSize, int(h.body()))
	if err != nil {
		return nil, err
	}
	if h.length > 0 {
		r.rec.Data = b
	} else if r.rec.Back = int64(binary.BigEndian.Uint64(b)); r.rec.Back > 0 {
		if err := r.follow(); err != nil {
			return nil, err
		}
	}
	r.records = pos + recordHeaderSize + int64(h.body())
	return &r.rec, nil
}

// read returns bytes of the file, valid until the next call.
func (r *Reader) read(pos int64, n int) ([]byte, error) {
	b, err := r.w.at(pos, n, r.size)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%s has become shorter while it was read: %w", r.name, ErrReplaced)
	}
	if err != nil {
		return nil, fmt.Errorf("read %d bytes of %s at %d: %w", n, r.name, pos, err)
	}
	return b, nil
}
