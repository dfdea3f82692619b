package engine

import (
	"cmp"
	"context"
	"slices"

	"s3storage/internal/pydata"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// Transactions calls fn for the transactions from one tid to another, both
// included, with the number of their records, as long as fn asks for more.
func (e *Engine) Transactions(ctx context.Context, from, to zodb.Tid, back bool, fn func(t zodb.TxnInfo, records int) (more bool, err error)) error {
	for h := e.history(from, to, back); ; {
		t, err := h.next(ctx)
		if err != nil || t == nil {
			return err
		}
		more, err := fn(zodb.TxnInfo{Tid: t.tid, Meta: t.meta, Size: t.size}, len(t.records))
		if err != nil || !more {
			return err
		}
	}
}

// A Class says how much there is of the objects of one class. The name is empty
// where it is not known. Bytes are of data, without blobs.
type Class struct {
	Name                  string
	Current, CurrentBytes int64 // of current revisions
	All, AllBytes         int64
}

// Classes returns the classes of objects, those with the most bytes of current
// revisions first. It is for an engine that was opened for reading only.
func (e *Engine) Classes(ctx context.Context) ([]Class, error) {
	e.state.RLock()
	v := e.state.view
	recent := slices.Concat(e.txnsLocked()...)
	e.state.RUnlock()
	found := make(map[string]*Class)
	seen := newOidSet() // objects whose newest revision was met
	add := func(name string, size uint32, deleted, current bool) {
		if deleted {
			return
		}
		c := found[name]
		if c == nil {
			c = &Class{Name: name}
			found[name] = c
		}
		c.All++
		c.AllBytes += int64(size)
		if current {
			c.Current++
			c.CurrentBytes += int64(size)
		}
	}
	for _, t := range slices.Backward(recent) {
		for _, r := range tailTxn(t).records {
			rec := &t.Records[r.k]
			name := ""
			if !r.deleted {
				data, err := e.data(ctx, r)
				if err != nil {
					return nil, err
				}
				s, _ := pydata.Inspect(data) // where it cannot be told it is empty
				name = s.Class
			}
			add(name, rec.Size, r.deleted, !seen.has(rec.Oid))
			seen.add(rec.Oid)
		}
	}
	for i := range slices.Backward(v.Segments) {
		// Within a segment the newest revision comes last: these are found first.
		newest := make(map[zodb.Oid]zodb.Tid)
		err := v.Scan(ctx, i, segment.HeadersOnly, func(t *segment.Txn) error {
			for i := range t.Records {
				if oid := t.Records[i].Oid; !seen.has(oid) {
					newest[oid] = t.Tid
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = v.Scan(ctx, i, segment.WithReferences, func(t *segment.Txn) error {
			for i := range t.Records {
				r := &t.Records[i]
				add(r.Class, r.Size, r.Deleted, newest[r.Oid] == t.Tid)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for oid := range newest {
			seen.add(oid)
		}
	}
	all := make([]Class, 0, len(found))
	for _, c := range found {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Class) int {
		return cmp.Or(cmp.Compare(b.CurrentBytes, a.CurrentBytes), cmp.Compare(b.AllBytes, a.AllBytes), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// BlobSize returns the size of the blob that belongs to a revision, if one does.
func (e *Engine) BlobSize(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (size int64, ok bool, err error) {
	r, err := e.one(ctx, oid, serial)
	if err != nil {
		return 0, false, err
	}
	h, err := e.header(ctx, r)
	if err != nil || h.blob == nil {
		return 0, false, err
	}
	return h.blob.Size, true, nil
}
