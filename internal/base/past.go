package base

import (
	"context"
	"slices"

	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Until returns a base like b of which nothing above a tid is part. Its number of
// objects is still that of b: see [View.Count].
func (b *Base) Until(tid zodb.Tid) *Base {
	past := *b
	past.Segments, past.Tables = nil, nil
	for _, s := range b.Segments {
		if s.First <= tid {
			if s.End() > tid {
				s.Limit = tid
			}
			past.Segments = append(past.Segments, s)
		}
	}
	for _, t := range b.Tables {
		if t.First <= tid {
			if t.End() > tid {
				t.Limit = tid
			}
			past.Tables = append(past.Tables, t)
		}
	}
	return &past
}

// Elsewhere returns a base for another database that has the files of b, which are
// in the bucket of that location or in the origins of b.
func (b *Base) Elsewhere(db txlog.DatabaseID, location string) *Base {
	out := *b
	out.Origins = append([]Origin{{Database: db, Location: location}}, b.Origins...)
	out.Segments, out.Tables, out.Snapshots, out.Rewrites = slices.Clone(b.Segments), slices.Clone(b.Tables), nil, nil
	for i := range out.Segments {
		out.Segments[i].Origin++
	}
	for i := range out.Tables {
		out.Tables[i].Origin++
	}
	return &out
}

// Count counts the objects that exist. It reads all tables.
func (v *View) Count(ctx context.Context) (n int64, err error) {
	oid, exists := zodb.Oid(0), false
	for e, err := range v.Entries(ctx, 0) {
		if err != nil {
			return 0, err
		}
		if e.Oid != oid && exists {
			n++
		}
		oid, exists = e.Oid, !e.Deleted
	}
	if exists {
		n++
	}
	return n, nil
}
