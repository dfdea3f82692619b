package base

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A Reader reads parts of the files of bases through caches: index leaves,
// directories and blocks are in memory as they are in the file, but for what had
// to be looked at to use them. It is for any number of goroutines.
type Reader struct {
	Bucket   bucket.Bucket
	Database txlog.DatabaseID
	Memory   *cache.Cache
	Disk     *cache.Disk // or nil

	// Open opens the bucket of another database. It is called once for each
	// location that is met.
	Open func(ctx context.Context, location string) (bucket.Bucket, error)
}

// errMiss says that something is not in memory.
var errMiss = errors.New("not in memory")

// A place is a bucket and the database that files in it belong to.
type place struct {
	bucket.Bucket
	database txlog.DatabaseID
}

// item returns an item from memory, or has it read if there is a context.
func (r *Reader) item(ctx context.Context, k cache.Key, load func(context.Context) (cache.Item, error)) (cache.Item, error) {
	if it, ok := r.Memory.Cached(k); ok {
		return it, nil
	}
	if ctx == nil {
		return nil, errMiss
	}
	return r.Memory.Get(ctx, k, load)
}

// part reads a part of a file, by way of the disk cache. Only what passes check
// is kept; it may be called several times.
func (r *Reader) part(ctx context.Context, from place, name string, offset, n int64, check func([]byte) error) error {
	data, err := r.Disk.Get(ctx, cache.Range{Name: name, Offset: offset, Size: n}, func(ctx context.Context) (data []byte, err error) {
		err = bucket.Rereading(ctx, func() error {
			data, err = exactly(ctx, from, name, offset, n)
			if err != nil {
				return err
			}
			return check(data)
		})
		return data, err
	})
	if err == nil {
		err = check(data)
	}
	return err
}

// exactly reads a range of a file that must be there.
func exactly(ctx context.Context, from place, name string, offset, n int64) ([]byte, error) {
	data, err := from.GetRange(ctx, name, offset, n)
	switch {
	case errors.Is(err, bucket.ErrNotExist):
		return nil, fmt.Errorf("%s in %s is %w: it is missing", name, from.Properties().Location, zodb.ErrCorrupt)
	case err != nil:
		return nil, err
	case int64(len(data)) != n:
		return nil, fmt.Errorf("%s in %s is %w: it ends %d bytes after offset %d, where %d should follow",
			name, from.Properties().Location, zodb.ErrCorrupt, len(data), offset, n)
	}
	return data, nil
}

// A table is an index table that is ready for lookups.
type table struct {
	Table
	from  place
	whole bool // it is small, so that all of it is read at once

	ready atomic.Pointer[leaves] // once it was read
}

// wholeTable is up to which size a table is read at once. There are few such, so
// they stay in memory, as do the directories of all tables.
const wholeTable = 4 << 20

// A wholeItem is a small table in memory.
type wholeItem struct {
	dir    *index.Directory
	leaves []*index.Leaf
	weight int
}

func (w *wholeItem) Weight() int { return w.weight }

const (
	keyDirectory = 1<<63 + iota
	keyWhole
)

func (r *Reader) wholeTable(ctx context.Context, t *table) (*wholeItem, error) {
	name := t.ID.Name()
	it, err := r.item(ctx, cache.Key{Name: name, A: keyWhole}, func(ctx context.Context) (cache.Item, error) {
		var w *wholeItem
		err := r.part(ctx, t.from, name, 0, t.Size, func(data []byte) (err error) {
			w, err = openWhole(t, data)
			return err
		})
		return w, err
	})
	w, _ := it.(*wholeItem)
	return w, err
}

func openWhole(t *table, data []byte) (*wholeItem, error) {
	dir, err := index.ReadDirectory(t.from.database, t.Info, data[len(data)-int(t.Tail):])
	if err != nil {
		return nil, err
	}
	w := &wholeItem{dir: dir, weight: dir.Weight()}
	for i := range dir.Leaves() {
		at := dir.Leaf(i)
		l, err := dir.Open(i, data[at.Offset:][:at.Size])
		if err != nil {
			return nil, err
		}
		w.leaves = append(w.leaves, l)
		w.weight += l.Weight()
	}
	return w, nil
}

func (r *Reader) tableDirectory(ctx context.Context, t *table) (*index.Directory, error) {
	name := t.ID.Name()
	it, err := r.item(ctx, cache.Key{Name: name, A: keyDirectory}, func(ctx context.Context) (cache.Item, error) {
		var dir *index.Directory
		err := r.part(ctx, t.from, name, t.Size-int64(t.Tail), int64(t.Tail), func(data []byte) (err error) {
			dir, err = index.ReadDirectory(t.from.database, t.Info, data)
			return err
		})
		return dir, err
	})
	dir, _ := it.(*index.Directory)
	return dir, err
}

// leaves gives access to the leaves of a table.
type leaves struct {
	r   *Reader
	t   *table
	dir *index.Directory
	all []*index.Leaf // of a small table
}

func (r *Reader) leaves(ctx context.Context, t *table) (*leaves, error) {
	if ls := t.ready.Load(); ls != nil {
		return ls, nil
	}
	ls := &leaves{r: r, t: t}
	if t.whole {
		w, err := r.wholeTable(ctx, t)
		if err != nil {
			return nil, err
		}
		ls.dir, ls.all = w.dir, w.leaves
	} else {
		var err error
		if ls.dir, err = r.tableDirectory(ctx, t); err != nil {
			return nil, err
		}
	}
	t.ready.Store(ls)
	return ls, nil
}

func (ls *leaves) leaf(ctx context.Context, i int) (*index.Leaf, error) {
	if ls.all != nil {
		return ls.all[i], nil
	}
	at := ls.dir.Leaf(i)
	name := ls.t.ID.Name()
	it, err := ls.r.item(ctx, cache.Key{Name: name, A: uint64(at.Offset)}, func(ctx context.Context) (cache.Item, error) {
		var l *index.Leaf
		err := ls.r.part(ctx, ls.t.from, name, at.Offset, int64(at.Size), func(data []byte) (err error) {
			l, err = ls.dir.Open(i, data)
			return err
		})
		return l, err
	})
	l, _ := it.(*index.Leaf)
	return l, err
}

// A seg is a segment that is ready for lookups.
type seg struct {
	Segment
	from place
}

func (r *Reader) directory(ctx context.Context, s *seg) (*segment.Directory, error) {
	name := s.ID.Name()
	it, err := r.item(ctx, cache.Key{Name: name, A: keyDirectory}, func(ctx context.Context) (cache.Item, error) {
		var dir *segment.Directory
		err := r.part(ctx, s.from, name, s.Size-int64(s.Tail), int64(s.Tail), func(data []byte) (err error) {
			dir, err = segment.ReadDirectory(s.from.database, s.Info, data)
			return err
		})
		return dir, err
	})
	dir, _ := it.(*segment.Directory)
	return dir, err
}

// block returns a block as it is in the file.
func (r *Reader) block(ctx context.Context, s *seg, dir *segment.Directory, b segment.Block) ([]byte, error) {
	name := s.ID.Name()
	it, err := r.item(ctx, cache.Key{Name: name, A: uint64(b.Offset)}, func(ctx context.Context) (cache.Item, error) {
		var block cache.Data
		err := r.part(ctx, s.from, name, b.Offset, int64(b.Stored), func(data []byte) error {
			block = data
			return dir.Verify(b, data)
		})
		return block, err
	})
	block, _ := it.(cache.Data)
	return block, err
}
