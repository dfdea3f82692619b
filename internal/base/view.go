package base

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// A View finds what is in a base. It does not change and is for any number of
// goroutines. Where a method takes a context, a nil one has it look in memory
// only; the error is ErrMiss then if that does not do.
//
// Damage is an error of the class zodb.ErrCorrupt that names the file.
type View struct {
	*Base
	r      *Reader
	segs   []*seg
	tables []*table
	places []place // of a branch: this bucket and the origins; else empty
}

// ErrMiss says that what was asked for is not in memory.
var ErrMiss = errMiss

// View returns the view of a base.
func (r *Reader) View(ctx context.Context, b *Base) (*View, error) {
	places := []place{{r.Bucket, r.Database}}
	for _, o := range b.Origins {
		other, err := r.Open(ctx, o.Location)
		if err != nil {
			return nil, fmt.Errorf("opening the bucket that holds a part of this database, a branch: %w", err)
		}
		places = append(places, place{other, o.Database})
	}
	v := &View{Base: b, r: r}
	if len(places) > 1 {
		v.places = places
	}
	for _, s := range b.Segments {
		v.segs = append(v.segs, &seg{s, places[s.Origin]})
	}
	for _, t := range b.Tables {
		v.tables = append(v.tables, &table{Table: t, from: places[t.Origin], whole: t.Size <= wholeTable})
	}
	return v, nil
}

// Last returns the tid of the newest transaction in the base's segments.
func (v *View) Last() zodb.Tid {
	if n := len(v.segs); n > 0 {
		return v.segs[n-1].End()
	}
	return zodb.NoTid
}

