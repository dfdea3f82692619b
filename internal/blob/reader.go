package blob

import (
	"context"
	"fmt"
	"io"
	"sync"

	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/zodb"
)

// A Reader reads a blob from its beginning to its end. It hands out no byte
// whose checksum it has not verified. While one span of 4 MiB is taken, the
// next is fetched: a Reader holds about 8 MiB.
//
// It is for one goroutine at a time, and must be closed.
type Reader struct {
	ctx     context.Context
	cancel  context.CancelFunc
	b       bucket.Bucket
	disk    *cache.Disk
	next    span // the one to be fetched after the one under way
	pieces  [][]byte
	ahead   chan fetched   // of the one under way; nil if there is none
	fetches sync.WaitGroup // of that
	err     error          // stays
}

// A fetched is a span, or why there is none.
type fetched struct {
	pieces [][]byte
	err    error
}

var _ io.ReadCloser = (*Reader)(nil)

// Open begins to read the blob of an id that is size bytes long. What is read
// comes from disk, which may be nil, where it has it. When ctx is done, reads
// fail.
//
// Damage is an error of the class zodb.ErrCorrupt that names the object and the
// offset; what was damaged on the way only is read again. Where the object is
// missing, the error wraps bucket.ErrNotExist.
func Open(ctx context.Context, b bucket.Bucket, disk *cache.Disk, database [16]byte, id ID, size int64) *Reader {
	r := &Reader{b: b, disk: disk, next: span{database: database, id: id, size: size}}
	r.ctx, r.cancel = context.WithCancel(ctx)
	if size < 0 || size > maxSize {
		r.err = fmt.Errorf("%w: a size of %d bytes is given for %s", zodb.ErrCorrupt, size, id.Name())
		return r
	}
	r.fetchAhead()
	return r
}

// fetchAhead begins to fetch the next span, if there is one.
func (r *Reader) fetchAhead() {
	r.ahead = nil
	if r.next.number == spans(r.next.size) {
		return
	}
	s, to := r.next, make(chan fetched, 1)
	r.next.number++
	r.ahead = to
	r.fetches.Go(func() {
		pieces, err := r.fetch(s)
		to <- fetched{pieces, err}
	})
}

func (r *Reader) fetch(s span) (list [][]byte, err error) {
	offset, n := s.where()
	where := cache.Range{Name: s.id.Name(), Offset: offset, Size: n}
	err = bucket.Rereading(r.ctx, func() error {
		raw, err := r.disk.Get(r.ctx, where, func(ctx context.Context) ([]byte, error) {
			raw, err := r.b.GetRange(ctx, where.Name, offset, n)
			if err == nil {
				_, err = s.decode(raw) // before it is kept
			}
			if err != nil {
				return nil, fmt.Errorf("reading a blob from %s: %w", r.b.Properties().Location, err)
			}
			return raw, nil
		})
		if err != nil {
			return err
		}
		if list, err = s.decode(raw); err != nil {
			r.disk.Drop(where)
		}
		return err
	})
	return list, err
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err // also where there are pieces left
	}
	for len(r.pieces) == 0 {
		if r.err == nil && r.ahead == nil {
			r.err = io.EOF
		}
		if r.err != nil {
			return 0, r.err
		}
		f := <-r.ahead
		r.pieces, r.err = f.pieces, f.err
		if r.err == nil {
			r.fetchAhead()
		}
	}
	n := copy(p, r.pieces[0])
	if r.pieces[0] = r.pieces[0][n:]; len(r.pieces[0]) == 0 {
		r.pieces = r.pieces[1:]
	}
	return n, nil
}

// Close ends what is under way and waits for it.
func (r *Reader) Close() error {
	r.cancel()
	r.fetches.Wait()
	return nil
}
