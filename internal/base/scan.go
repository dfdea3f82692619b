package base

import (
	"context"
	"iter"

	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// Scan goes over the transactions of one segment, past the caches: see
// [segment.Directory.Scan].
func (v *View) Scan(ctx context.Context, i int, parts segment.Parts, fn func(*segment.Txn) error) error {
	return v.ScanWithout(ctx, i, parts, nil, fn)
}

// ScanWithout does what Scan does, but the records of some keys may come without
// their data: see [segment.Directory.ScanWithout].
func (v *View) ScanWithout(ctx context.Context, i int, parts segment.Parts, without []segment.Key, fn func(*segment.Txn) error) error {
	s := v.segs[i]
	dir, err := v.r.directory(ctx, s)
	if err != nil {
		return err
	}
	return dir.ScanWithout(ctx, fetch(s.from, s.ID.Name()), parts, without, func(t *segment.Txn) error {
		if t.Tid > s.End() {
			return nil
		}
		return fn(t)
	})
}

// Entries returns the entries of the tables from the one of that number on, in the
// order of oids and tids, past the caches.
func (v *View) Entries(ctx context.Context, from int) iter.Seq2[index.Entry, error] {
	var sources []iter.Seq2[index.Entry, error]
	for _, t := range v.tables[from:] {
		sources = append(sources, v.entries(ctx, t))
	}
	return index.Merge(sources...)
}

func (v *View) entries(ctx context.Context, t *table) iter.Seq2[index.Entry, error] {
	return func(yield func(index.Entry, error) bool) {
		dir, err := v.r.tableDirectory(ctx, t)
		if err != nil {
			yield(index.Entry{}, err)
			return
		}
		for e, err := range dir.Scan(ctx, fetch(t.from, t.ID.Name()), zodb.Oid(0)) {
			if err == nil && e.Tid > t.End() {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// OpenSegment reads the directory of one segment, and checks it.
func (v *View) OpenSegment(ctx context.Context, i int) error {
	_, err := v.r.directory(ctx, v.segs[i])
	return err
}

// CheckSegment reads and checks every byte of one segment.
func (v *View) CheckSegment(ctx context.Context, i int) error {
	s := v.segs[i]
	dir, err := v.r.directory(ctx, s)
	if err != nil {
		return err
	}
	return bucket.Rereading(ctx, func() error { return dir.Check(ctx, fetch(s.from, s.ID.Name())) })
}

// OpenTable reads the directory of one table, and checks it.
func (v *View) OpenTable(ctx context.Context, i int) error {
	_, err := v.r.tableDirectory(ctx, v.tables[i])
	return err
}

// CheckTable reads and checks every byte of one table.
func (v *View) CheckTable(ctx context.Context, i int) error {
	t := v.tables[i]
	dir, err := v.r.tableDirectory(ctx, t)
	if err != nil {
		return err
	}
	return bucket.Rereading(ctx, func() error { return dir.Check(ctx, fetch(t.from, t.ID.Name())) })
}
