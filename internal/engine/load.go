package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// lookup finds the revision that LoadBefore is to return, less its data. ok is
// false, without an error, where the object came to be only later.
func (e *Engine) lookup(oid zodb.Oid, tid zodb.Tid) (r index.Revision, next zodb.Tid, name string, ok bool, err error) {
	e.state.RLock()
	defer e.state.RUnlock()
	r, next, ok, known := e.state.index.Before(oid, tid)
	for _, old := range e.state.retired {
		r2, next2, ok2, known2 := old.index.Before(oid, tid)
		if ok2 && (!ok || r.Serial < r2.Serial) {
			r, ok = r2, true
		}
		if next2 != zodb.NoTid && (next == zodb.NoTid || next2 < next) {
			next = next2
		}
		known = known || known2
	}
	if !known || ok && r.Deleted() {
		return r, next, "", false, &zodb.POSKeyError{Oid: oid}
	}
	if ok {
		name = e.state.objects[r.Object].name
	}
	return r, next, name, ok, nil
}

// atLocked finds the one revision, also where a pack dropped it lately.
func (e *Engine) atLocked(oid zodb.Oid, serial zodb.Tid) (r index.Revision, err error) {
	r, ok := e.state.index.At(oid, serial)
	for _, old := range e.state.retired {
		if !ok {
			r, ok = old.index.At(oid, serial)
		}
	}
	if !ok || r.Deleted() {
		return r, &zodb.POSKeyError{Oid: oid}
	}
	return r, nil
}

// LoadBefore implements zodb.Storage.
func (e *Engine) LoadBefore(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (rev zodb.Revision, ok bool, err error) {
	e.stats.loads.Add(1)
	r, next, name, ok, err := e.lookup(oid, tid)
	if err != nil || !ok {
		return rev, ok, err
	}
	data, err := e.read(ctx, name, r, oid)
	if err != nil {
		return rev, false, err
	}
	return zodb.Revision{Data: data, Serial: r.Serial, Next: next}, true, nil
}

// LoadBeforeCached implements zodb.CachedLoader.
func (e *Engine) LoadBeforeCached(oid zodb.Oid, tid zodb.Tid) (rev zodb.Revision, ok, hit bool, err error) {
	r, next, name, ok, err := e.lookup(oid, tid)
	if err == nil && ok {
		data, cached := e.cache.Cached(cache.Key{Name: name, Offset: r.Offset})
		if !cached {
			return rev, false, false, nil
		}
		rev = zodb.Revision{Data: data, Serial: r.Serial, Next: next}
	}
	e.stats.loads.Add(1)
	return rev, ok, true, err
}

// read returns the data of a revision.
func (e *Engine) read(ctx context.Context, name string, r index.Revision, oid zodb.Oid) ([]byte, error) {
	span := txlog.Span{Offset: r.Offset, Size: r.Size}
	return e.cache.Get(ctx, cache.Key{Name: name, Offset: r.Offset}, func(ctx context.Context) ([]byte, error) {
		data, err := txlog.ReadRecord(ctx, e.bucket, name, span, oid)
		if err != nil {
			err = fmt.Errorf("loading object %s, revision %s: %w", oid, r.Serial, err)
			e.opts.Logger.Error("cannot read a record", "bucket", e.bucket.Properties().Location, "err", err)
		}
		return data, err
	})
}

// LoadSerial implements zodb.Storage.
func (e *Engine) LoadSerial(ctx context.Context, oid zodb.Oid, serial zodb.Tid) ([]byte, error) {
	e.state.RLock()
	r, err := e.atLocked(oid, serial)
	if err != nil {
		e.state.RUnlock()
		return nil, err
	}
	name := e.state.objects[r.Object].name
	e.state.RUnlock()
	return e.read(ctx, name, r, oid)
}

// GetTid implements zodb.Storage.
func (e *Engine) GetTid(_ context.Context, oid zodb.Oid) (zodb.Tid, error) {
	e.state.RLock()
	defer e.state.RUnlock()
	r, ok := e.state.index.Current(oid)
	if !ok || r.Deleted() {
		return 0, &zodb.POSKeyError{Oid: oid}
	}
	return r.Serial, nil
}

// NextObject implements zodb.Storage.
func (e *Engine) NextObject(ctx context.Context, oid zodb.Oid) (o zodb.Object, ok bool, err error) {
	e.state.Lock()
	found, r, ok := e.state.index.Next(oid)
	if !ok {
		e.state.Unlock()
		return o, false, nil
	}
	next, _, _ := e.state.index.Next(found + 1)
	name := e.state.objects[r.Object].name
	e.state.Unlock()
	data, err := e.read(ctx, name, r, found)
	return zodb.Object{Oid: found, Data: data, Serial: r.Serial, Next: next}, err == nil, err
}

// History implements zodb.Storage.
func (e *Engine) History(_ context.Context, oid zodb.Oid, size int) ([]zodb.TxnInfo, error) {
	e.state.RLock()
	defer e.state.RUnlock()
	if _, known := e.state.index.Current(oid); !known {
		return nil, &zodb.POSKeyError{Oid: oid}
	}
	revisions := e.state.index.Newest(oid, size)
	entries := make([]zodb.TxnInfo, len(revisions))
	for i, r := range revisions {
		n, _ := slices.BinarySearchFunc(e.state.txns, r.Serial, byTid)
		entries[i] = zodb.TxnInfo{Tid: r.Serial, Meta: e.state.txns[n].meta()}
		if e.sourceLocked(oid, r.Serial) == zodb.NoTid {
			entries[i].Size = int64(r.Data)
		}
	}
	return entries, nil
}

// sourceLocked returns the serial of the revision whose data the one of the
// given serial shares, or NoTid. A packed revision has its data to itself, as
// with FileStorage.
func (e *Engine) sourceLocked(oid zodb.Oid, serial zodb.Tid) zodb.Tid {
	if serial <= e.state.packed {
		return zodb.NoTid
	}
	source := e.state.extras[txlog.Dropped{Oid: oid, Serial: serial}].source
	if _, ok := e.state.index.At(oid, source); !ok {
		return zodb.NoTid
	}
	return source
}

func (s *settledTxn) meta() zodb.TxnMeta {
	return zodb.TxnMeta{
		User:        []byte(s.user.Value()),
		Description: []byte(s.description.Value()),
		Extension:   []byte(s.extension.Value()),
		Status:      s.status,
	}
}

// maxInvalidations is how many oids a client is told of; one that missed more
// had better drop its cache.
const maxInvalidations = 1 << 20

// Invalidations implements zodb.Storage.
func (e *Engine) Invalidations(tid zodb.Tid) (last zodb.Tid, oids []zodb.Oid, ok bool) {
	e.state.RLock()
	first, _ := slices.BinarySearchFunc(e.state.txns, tid+1, byTid)
	missed := e.state.txns[first:] // only ever appended to
	last = e.state.last
	e.state.RUnlock()
	seen := make(map[zodb.Oid]struct{})
	for _, t := range missed {
		for _, oid := range t.oids {
			if _, again := seen[oid]; !again {
				seen[oid] = struct{}{}
				oids = append(oids, oid)
			}
		}
		if len(oids) > maxInvalidations {
			return 0, nil, false
		}
	}
	return last, oids, true
}

// byTid orders settled transactions for a binary search.
func byTid(s settledTxn, tid zodb.Tid) int { return cmp.Compare(s.tid, tid) }
