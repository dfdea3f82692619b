package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A revision is one that was found: in the tail if it has a transaction, else in a
// base.
type revision struct {
	oid     zodb.Oid
	serial  zodb.Tid
	deleted bool
	k       uint32
	txn     *txlog.Transaction
	view    *base.View
}

func fromTail(oid zodb.Oid, r index.Revision[inTail]) revision {
	return revision{oid: oid, serial: r.Serial, deleted: r.Deleted, k: r.Value.k, txn: r.Value.txn}
}

func fromBase(e index.Entry, v *base.View) revision {
	return revision{oid: e.Oid, serial: e.Tid, deleted: e.Deleted, k: e.K, view: v}
}

func (r *revision) entry() index.Entry {
	return index.Entry{Oid: r.oid, Tid: r.serial, K: r.k, Deleted: r.deleted}
}

// A scene is what is settled at a moment, less what is in the tail.
type scene struct {
	view    *base.View
	dropped []*base.View // the bases before packs, of which the rest can still be read, the oldest first
}

// all returns the bases of the scene, the present one first.
func (s scene) all() []*base.View { return append([]*base.View{s.view}, s.dropped...) }

func (e *Engine) sceneLocked() scene {
	s := scene{view: e.state.view}
	for _, old := range e.state.retired {
		if old.readable && time.Now().Before(old.until) {
			s.dropped = append(s.dropped, old.view)
		}
	}
	return s
}

