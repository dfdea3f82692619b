package index

import (
	"fmt"
	"iter"
	"slices"

	"s3storage/internal/zodb"
)

// Merge goes over the entries of all sources in order. Each source has its own
// in order. It ends after the first error; an entry that two have is one, of the
// class zodb.ErrCorrupt.
func Merge(sources ...iter.Seq2[Entry, error]) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var heads []*head
		defer func() {
			for _, h := range heads {
				h.stop()
			}
		}()
		for _, s := range sources {
			h := &head{}
			h.pull, h.stop = iter.Pull2(s)
			if h.advance() {
				heads = append(heads, h)
			}
		}
		var last Entry
		for len(heads) > 0 {
			least := 0
			for i, h := range heads {
				if h.err != nil || heads[least].err == nil && h.before(heads[least].Oid, heads[least].Tid) {
					least = i
				}
			}
			h := heads[least]
			if h.err == nil && last.Tid != zodb.NoTid && !last.before(h.Oid, h.Tid) {
				h.err = fmt.Errorf("merging %d index tables: object %s of transaction %s comes after object %s of transaction %s: they are %w",
					len(sources), h.Oid, h.Tid, last.Oid, last.Tid, zodb.ErrCorrupt)
			}
			if h.err != nil {
				yield(Entry{}, h.err)
				return
			}
			if !yield(h.Entry, nil) {
				return
			}
			last = h.Entry
			if !h.advance() {
				heads = slices.Delete(heads, least, least+1)
			}
		}
	}
}

// A head is the next entry of a source, or its error.
type head struct {
	Entry
	err  error
	pull func() (Entry, error, bool)
	stop func()
}

// advance goes to the next entry. It is false if there is none, and the source at
// its end.
func (h *head) advance() (ok bool) {
	h.Entry, h.err, ok = h.pull()
	return ok
}
