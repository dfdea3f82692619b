package filestorage

import (
	"encoding/binary"
	"errors"

	"s3storage/internal/zodb"
)

// search returns where the next transaction begins that is whole, from pos on,
// or the end of the file. One without records is passed over, as by chance
// other bytes could look so; so are those that do not follow the last tid.
func (r *Reader) search(pos int64) (int64, error) {
	scan := window{r: r.w.r}
	for pos+txnHeaderSize+recordHeaderSize+pointerSize+txnTrailerSize <= r.size {
		n := int(min(windowSize, r.size-pos))
		b, err := scan.at(pos, n, r.size)
		if err != nil {
			return 0, err
		}
		last := n - txnHeaderSize
		for i := 0; i <= last; i++ {
			if !r.plausible(b[i:], pos+int64(i)) {
				continue
			}
			t, err := r.examine(pos+int64(i), r.last)
			switch {
			case err == nil && t.records > 0:
				return pos + int64(i), nil
			case err != nil && !errors.Is(err, zodb.ErrCorrupt) && !errors.Is(err, zodb.ErrUnsupported) && !errors.Is(err, errUnfinished):
				return 0, err
			}
		}
		pos += int64(last) + 1
	}
	return r.size, nil
}

// outlier returns an error if the tid of a whole transaction, which ends at a
// position, is the one that is wrong where the next does not lie above it: the
// next would fit as well without it.
func (r *Reader) outlier(pos int64, t examined) error {
	next := pos + int64(t.header.length) + txnTrailerSize
	if r.size-next < txnHeaderSize {
		return nil
	}
	b, err := r.aside(next, txnHeaderSize)
	if err != nil {
		return err
	}
	if h := parseTxnHeader(b); h.tid > t.header.tid || !r.plausible(b, next) {
		return nil
	}
	if _, err := r.examine(next, r.last); err != nil {
		return nil //nolint:nilerr // then it is the next that is wrong
	}
	return damaged(r.name, pos, "the tid %s of the transaction is too high: those that follow lie below it", t.header.tid)
}

// plausible tells in a few steps that most places are no header.
func (r *Reader) plausible(b []byte, pos int64) bool {
	if status := b[16]; status != ' ' && status != zodb.Packed {
		return false
	}
	length := binary.BigEndian.Uint64(b[8:])
	if length < txnHeaderSize+recordHeaderSize || length > uint64(r.size-pos) {
		return false
	}
	tid := zodb.Tid(binary.BigEndian.Uint64(b))
	return tid > r.last && tid <= zodb.MaxTid
}
