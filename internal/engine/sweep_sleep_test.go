package engine

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// A sleeper is the bucket of a process that is stopped when it reads a segment.
type sleeper struct {
	bucket.Bucket
	mu     sync.Mutex
	armed  bool
	asleep chan struct{}
	fell   chan struct{}
}

func (s *sleeper) wait() {
	s.mu.Lock()
	c := s.asleep
	s.mu.Unlock()
	if c != nil {
		<-c
	}
}

// GetRange implements bucket.Bucket.
func (s *sleeper) GetRange(ctx context.Context, name string, o, n int64) ([]byte, error) {
	s.mu.Lock()
	if s.armed && strings.HasPrefix(name, segment.Prefix) {
		s.armed, s.asleep = false, make(chan struct{})
		close(s.fell)
	}
	s.mu.Unlock()
	s.wait()
	return s.Bucket.GetRange(ctx, name, o, n)
}

// Get implements bucket.Bucket.
func (s *sleeper) Get(ctx context.Context, name string, l int64) ([]byte, error) {
	s.wait()
	return s.Bucket.Get(ctx, name, l)
}

// Put implements bucket.Bucket.
func (s *sleeper) Put(ctx context.Context, name string, d []byte) error {
	s.wait()
	return s.Bucket.Put(ctx, name, d)
}

// PutIfAbsent implements bucket.Bucket.
func (s *sleeper) PutIfAbsent(ctx context.Context, name string, d []byte) error {
	s.wait()
	return s.Bucket.PutIfAbsent(ctx, name, d)
}

// List implements bucket.Bucket.
func (s *sleeper) List(ctx context.Context, p, a string, fn func(bucket.Info) error) error {
	s.wait()
	return s.Bucket.List(ctx, p, a, fn)
}

// Delete implements bucket.Bucket.
func (s *sleeper) Delete(ctx context.Context, name string) error {
	s.wait()
	return s.Bucket.Delete(ctx, name)
}

// Now implements bucket.Bucket.
func (s *sleeper) Now(ctx context.Context) (time.Time, error) {
	s.wait()
	return s.Bucket.Now(ctx)
}

// What another leader has packed and deleted meanwhile is not what nobody needs.
func TestASweepThatSleptDeletesNoBlobThatItCouldNotFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := bucket.NewMemory()
		b := &sleeper{Bucket: raw, fell: make(chan struct{})}
		grace := func(o *Options) { o.PackGrace = 15 * time.Minute }
		one := openEngine(t, b, grace)
		flush := func(e *Engine) {
			t.Helper()
			if err := e.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		commit(t, one, stored{0, 0, record("root", 1, 2)})
		flush(one)
		serial := commit(t, one, stored{1, 0, record("a")})
		flush(one)
		tid := storeBlob(t, one, 2, 0, record("blob"), "content")
		flush(one)
		b.mu.Lock()
		b.armed = true
		b.mu.Unlock()
		swept := make(chan error, 1)
		go func() { swept <- one.sweep(t.Context()) }()
		<-b.fell

		// Another one leads, and joins the segments.
		two := openEngine(t, raw, grace)
		for range 4 {
			serial = commit(t, two, stored{1, serial, record("b")})
			flush(two)
			time.Sleep(time.Second)
		}
		if err := two.Pack(t.Context(), zodb.MaxTid); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Minute)
		for range 4 {
			serial = commit(t, two, stored{1, serial, record("b")})
			flush(two)
			time.Sleep(20 * time.Minute)
		}
		close(b.asleep)
		if err := <-swept; err == nil {
			t.Error("the sweep could not see what is needed, and says nothing")
		}
		r, err := two.LoadBlob(t.Context(), 2, tid)
		if err != nil {
			t.Fatalf("the blob: %v", err)
		}
		if data, err := io.ReadAll(r); err != nil || string(data) != "content" {
			t.Errorf("%q, %v", data, err)
		}
	})
}
