package engine

import (
	"context"
	"errors"
	"slices"

	"s3storage/internal/base"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// find finds the revision that LoadBefore is to return. ok is false, without an
// error, where the object came to be only later.
func (e *Engine) find(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (r revision, next zodb.Tid, ok bool, err error) {
	r, next, ok, err = e.before(ctx, oid, tid)
	if err == nil && (ok && r.deleted || !ok && next == zodb.NoTid) {
		err = &zodb.POSKeyError{Oid: oid}
	}
	return r, next, ok, err
}

// LoadBefore implements zodb.Storage.
func (e *Engine) LoadBefore(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (rev zodb.Revision, ok bool, err error) {
	e.stats.loads.Add(1)
	return e.loadBefore(ctx, oid, tid)
}

func (e *Engine) loadBefore(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (rev zodb.Revision, ok bool, err error) {
	r, next, ok, err := e.find(ctx, oid, tid)
	if err != nil || !ok {
		return rev, false, err
	}
	data, err := e.data(ctx, r)
	return zodb.Revision{Data: data, Serial: r.serial, Next: next}, err == nil, err
}

// LoadBeforeCached implements zodb.CachedLoader.
func (e *Engine) LoadBeforeCached(oid zodb.Oid, tid zodb.Tid) (rev zodb.Revision, ok, hit bool, err error) {
	rev, ok, err = e.loadBefore(nil, oid, tid) //nolint:staticcheck // nil: in memory only
	if errors.Is(err, base.ErrMiss) {
		return rev, false, false, nil
	}
	e.stats.loads.Add(1)
	return rev, ok, true, err
}

// one finds the one revision that exists, also where a pack dropped it lately.
func (e *Engine) one(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (revision, error) {
	r, ok, err := e.at(ctx, oid, serial, true)
	if err == nil && (!ok || r.deleted) {
		err = &zodb.POSKeyError{Oid: oid}
	}
	return r, err
}

// LoadSerial implements zodb.Storage.
func (e *Engine) LoadSerial(ctx context.Context, oid zodb.Oid, serial zodb.Tid) ([]byte, error) {
	r, err := e.one(ctx, oid, serial)
	if err != nil {
		return nil, err
	}
	return e.data(ctx, r)
}

// GetTid implements zodb.Storage.
func (e *Engine) GetTid(ctx context.Context, oid zodb.Oid) (zodb.Tid, error) {
	r, ok, err := e.current(ctx, oid)
	if err == nil && (!ok || r.deleted) {
		err = &zodb.POSKeyError{Oid: oid}
	}
	return r.serial, err
}

// NextObject implements zodb.Storage.
func (e *Engine) NextObject(ctx context.Context, oid zodb.Oid) (o zodb.Object, ok bool, err error) {
	r, ok, err := e.nextObject(ctx, oid)
	if err != nil || !ok {
		return o, false, err
	}
	o = zodb.Object{Oid: r.oid, Serial: r.serial}
	next, more, err := e.nextObject(ctx, r.oid+1)
	if err != nil {
		return o, false, err
	}
	if more {
		o.Next = next.oid
	}
	o.Data, err = e.data(ctx, r)
	return o, err == nil, err
}

// nextObject finds the current revision of the first object at or after oid that
// exists.
func (e *Engine) nextObject(ctx context.Context, oid zodb.Oid) (r revision, ok bool, err error) {
	for ; ; oid = r.oid + 1 {
		ok = false
		e.state.Lock() // Memory.Next may sort
		for _, t := range e.state.tails {
			if found, rev, there := t.index.Next(oid); there && (!ok || found <= r.oid) {
				r, ok = fromTail(found, rev), true
			}
		}
		v := e.state.view
		e.state.Unlock()
		entry, there, err := v.Next(ctx, oid)
		if err != nil {
			if err = e.unlessOutdated(ctx, err, v); err != nil {
				return r, false, err
			}
			r.oid = oid - 1 // look for the same again
			continue
		}
		if there && (!ok || entry.Oid < r.oid) {
			r, ok = fromBase(entry, v), true
		}
		if !ok || !r.deleted {
			return r, ok, nil
		}
	}
}

// History implements zodb.Storage.
func (e *Engine) History(ctx context.Context, oid zodb.Oid, size int) ([]zodb.TxnInfo, error) {
	all, err := e.revisions(ctx, oid)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &zodb.POSKeyError{Oid: oid}
	}
	all = all[len(all)-max(0, min(size, len(all))):]
	entries := make([]zodb.TxnInfo, 0, len(all))
	for _, r := range slices.Backward(all) {
		h, err := e.header(ctx, r)
		if err != nil {
			return nil, err
		}
		entry := zodb.TxnInfo{Tid: r.serial, Meta: h.meta}
		source, err := e.source(ctx, oid, r.serial, h.source)
		if err != nil {
			return nil, err
		}
		if source == zodb.NoTid {
			entry.Size = int64(h.size)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// maxInvalidations is how many oids a client is told of; one that missed more
// had better drop its cache.
const maxInvalidations = 1 << 20

// Invalidations implements zodb.Storage.
func (e *Engine) Invalidations(ctx context.Context, tid zodb.Tid) (last zodb.Tid, oids []zodb.Oid, ok bool) {
	seen := make(map[zodb.Oid]struct{})
	add := func(oid zodb.Oid) {
		if _, again := seen[oid]; !again {
			seen[oid] = struct{}{}
			oids = append(oids, oid)
		}
	}
	for {
		e.state.RLock()
		v := e.state.view
		e.state.RUnlock()
		if tid < v.Rolled {
			return 0, nil, false // what it cached may have been rolled back
		}
		for older := v.Forward(tid+1, v.Last()); len(oids) <= maxInvalidations; {
			t, err := older.Next(ctx)
			if err != nil {
				if err = e.unlessOutdated(ctx, err, v); err == nil {
					break // and look again
				}
				e.opts.Logger.Error("cannot tell a client what has changed; it has to drop its cache",
					"bucket", e.bucket.Properties().Location, "err", err)
				return 0, nil, false
			}
			if t == nil {
				break
			}
			for i := range t.Records {
				add(t.Records[i].Oid)
			}
		}
		if len(oids) > maxInvalidations {
			return 0, nil, false
		}
		// The answer is about this moment.
		e.state.RLock()
		same := e.state.view == v
		last = e.state.last
		recent := e.txnsLocked()
		e.state.RUnlock()
		if !same {
			continue // what was in the tail may be in a segment now
		}
		for _, txns := range recent {
			first, _ := slices.BinarySearchFunc(txns, tid+1, byTid)
			for _, t := range txns[first:] {
				for i := range t.Records {
					add(t.Records[i].Oid)
				}
			}
		}
		return last, oids, len(oids) <= maxInvalidations
	}
}

// txnsLocked returns the transactions of the tail, the oldest first. The lists are
// only ever appended to.
func (e *Engine) txnsLocked() (all [][]*txlog.Transaction) {
	for _, t := range e.state.tails {
		all = append(all, t.txns)
	}
	return all
}
