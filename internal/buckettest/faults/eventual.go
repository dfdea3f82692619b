package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"s3storage/internal/bucket"
)

// Eventual is a store as S3 was in 2006, over a bucket: what is put, put over or
// deleted is seen, in reads and in listings, only some time up to Tp after the
// write has returned, by each reader at another time; who asks for an object that
// is not there, or not seen yet, is told so for Tp from then on, whatever happens;
// and put-if-absent is a put like any other.
//
// What other processes have put into a directory is known by the times of the
// files, but for what they have put over or deleted, which is seen at once.
type Eventual struct {
	b    bucket.Bucket
	rate float64 // of the writes that are not seen at once
	tp   time.Duration
	seed uint64
	mu   struct {
		sync.Mutex
		readers uint64
		changes map[string][]change // those of the last Tp
	}
}

// A change is a write that not everybody sees yet.
type change struct {
	at     time.Time
	before []byte // nil: there was no object
}

// NewEventual returns a store over b, which keeps what everybody sees in the end.
func NewEventual(b bucket.Bucket, rate float64, tp time.Duration, seed uint64) *Eventual {
	e := &Eventual{b: b, rate: rate, tp: tp, seed: seed}
	e.mu.changes = map[string][]change{}
	return e
}

// A reader is the store as one client sees it.
type reader struct {
	bucket.Bucket // of the store, for what does not depend on the reader
	e             *Eventual
	n             uint64
	mu            struct {
		sync.Mutex
		missed map[string]time.Time // until then
	}
}

// Reader returns the store as one client sees it.
func (e *Eventual) Reader() bucket.Bucket {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.readers++
	r := &reader{Bucket: e.b, e: e, n: e.mu.readers}
	r.mu.missed = map[string]time.Time{}
	return r
}

// delay is how long after a write a reader sees it; listings are another reader.
func (r *reader) delay(name string, at time.Time, listing bool) time.Duration {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	maphash.WriteComparable(&h, struct {
		name    string
		at      int64
		listing bool
		pid     int
	}{name, at.UnixNano(), listing, os.Getpid()})
	dice := rand.New(rand.NewPCG(r.e.seed^r.n, h.Sum64()))
	if dice.Float64() >= r.e.rate {
		return 0
	}
	return time.Duration(dice.Float64() * float64(r.e.tp))
}

var hashSeed = maphash.MakeSeed()

// sees tells what a reader sees under a name if that is not what is in the bucket
// below: the bytes, or nil for no object.
func (r *reader) sees(name string, listing bool) (old []byte, differs bool) {
	now := time.Now()
	r.e.mu.Lock()
	changes := r.e.mu.changes[name]
	if len(changes) > 0 && now.Sub(changes[len(changes)-1].at) > r.e.tp {
		delete(r.e.mu.changes, name)
		changes = nil
	}
	r.e.mu.Unlock()
	if len(changes) == 0 {
		at, known := r.written(name)
		return nil, known && now.Sub(at) < r.delay(name, at, listing)
	}
	for i, c := range slices.Backward(changes) {
		if now.Sub(c.at) >= r.delay(name, c.at, listing) {
			break
		}
		old, differs = changes[i].before, true
	}
	return old, differs
}

// written tells when an object in a directory was put, by whomever.
func (r *reader) written(name string) (time.Time, bool) {
	dir := r.e.b.Properties().Location
	if !filepath.IsAbs(dir) {
		return time.Time{}, false
	}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}

// write does a write and notes what was there before.
func (r *reader) write(ctx context.Context, name string, do func() error) error {
	before, err := r.e.b.Get(ctx, name, math.MaxInt64)
	if err != nil && !errors.Is(err, bucket.ErrNotExist) {
		return err
	}
	defer func() {
		r.e.mu.Lock()
		defer r.e.mu.Unlock()
		r.e.mu.changes[name] = append(r.e.mu.changes[name], change{at: time.Now(), before: before})
	}()
	return do()
}

// PutIfAbsent implements bucket.Bucket, but for its promise.
func (r *reader) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return r.Put(ctx, name, data)
}

// Put implements bucket.Bucket.
func (r *reader) Put(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, func() error { return r.e.b.Put(ctx, name, data) })
}

// PutStream implements bucket.Bucket.
func (r *reader) PutStream(ctx context.Context, name string, stream io.Reader) error {
	return r.write(ctx, name, func() error { return r.e.b.PutStream(ctx, name, stream) })
}

// Delete implements bucket.Bucket.
func (r *reader) Delete(ctx context.Context, name string) error {
	return r.write(ctx, name, func() error { return r.e.b.Delete(ctx, name) })
}

// read reads an object as this reader sees it.
func (r *reader) read(k bucket.Kind, name string, do func() ([]byte, error)) ([]byte, error) {
	r.mu.Lock()
	missed := time.Now().Before(r.mu.missed[name])
	r.mu.Unlock()
	var data []byte
	err := bucket.NewError(r, k, name, bucket.ErrNotExist)
	if missed {
		return nil, err
	}
	if old, differs := r.sees(name, false); !differs {
		data, err = do()
	} else if old != nil {
		return old, nil
	}
	if errors.Is(err, bucket.ErrNotExist) {
		r.mu.Lock()
		r.mu.missed[name] = time.Now().Add(r.e.tp)
		r.mu.Unlock()
	}
	return data, err
}

// Get implements bucket.Bucket.
func (r *reader) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	data, err := r.read(bucket.KindGet, name, func() ([]byte, error) { return r.e.b.Get(ctx, name, limit) })
	if int64(len(data)) > limit {
		return nil, bucket.NewError(r, bucket.KindGet, name, fmt.Errorf("%w: %d bytes, limit %d", bucket.ErrTooLarge, len(data), limit))
	}
	return bytes.Clone(data), err
}

// GetRange implements bucket.Bucket.
func (r *reader) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	whole := true
	data, err := r.read(bucket.KindGetRange, name, func() ([]byte, error) {
		whole = false
		return r.e.b.GetRange(ctx, name, offset, n)
	})
	if whole && err == nil {
		data = data[min(offset, int64(len(data))):]
		data = data[:min(n, int64(len(data)))]
	}
	return bytes.Clone(data), err
}

// List implements bucket.Bucket.
func (r *reader) List(ctx context.Context, prefix, after string, fn func(bucket.Info) error) error {
	sizes := map[string]int64{}
	err := r.e.b.List(ctx, prefix, after, func(info bucket.Info) error {
		sizes[info.Name] = info.Size
		return nil
	})
	if err != nil {
		return err
	}
	names := make([]string, 0, len(sizes))
	for name := range sizes {
		names = append(names, name)
	}
	r.e.mu.Lock()
	for name := range r.e.mu.changes {
		if _, there := sizes[name]; !there && strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	r.e.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		size, there := sizes[name]
		if old, differs := r.sees(name, true); differs {
			size, there = int64(len(old)), old != nil
		}
		if !there {
			continue
		}
		if err := fn(bucket.Info{Name: name, Size: size}); err != nil {
			return err
		}
	}
	return nil
}
