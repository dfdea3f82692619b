package filestorage

import (
	"encoding/binary"
	"fmt"
	"io"

	"s3storage/internal/zodb"
)

// An examined is a transaction that was found whole.
type examined struct {
	header  txnHeader
	records int64
}

// examine checks the transaction at pos, which follows one with the tid last:
// what FileStorage checks when it makes its index, and what ZODB's fstest and
// fsrecover do. It does not check that previous records are the right ones,
// which takes an index.
func (r *Reader) examine(pos int64, last zodb.Tid) (t examined, err error) {
	if r.size-pos < txnHeaderSize {
		return t, errUnfinished
	}
	b, err := r.read(pos, txnHeaderSize)
	if err != nil {
		return t, err
	}
	h := parseTxnHeader(b)
	t.header = h
	whole := r.has(pos, h.length)
	if !whole && h.status != statusUnfinished {
		// It may have been finished since somebody asked for the file's size.
		if err := r.grow(); err != nil {
			return t, err
		}
		whole = r.has(pos, h.length)
	}
	switch {
	case h.status == statusUnfinished:
		if whole && pos+int64(h.length)+txnTrailerSize < r.size {
			return t, damaged(r.name, pos, "the transaction is marked as being written, but others follow it")
		}
		return t, errUnfinished
	case h.status != ' ' && h.status != zodb.Packed && h.status != statusUndone:
		return t, damaged(r.name, pos, "the status of the transaction is %q", h.status)
	case h.tid <= last || h.tid > zodb.MaxTid:
		return t, damaged(r.name, pos, "transaction %s follows %s: tids have to ascend", h.tid, last)
	case !whole:
		return t, damaged(r.name, pos, "the transaction has %d bytes, the file ends after %d of them: it was cut short, or the length is wrong",
			h.length, r.size-pos)
	case int64(h.length) < h.size():
		return t, damaged(r.name, pos, "the transaction has %d bytes, less than its header of %d", h.length, h.size())
	}
	end := pos + int64(h.length)
	b, err = r.pointer(end)
	if err != nil {
		return t, err
	}
	if again := binary.BigEndian.Uint64(b); again != h.length {
		return t, damaged(r.name, end, "the length of the transaction at %d is %d at its begin, and %d at its end", pos, h.length, again)
	}
	if h.status == statusUndone {
		return t, nil
	}
	for at := pos + h.size(); at < end; t.records++ {
		n, err := r.examineRecord(at, pos, end)
		if err != nil {
			return t, err
		}
		at += n
	}
	return t, nil
}

// has tells whether the file has all of a transaction of this length.
func (r *Reader) has(pos int64, length uint64) bool {
	return length < maxPosition && pos+int64(length)+txnTrailerSize <= r.size
}

// examineRecord checks the record at pos of the transaction between two
// positions and returns how long it is.
func (r *Reader) examineRecord(pos, txn, end int64) (int64, error) {
	if end-pos < recordHeaderSize+1 {
		return 0, damaged(r.name, pos, "the transaction at %d has %d bytes left, too few for a record", txn, end-pos)
	}
	b, err := r.read(pos, recordHeaderSize)
	if err != nil {
		return 0, err
	}
	h := parseRecordHeader(b)
	switch {
	case h.txn != uint64(txn):
		return 0, damaged(r.name, pos, "the record says that its transaction is at %d, it is at %d", h.txn, txn)
	case h.version != 0:
		return 0, fmt.Errorf("%s, at byte %d: object %s was changed in a version: %w. ZODB has had no versions since 3.9: "+
			"save or discard them with the ZODB that made them, and pack; or else the file is damaged there",
			r.name, pos, h.oid, zodb.ErrUnsupported)
	case h.body() > uint64(end-pos-recordHeaderSize):
		return 0, damaged(r.name, pos, "the record has %d bytes, its transaction has %d left", h.body(), end-pos-recordHeaderSize)
	case h.prev >= uint64(pos):
		return 0, damaged(r.name, pos, "the record before this of object %s is said to be at %d", h.oid, h.prev)
	}
	size := recordHeaderSize + int64(h.body())
	if h.length > 0 {
		return size, nil
	}
	b, err = r.read(pos+recordHeaderSize, pointerSize)
	if err != nil {
		return 0, err
	}
	if back := binary.BigEndian.Uint64(b); back != 0 {
		if _, _, err := r.resolve(pos, h.oid, back); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// pointer reads eight bytes beside the window: they are far ahead of what is
// read next.
func (r *Reader) pointer(pos int64) ([]byte, error) {
	if i := pos - r.w.from; i >= 0 && i+pointerSize <= int64(len(r.w.buf)) {
		return r.w.buf[i : i+pointerSize], nil
	}
	return r.aside(pos, pointerSize)
}

// aside reads a few bytes without moving the window.
func (r *Reader) aside(pos int64, n int) ([]byte, error) {
	if got, err := r.w.r.ReadAt(r.scratch[:n], pos); got < n {
		if err == io.EOF {
			return nil, fmt.Errorf("%s has become shorter while it was read: %w", r.name, ErrReplaced)
		}
		return nil, fmt.Errorf("read %d bytes of %s at %d: %w", n, r.name, pos, err)
	}
	return r.scratch[:n], nil
}
