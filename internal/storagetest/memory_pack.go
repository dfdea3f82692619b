package storagetest

import (
	"context"
	"fmt"

	"s3storage/internal/zodb"
)

// Pack implements zodb.Storage.
//
// As with FileStorage, a revision that a later one shares the data of stays in
// iteration, though it cannot be loaded any more; a pack that drops nothing
// changes nothing; and one that would drop everything for want of a root fails.
func (m *Memory) Pack(_ context.Context, tid zodb.Tid) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.readOnly != nil {
		return m.mu.readOnly
	}
	if tid = min(tid, m.mu.last); tid <= m.mu.packed {
		return nil
	}
	keep, err := m.keepLocked(tid)
	if err != nil {
		return err
	}
	var txns []*txn
	dropped := false
	objects := map[zodb.Oid][]*record{}
	size := int64(0)
	for _, t := range m.mu.txns {
		n := t
		if t.tid <= tid {
			n = &txn{tid: t.tid, meta: t.meta}
			n.meta.Status = zodb.Packed
			for _, r := range t.records {
				if keep[r] {
					n.records = append(n.records, &record{oid: r.oid, tid: r.tid, data: r.data, blob: r.blob, meta: n.meta})
				}
			}
			if dropped = dropped || len(n.records) < len(t.records) || len(n.records) == 0; len(n.records) == 0 {
				continue
			}
		}
		txns = append(txns, n)
		for _, r := range n.records {
			size += r.size()
			if revs := objects[r.oid]; t.tid <= tid && len(revs) > 0 {
				revs[0] = r // the newest of those that stay
			} else {
				objects[r.oid] = append(revs, r)
			}
		}
	}
	if dropped {
		m.mu.txns, m.mu.objects, m.mu.size, m.mu.packed = txns, objects, size, tid
	}
	return nil
}

// keepLocked returns the records up to tid that have to stay.
func (m *Memory) keepLocked(tid zodb.Tid) (map[*record]bool, error) {
	current := map[zodb.Oid]*record{} // at tid
	var later []*record
	for _, t := range m.mu.txns {
		for _, r := range t.records {
			switch {
			case r.tid > tid:
				later = append(later, r)
			case r.data == nil:
				delete(current, r.oid)
			default:
				current[r.oid] = r
			}
		}
	}
	if len(current) > 0 && current[0] == nil {
		return nil, fmt.Errorf("pack to %s: all objects would be garbage: %w", tid, &zodb.POSKeyError{Oid: 0})
	}
	keep := map[*record]bool{}
	todo := []zodb.Oid{0}
	follow := func(r *record) error {
		if r.data == nil {
			return nil
		}
		refs, err := m.references(r.data)
		if err != nil {
			return fmt.Errorf("pack to %s: object %s, revision %s: %w", tid, r.oid, r.tid, err)
		}
		todo = append(todo, refs...)
		return nil
	}
	for _, r := range later {
		if err := follow(r); err != nil {
			return nil, err
		}
		if src := m.recordLocked(r.oid, r.share); src != nil && src.tid <= tid {
			keep[src] = true
		}
	}
	for len(todo) > 0 {
		r := current[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		if r == nil {
			continue
		}
		delete(current, r.oid) // once is enough
		keep[r] = true
		if err := follow(r); err != nil {
			return nil, err
		}
	}
	return keep, nil
}

// recordLocked returns what the transaction did to the object, or nil. A pack
// may have left it to iteration only.
func (m *Memory) recordLocked(oid zodb.Oid, tid zodb.Tid) *record {
	if t := m.txnLocked(tid); t != nil {
		for _, r := range t.records {
			if r.oid == oid {
				return r
			}
		}
	}
	return nil
}