// before finds the newest revision with a serial below tid, also where a pack
// dropped it lately, and the serial of the one that follows. Where there is none,
// ok is false, and next is that of the first one, if there is any. With a nil
// context it looks in memory only; the error is base.ErrMiss if that does not do.
func (e *Engine) before(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (r revision, next zodb.Tid, ok bool, err error) {
	for {
		var s scene
		r, next, ok, s, err = e.tryBefore(ctx, oid, tid)
		if err == nil {
			return r, next, ok, nil
		}
		if err := e.unlessOutdated(ctx, err, s.all()...); err != nil {
			return r, next, false, err
		}
	}
}

// unlessOutdated returns the error that reading one of the bases gave, or why it can
// be read no more; or nil if its files may be gone, and reading the present one may
// help. With a nil context it looks in memory only.
func (e *Engine) unlessOutdated(ctx context.Context, err error, views ...*base.View) error {
	switch {
	case e.outdated(views...):
		return nil
	case e.log != nil || e.opts.At.Snapshot != "" || ctx == nil,
		!errors.Is(err, bucket.ErrNotExist) && !errors.Is(err, zodb.ErrCorrupt):
		return err
	}
	return e.renew(ctx, err, views[0])
}

// readAhead begins to read what most loads need.
func (e *Engine) readAhead() {
	if e.opts.ReadDirectories {
		v := e.present()
		e.janitor.do(func() { _ = v.ReadDirectories(e.janitor.ctx, e.opts.Memory/2) }) // a load that needs one tells what is wrong
	}
}

// present returns the present base.
func (e *Engine) present() *base.View {
	e.state.RLock()
	defer e.state.RUnlock()
	return e.state.view
}

// outdated tells whether files of one of the bases may be gone.
func (e *Engine) outdated(views ...*base.View) bool {
	e.state.RLock()
	defer e.state.RUnlock()
	return slices.ContainsFunc(views, func(v *base.View) bool { return !e.keptLocked(v) })
}

func (e *Engine) tryBefore(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (r revision, next zodb.Tid, ok bool, s scene, err error) {
	e.state.RLock()
	for _, t := range slices.Backward(e.state.tails) {
		found, n, there := t.index.Before(oid, tid)
		if n != zodb.NoTid {
			next = n
		}
		if there {
			e.state.RUnlock()
			return fromTail(oid, found), next, true, s, nil
		}
	}
	s = e.sceneLocked()
	e.state.RUnlock()
	entry, n, ok, err := s.view.Before(ctx, oid, tid)
	if err != nil {
		return r, next, false, s, err
	}
	if n != zodb.NoTid {
		next = n
	}
	if ok {
		r = fromBase(entry, s.view)
	}
	if ok && tid > s.view.Packed {
		return r, next, true, s, nil
	}
	for _, old := range s.dropped {
		entry, n, there, err := old.Before(ctx, oid, tid)
		if err != nil {
			return r, next, false, s, err
		}
		if there && (!ok || r.serial < entry.Tid) {
			r, ok = fromBase(entry, old), true
		}
		if n != zodb.NoTid && (next == zodb.NoTid || n < next) {
			next = n
		}
	}
	return r, next, ok, s, nil
}

// at finds the one revision, which may be a deletion. With packed set it is also
// found where a pack dropped it lately.
func (e *Engine) at(ctx context.Context, oid zodb.Oid, serial zodb.Tid, packed bool) (r revision, ok bool, err error) {
	if serial == zodb.NoTid {
		return r, false, nil
	}
	for {
		var s scene
		r, ok, s, err = e.tryAt(ctx, oid, serial, packed)
		if err == nil {
			return r, ok, nil
		}
		if err := e.unlessOutdated(ctx, err, s.all()...); err != nil {
			return r, false, err
		}
	}
}

func (e *Engine) tryAt(ctx context.Context, oid zodb.Oid, serial zodb.Tid, packed bool) (r revision, ok bool, s scene, err error) {
	e.state.RLock()
	for _, t := range e.state.tails {
		if found, there := t.index.At(oid, serial); there {
			e.state.RUnlock()
			return fromTail(oid, found), true, s, nil
		}
	}
	s = e.sceneLocked()
	e.state.RUnlock()
	views := s.all()
	if !packed {
		views = views[:1]
	}
	for _, v := range views {
		entry, ok, err := v.At(ctx, oid, serial)
		if err != nil || ok {
			return fromBase(entry, v), ok, s, err
		}
	}
	return r, false, s, nil
}

// current finds the newest revision, which may be a deletion. What a pack dropped
// is not there.
func (e *Engine) current(ctx context.Context, oid zodb.Oid) (r revision, ok bool, err error) {
	for {
		e.state.RLock()
		for _, t := range slices.Backward(e.state.tails) {
			if found, there := t.index.Current(oid); there {
				e.state.RUnlock()
				return fromTail(oid, found), true, nil
			}
		}
		v := e.state.view
		e.state.RUnlock()
		entry, _, ok, err := v.Before(ctx, oid, zodb.MaxTid)
		if err == nil {
			return fromBase(entry, v), ok, nil
		}
		if err := e.unlessOutdated(ctx, err, v); err != nil {
			return r, false, err
		}
	}
}

// revisions returns all revisions of an object, the oldest first.
func (e *Engine) revisions(ctx context.Context, oid zodb.Oid) (all []revision, err error) {
	for {
		e.state.RLock()
		v := e.state.view
		var recent []revision
		for _, t := range e.state.tails {
			for _, r := range t.index.Revisions(oid) {
				recent = append(recent, fromTail(oid, r))
			}
		}
		e.state.RUnlock()
		entries, err := v.Revisions(ctx, oid)
		if err != nil {
			if err := e.unlessOutdated(ctx, err, v); err != nil {
				return nil, err
			}
			continue
		}
		for _, entry := range entries {
			all = append(all, fromBase(entry, v))
		}
		return append(all, recent...), nil
	}
}

// A header is what is known of a revision besides its data.
type header struct {
	meta   zodb.TxnMeta
	size   uint32    // of its data
	source zodb.Tid  // of the revision whose data it shared when it was committed, or NoTid
	blob   *blob.Ref // or nil
}

func (e *Engine) header(ctx context.Context, r revision) (header, error) {
	for {
		if r.txn != nil {
			rec := &r.txn.Records[r.k]
			return header{r.txn.Meta, rec.Size, rec.Source, rec.Blob}, nil
		}
		rec, meta, err := r.view.Header(ctx, r.entry())
		if err == nil {
			return header{meta, rec.Size, rec.Source, rec.Blob}, nil
		}
		if err := e.unlessOutdated(ctx, err, r.view); err != nil {
			return header{}, err
		}
		if r, err = e.again(ctx, r); err != nil {
			return header{}, err
		}
	}
}

// again finds a revision anew.
func (e *Engine) again(ctx context.Context, r revision) (revision, error) {
	now, ok, err := e.at(ctx, r.oid, r.serial, true)
	if err == nil && !ok {
		err = &zodb.POSKeyError{Oid: r.oid}
	}
	return now, err
}

// source returns the serial of the revision whose data a revision shares, or
// NoTid. A packed revision has its data to itself, as with FileStorage.
func (e *Engine) source(ctx context.Context, oid zodb.Oid, serial, source zodb.Tid) (zodb.Tid, error) {
	e.state.RLock()
	packed := e.state.view.Packed
	e.state.RUnlock()
	if source == zodb.NoTid || serial <= packed {
		return zodb.NoTid, nil
	}
	_, ok, err := e.at(ctx, oid, source, false)
	if err != nil || !ok {
		return zodb.NoTid, err
	}
	return source, nil
}

// data returns the data of a revision that is no deletion. For a nil context see
// before.
func (e *Engine) data(ctx context.Context, r revision) ([]byte, error) {
	for first := true; ; first = false {
		if r.txn == nil {
			data, err := e.baseData(ctx, r)
			if err == nil || ctx == nil {
				return data, err
			}
			if !first { // else it may be another's read, of files that are gone by now
				if err := e.unlessOutdated(ctx, err, r.view); err != nil {
					return nil, e.damage(err, r.oid, r.serial)
				}
			}
			if r, err = e.again(ctx, r); err != nil {
				return nil, err
			}
			continue
		}
		rec := &r.txn.Records[r.k]
		switch rec.Kind {
		case txlog.RecordData:
			return rec.Data, nil
		case txlog.RecordPayload:
			data, err := e.payload(ctx, r.txn, rec)
			if errors.Is(err, bucket.ErrNotExist) {
				if gone := e.unlessOutdated(ctx, err, e.present()); gone != nil {
					err = gone
				}
				if now, e := e.again(ctx, r); e == nil && now.txn == nil { // it is in a segment by now
					r = now
					continue
				}
			}
			return data, e.damage(err, r.oid, r.serial)
		}
		// It shares data with an earlier one.
		source, ok, err := e.at(ctx, r.oid, rec.Source, true)
		switch {
		case err != nil:
			return nil, err
		case !ok || source.deleted || source.serial >= r.serial:
			return nil, fmt.Errorf("the log is %w: revision %s of object %s shares the data of revision %s, which is not there",
				zodb.ErrCorrupt, r.serial, r.oid, rec.Source)
		}
		r = source
	}
}

// baseData returns the data of a revision in a base.
func (e *Engine) baseData(ctx context.Context, r revision) ([]byte, error) {
	key := cache.Key{A: uint64(r.oid), B: uint64(r.serial)}
	if it, ok := e.cache.Cached(key); ok {
		return it.(cache.Data), nil
	}
	if ctx == nil {
		data, err := r.view.Data(nil, r.entry()) //nolint:staticcheck // see View
		if err == nil {
			e.cache.Add(key, cache.Data(data))
		}
		return data, err
	}
	it, err := e.cache.Get(ctx, key, func(ctx context.Context) (cache.Item, error) {
		data, err := r.view.Data(ctx, r.entry())
		return cache.Data(data), err
	})
	data, _ := it.(cache.Data)
	return data, err
}

// payload reads data from a payload object.
func (e *Engine) payload(ctx context.Context, txn *txlog.Transaction, rec *txlog.Record) ([]byte, error) {
	name := txn.Payloads[rec.Payload].Name()
	key := cache.Key{Name: name, A: uint64(rec.Span.Offset)}
	if it, ok := e.cache.Cached(key); ok {
		return it.(cache.Data), nil
	}
	if ctx == nil {
		return nil, base.ErrMiss
	}
	it, err := e.cache.Get(ctx, key, func(ctx context.Context) (cache.Item, error) {
		data, err := txlog.ReadRecord(ctx, e.bucket, name, rec.Span, rec.Oid)
		return cache.Data(data), err
	})
	data, _ := it.(cache.Data)
	return data, err
}

// damage logs an error, if there is one, and says what could not be read. That
// something is not in memory is none.
func (e *Engine) damage(err error, oid zodb.Oid, serial zodb.Tid) error {
	if err == nil || errors.Is(err, base.ErrMiss) {
		return err
	}
	err = fmt.Errorf("loading object %s, revision %s: %w", oid, serial, err)
	if !errors.Is(err, context.Canceled) {
		e.opts.Logger.Error("cannot read a record", "bucket", e.bucket.Properties().Location, "err", err)
	}
	return err
}
