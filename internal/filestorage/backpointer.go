package filestorage

import (
	"encoding/binary"
	"fmt"

	"s3storage/internal/zodb"
)

// maxResolved bounds how many records with back pointers a Reader remembers.
const maxResolved = 1 << 16

// resolve follows the back pointer of a record at pos. It returns the tid of the
// record there, and the position of the record that has the data, or 0 if there
// is no object. Where records point to others in long chains, what was
// resolved before is taken from there.
func (r *Reader) resolve(pos int64, oid zodb.Oid, back uint64) (source zodb.Tid, data int64, err error) {
	for from, at := pos, back; ; {
		if at < magicSize+txnHeaderSize || at >= uint64(from) || uint64(from)-at < recordHeaderSize {
			return 0, 0, damaged(r.name, from, "the data of object %s is said to be at %d", oid, at)
		}
		b, err := r.aside(int64(at), recordHeaderSize+pointerSize)
		if err != nil {
			return 0, 0, err
		}
		h := parseRecordHeader(b)
		if h.oid != oid || h.version != 0 || h.txn >= at {
			return 0, 0, damaged(r.name, from, "the data of object %s is said to be at %d, where there is no record of it", oid, at)
		}
		if from == pos {
			source = h.tid
		}
		if h.length > 0 {
			if h.length > uint64(pos)-at {
				return 0, 0, damaged(r.name, int64(at), "the record has %d bytes, more than there are", h.length)
			}
			data = int64(at)
			break
		}
		from, at = int64(at), binary.BigEndian.Uint64(b[recordHeaderSize:])
		if at == 0 {
			break
		}
		if known, ok := r.resolved[from]; ok {
			data = known
			break
		}
	}
	if len(r.resolved) >= maxResolved {
		clear(r.resolved)
	}
	r.resolved[pos] = data
	return source, data, nil
}

// follow puts the data that the current record's back pointer leads to into it.
func (r *Reader) follow() error {
	source, data, err := r.resolve(r.rec.Pos, r.rec.Oid, uint64(r.rec.Back))
	if err != nil {
		return err
	}
	r.rec.DataTxn = source
	if data == 0 {
		return nil
	}
	b, err := r.aside(data, recordHeaderSize)
	if err != nil {
		return err
	}
	n := parseRecordHeader(b).length
	if n > uint64(r.rec.Pos-data) { // checked by resolve, unless the file has changed
		return damaged(r.name, data, "the record has %d bytes, more than there are", n)
	}
	if n > uint64(cap(r.back)) {
		r.back = make([]byte, n)
	}
	r.rec.Data = r.back[:n]
	if got, err := r.w.r.ReadAt(r.rec.Data, data+recordHeaderSize); got < len(r.rec.Data) {
		return fmt.Errorf("read %d bytes of %s at %d: %w", n, r.name, data, err)
	}
	return nil
}
