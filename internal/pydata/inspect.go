package pydata

import (
	"fmt"
	"slices"
	"sync"

	"s3storage/internal/pickle"
	"s3storage/internal/zodb"
)

// A Summary is what a storage keeps of a record beside its bytes.
type Summary struct {
	// Class is the name of the object's class, "module.name" as the record
	// spells it, of at most 1,000 printable bytes. It is empty where the record
	// does not tell.
	Class string

	// References are the objects of its own database that the record refers to,
	// each once, in the order in which they appear first. Weak references do
	// not count.
	References []zodb.Oid
}

// Inspect reads what a record tells of its object. The record of a deletion has
// no data and is not to be passed. A class that cannot be told is no error;
// references that cannot are one, which names the offset in the record, once it
// is inflated where it was compressed. The class is told then, too, if it can be.
//
// It needs memory in proportion to the length of the record, and may be called
// from any number of goroutines.
func Inspect(record []byte) (Summary, error) {
	data, err := inflated(record, maxRecord)
	if err != nil {
		return Summary{}, fmt.Errorf("references of a record of %d bytes: %w", len(record), err)
	}
	w := walkers.Get().(*walker)
	defer w.release()
	w.data, w.scan = data, pickle.NewScanner(data, 0)
	var s Summary
	v, err := w.pickle() // the class
	if err == nil {
		s.Class = w.className(v)
		_, err = w.pickle() // the state
	}
	if err == nil && w.scan.Rest() > 0 {
		err = fmt.Errorf("%d bytes follow the two pickles", w.scan.Rest())
	}
	if err != nil {
		return Summary{Class: s.Class}, fmt.Errorf("references of a record, opcode at byte %d of %d: %w", w.scan.Offset(), len(data), err)
	}
	s.References = slices.Clone(w.refs.oids)
	return s, nil
}

// walkers are kept for their buffers: many records are short, and there are
// many.
var walkers = sync.Pool{New: func() any { return new(walker) }}

// keep bounds the length of a buffer that is kept.
const keep = 4096

func (w *walker) release() {
	if w.stack.Size() > keep || cap(w.refs.oids) > keep {
		return
	}
	w.stack.Reset()
	*w = walker{stack: w.stack, refs: references{oids: w.refs.oids[:0]}, names: w.names}
	walkers.Put(w)
}
