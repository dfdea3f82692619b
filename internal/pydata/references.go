package pydata

import (
	"fmt"
	"slices"
	"sync"

	"s3storage/internal/pickle"
	"s3storage/internal/zodb"
)

// References returns the objects of its own database that the record refers to,
// each once, in the order in which they appear first. Weak references do not
// count. The record of a deletion has no data and is not to be passed. An
// error names the offset in the record, once it is inflated where it was
// compressed.
//
// It needs memory in proportion to the length of the record, and may be called
// from any number of goroutines.
func References(record []byte) ([]zodb.Oid, error) {
	data, err := inflated(record, maxRecord)
	if err != nil {
		return nil, fmt.Errorf("references of a record of %d bytes: %w", len(record), err)
	}
	w := walkers.Get().(*walker)
	defer w.release()
	w.data, w.scan = data, pickle.NewScanner(data, 0)
	for range 2 { // the class, the state
		if err = w.pickle(); err != nil {
			break
		}
	}
	if err == nil && w.scan.Rest() > 0 {
		err = fmt.Errorf("%d bytes follow the two pickles", w.scan.Rest())
	}
	if err != nil {
		return nil, fmt.Errorf("references of a record, opcode at byte %d of %d: %w", w.scan.Offset(), len(data), err)
	}
	return slices.Clone(w.refs.oids), nil
}

// walkers are kept for their buffers: many records are short, and there are
// many.
var walkers = sync.Pool{New: func() any { return new(walker) }}

// keep bounds the length of a buffer that is kept.
const keep = 4096

func (w *walker) release() {
	if cap(w.stack) > keep || cap(w.marks) > keep || cap(w.memo) > keep || cap(w.refs.oids) > keep {
		return
	}
	*w = walker{stack: w.stack[:0], marks: w.marks[:0], memo: w.memo[:0],
		refs: references{oids: w.refs.oids[:0]}}
	walkers.Put(w)
}

// references are distinct oids in the order of their arrival.
type references struct {
	oids []zodb.Oid
	seen map[zodb.Oid]bool // once there are more than few
}

const few = 32

func (r *references) add(oid zodb.Oid) {
	if r.seen == nil && len(r.oids) >= few {
		r.seen = make(map[zodb.Oid]bool, 4*few)
		for _, o := range r.oids {
			r.seen[o] = true
		}
	}
	if r.seen != nil && r.seen[oid] || r.seen == nil && slices.Contains(r.oids, oid) {
		return
	}
	if r.seen != nil {
		r.seen[oid] = true
	}
	r.oids = append(r.oids, oid)
}