// Before returns the newest revision of the object with a serial below tid, and
// the serial of the one that follows, NoTid if none does. ok is false where
// there is none; then next is that of the first, if there is any.
func (v *View) Before(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (e index.Entry, next zodb.Tid, ok bool, err error) {
	for i := len(v.tables) - 1; i >= 0; i-- {
		t := v.tables[i]
		if oid > t.MaxOid {
			continue
		}
		e, n, ok, err := v.r.before(ctx, t, oid, tid)
		if err != nil {
			return e, next, false, err
		}
		if n != zodb.NoTid {
			next = n
		}
		if ok {
			return e, next, true, nil
		}
	}
	return e, next, false, nil
}

// before does it in one table.
func (r *Reader) before(ctx context.Context, t *table, oid zodb.Oid, tid zodb.Tid) (e index.Entry, next zodb.Tid, ok bool, err error) {
	if tid == zodb.NoTid {
		tid = 1 // no revision lies below either
	}
	end := t.End()
	if t.Limit != zodb.NoTid {
		tid = min(tid, end+1)
	}
	ls, err := r.leaves(ctx, t)
	if err != nil {
		return e, next, false, err
	}
	i, found := ls.dir.Find(oid, tid-1)
	if !found {
		i = 0
	}
	l, err := ls.leaf(ctx, i)
	if err != nil {
		return e, next, false, err
	}
	e, ok, next, more := l.Before(oid, tid)
	if more && next == zodb.NoTid && tid <= end && i+1 < ls.dir.Leaves() {
		if l, err = ls.leaf(ctx, i+1); err != nil {
			return e, next, false, err
		}
		for first := range l.From(oid, tid) {
			if first.Oid == oid {
				next = first.Tid
			}
			break
		}
	}
	if next > end {
		next = zodb.NoTid
	}
	return e, next, ok, nil
}

// At returns the revision of exactly that serial.
func (v *View) At(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (e index.Entry, ok bool, err error) {
	for _, t := range v.tables {
		if t.First <= serial && serial <= t.End() && oid <= t.MaxOid {
			e, _, ok, err = v.r.before(ctx, t, oid, serial+1)
			return e, ok && e.Tid == serial, err
		}
	}
	return e, false, nil
}

// Revisions returns all revisions of the object, the oldest first.
func (v *View) Revisions(ctx context.Context, oid zodb.Oid) (all []index.Entry, err error) {
	for _, t := range v.tables {
		ls, err := v.r.leaves(ctx, t)
		if err != nil {
			return nil, err
		}
		i, _ := ls.dir.Find(oid, 0)
		for done := false; i < ls.dir.Leaves() && !done; i++ {
			l, err := ls.leaf(ctx, i)
			if err != nil {
				return nil, err
			}
			for e := range l.From(oid, 0) {
				if done = e.Oid != oid; done {
					break
				}
				if e.Tid <= t.End() {
					all = append(all, e)
				}
			}
		}
	}
	return all, nil
}

// Next returns the newest revision of the first object at or after oid that has
// any.
func (v *View) Next(ctx context.Context, oid zodb.Oid) (e index.Entry, ok bool, err error) {
	for _, t := range v.tables { // the newest last
		found, there, err := v.r.next(ctx, t, oid)
		if err != nil {
			return e, false, err
		}
		if there && (!ok || found.Oid <= e.Oid) {
			e, ok = found, true
		}
	}
	return e, ok, nil
}

// next does it in one table.
func (r *Reader) next(ctx context.Context, t *table, oid zodb.Oid) (e index.Entry, ok bool, err error) {
	if oid > t.MaxOid {
		return e, false, nil
	}
	ls, err := r.leaves(ctx, t)
	if err != nil {
		return e, false, err
	}
	i, _ := ls.dir.Find(oid, 0)
	for ; i < ls.dir.Leaves(); i++ {
		l, err := ls.leaf(ctx, i)
		if err != nil {
			return e, false, err
		}
		for f := range l.From(oid, 0) {
			if ok && f.Oid != e.Oid {
				return e, true, nil
			}
			if f.Tid <= t.End() {
				e, ok = f, true
			}
		}
	}
	return e, ok, nil
}

// segment returns the segment in which a transaction is.
func (v *View) segment(tid zodb.Tid) (*seg, error) {
	i, _ := slices.BinarySearchFunc(v.segs, tid, func(s *seg, tid zodb.Tid) int { return cmp.Compare(s.End(), tid) })
	if i == len(v.segs) || tid < v.segs[i].First {
		return nil, fmt.Errorf("%s is %w: the index knows of transaction %s, which is in none of its segments", Name(v.ID), zodb.ErrCorrupt, tid)
	}
	return v.segs[i], nil
}

// Data returns the data of a revision that is no deletion.
func (v *View) Data(ctx context.Context, e index.Entry) ([]byte, error) {
	s, err := v.segment(e.Tid)
	if err != nil {
		return nil, err
	}
	dir, err := v.r.directory(ctx, s)
	if err != nil {
		return nil, err
	}
	b, ok := dir.Find(e.Tid, e.K)
	if !ok {
		return nil, missing(s, e)
	}
	raw, err := v.r.block(ctx, s, dir, b)
	if err != nil {
		return nil, err
	}
	return dir.Record(b, raw, e.Tid, e.K, e.Oid)
}

func missing(s *seg, e index.Entry) error {
	return fmt.Errorf("%s is %w: record %d of transaction %s, of object %s, is not in it", s.ID.Name(), zodb.ErrCorrupt, e.K, e.Tid, e.Oid)
}

// Header returns what is known of a revision besides its data.
func (v *View) Header(ctx context.Context, e index.Entry) (rec segment.Record, meta zodb.TxnMeta, err error) {
	s, err := v.segment(e.Tid)
	if err != nil {
		return rec, meta, err
	}
	dir, err := v.r.directory(ctx, s)
	if err != nil {
		return rec, meta, err
	}
	found := errors.New("found")
	for i := dir.FindHeaders(e.Tid); i < len(dir.Headers()); i++ {
		b := dir.Headers()[i]
		raw, err := v.r.block(ctx, s, dir, b)
		if err != nil {
			return rec, meta, err
		}
		past := false
		err = dir.DecodeHeaders(b, raw, func(t *segment.Txn, _ bool) error {
			past = t.Tid > e.Tid
			if t.Tid != e.Tid {
				return nil
			}
			if n, ok := slices.BinarySearchFunc(t.Records, e.K, func(r segment.Record, k uint32) int { return cmp.Compare(r.K, k) }); ok {
				rec, meta = t.Records[n], t.Meta
				return found
			}
			return nil
		})
		switch {
		case errors.Is(err, found) && rec.Oid == e.Oid:
			return rec, meta, nil
		case err != nil && !errors.Is(err, found):
			return rec, meta, err
		case past || err != nil:
			return rec, meta, missing(s, e)
		}
	}
	return rec, meta, missing(s, e)
}

// Blob opens a blob that belongs to a revision of the base or of a later one. In a
// branch it may be in the bucket of another database.
func (v *View) Blob(ctx context.Context, ref *blob.Ref) (*blob.Reader, error) {
	own := place{v.r.Bucket, v.r.Database}
	for _, from := range v.places {
		_, err := from.GetRange(ctx, ref.ID.Name(), 0, 1)
		if err == nil {
			own = from
			break
		}
		if !errors.Is(err, bucket.ErrNotExist) {
			return nil, err
		}
	}
	return blob.Open(ctx, own.Bucket, v.r.Disk, own.database, ref.ID, ref.Size), nil
}

// fetch reads ranges of a file without the caches.
func fetch(from place, name string) func(ctx context.Context, offset, n int64) ([]byte, error) {
	return func(ctx context.Context, offset, n int64) (data []byte, err error) {
		err = bucket.Rereading(ctx, func() error {
			data, err = exactly(ctx, from, name, offset, n)
			return err
		})
		return data, err
	}
}
