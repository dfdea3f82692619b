package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// inParts has a pack tell the log of every segment that it has written, of which it
// writes two at a time.
func inParts(o *Options) { o.PackPart, o.Unserved = 1, true }

// A watched is a bucket that counts the segments which are put, and calls stop when
// that many checkpoints have been put.
type watched struct {
	bucket.Bucket
	mu struct {
		sync.Mutex
		segments    int // that were put
		checkpoints int // that are still to come
		stop        func()
	}
}

func (b *watched) PutStream(ctx context.Context, name string, r io.Reader) error {
	err := b.Bucket.PutStream(ctx, name, r)
	b.count(name, err)
	return err
}

func (b *watched) Put(ctx context.Context, name string, data []byte) error {
	err := b.Bucket.Put(ctx, name, data)
	b.count(name, err)
	return err
}

func (b *watched) count(name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil && strings.HasPrefix(name, segment.Prefix) {
		b.mu.segments++
	}
}

func (b *watched) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	err := b.Bucket.PutIfAbsent(ctx, name, data)
	if err == nil && strings.HasPrefix(name, txlog.CheckpointPrefix) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.mu.checkpoints--; b.mu.checkpoints == 0 {
			b.mu.stop()
		}
	}
	return err
}

// written returns how many segments were put since it was asked last.
func (b *watched) written() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.mu.segments
	b.mu.segments = 0
	return n
}

// packPartly has a pack ended when the log has been told of so many parts.
func packPartly(t *testing.T, e *Engine, b *watched, tid zodb.Tid, parts int) {
	t.Helper()
	before := len(e.state.view.Rewrites)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.mu.Lock()
	b.mu.checkpoints, b.mu.stop = parts, cancel
	b.mu.Unlock()
	if err := e.Pack(ctx, tid); !errors.Is(err, context.Canceled) {
		t.Fatalf("a pack that is ended: %v", err)
	}
	b.mu.Lock()
	b.mu.checkpoints = 0
	b.mu.Unlock()
	if n := len(e.state.view.Rewrites) - before; n < parts {
		t.Fatalf("%d rewrites, %d parts", n, parts)
	}
}

// copyOf returns a copy of a bucket.
func copyOf(t *testing.T, from bucket.Bucket) *watched {
	t.Helper()
	to := bucket.NewMemory()
	for _, name := range listed(t, from, "") {
		data, err := from.Get(t.Context(), name, 1<<30)
		if err == nil {
			err = to.Put(t.Context(), name, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return &watched{Bucket: to}
}

const scatteredPairs = 12

// scattered makes a database of segments of which every other one loses a part of its
// records, or all of them, by a pack to the second of the transactions that it
// returns, and those of the first half by a pack to the first one. stay says how many
// records stay in those of a pair.
func scattered(t *testing.T, stay func(pair int) int) (b bucket.Bucket, half, whole zodb.Tid) {
	t.Helper()
	b = bucket.NewMemory()
	e := openEngine(t, b)
	flush := func() {
		if err := e.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	var refs []zodb.Oid
	for oid := zodb.Oid(1); oid <= scatteredPairs+1; oid++ {
		refs = append(refs, oid)
	}
	stays := func(n int) (all []stored) {
		for range n {
			text := make([]byte, 200)
			for i := range text {
				text[i] = byte(random.Uint32())
			}
			oid := zodb.Oid(len(refs) + 1)
			refs = append(refs, oid)
			all = append(all, stored{oid, 0, record(string(text))})
		}
		return all
	}
	serial := commit(t, e, stored{0, 0, record("root", refs...)})
	flush()
	storeBlob(t, e, scatteredPairs+1, 0, record("blob"), "content")
	flush()
	var old []stored
	for i := range scatteredPairs {
		oid := zodb.Oid(1 + i)
		tid := commit(t, e, append(stays(stay(i)), stored{oid, 0, record("old")})...)
		old = append(old, stored{oid, tid, record(fmt.Sprint("new ", i))})
		flush()
		commit(t, e, stays(max(stay(i), 1))...)
		flush()
	}
	half = commit(t, e, old[:scatteredPairs/2]...)
	whole = commit(t, e, append(old[scatteredPairs/2:], stored{0, serial, record("root", refs...)})...)
	flush()
	closeEngine(t, e)
	return b, half, whole
}

// few has a record stay in most segments, and none in some.
func few(pair int) int { return min(pair%4, 1) }

// What a pack that was ended has written is not written again by the next one, and the
// database is what it would be if there had been one pack.
func TestAPackGoesOnWhereOneBeforeWasEnded(t *testing.T) {
	from, half, whole := scattered(t, few)
	nothing := func(t *testing.T, e *Engine, b *watched) *Engine { return e }
	restart := func(t *testing.T, e *Engine, b *watched) *Engine {
		closeEngine(t, e)
		return openEngine(t, b, inParts)
	}
	for _, c := range []struct {
		name        string
		first, then zodb.Tid
		parts       int
		between     func(t *testing.T, e *Engine, b *watched) *Engine
		saved       int // segments at least
	}{
		{"at once", whole, whole, 3, nothing, 3},
		{"after a restart", whole, whole, 3, restart, 3},
		{"to a later time", half, whole, 2, nothing, 2},
		{"to an earlier time", whole, half, 3, restart, 2}, // without the root
		{"after a sweep", whole, whole, 3, func(t *testing.T, e *Engine, b *watched) *Engine {
			e = restart(t, e, b)
			if err := e.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			return e
		}, 3},
		{"after it was ended twice", whole, whole, 2, func(t *testing.T, e *Engine, b *watched) *Engine {
			packPartly(t, e, b, whole, 2)
			return restart(t, e, b)
		}, 2},
		{"after a flush", whole, whole, 3, func(t *testing.T, e *Engine, b *watched) *Engine {
			commit(t, e, stored{1, load(t, e, 1).Serial, record("later")})
			if err := e.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			return e
		}, 3},
		{"after a snapshot", whole, whole, 3, func(t *testing.T, e *Engine, b *watched) *Engine {
			if err := e.Snapshot(t.Context(), "between"); err != nil {
				t.Fatal(err)
			}
			return e
		}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := copyOf(t, from)
				e := openEngine(t, b, inParts)
				packPartly(t, e, b, c.first, c.parts)
				e = c.between(t, e, b)
				wantNoDamage(t, b)

				synctest.Wait() // for what is deleted in the background
				undisturbed := copyOf(t, b)
				u := openEngine(t, undisturbed)
				let, err := u.hold(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				forgetful := u.successor()
				forgetful.Rewrites = nil
				if _, err := u.adopt(t.Context(), forgetful, txlog.BaseMerge, nil, nil); err != nil {
					t.Fatal(err)
				}
				let()
				undisturbed.written()
				if err := u.Pack(t.Context(), c.then); err != nil {
					t.Fatal(err)
				}
				want, all := view(t, u), undisturbed.written()

				e = restart(t, e, b)
				b.written()
				if err := e.Pack(t.Context(), c.then); err != nil {
					t.Fatal(err)
				}
				if n := b.written(); n > all-c.saved {
					t.Errorf("%d segments were written, %d if there was no pack before", n, all)
				}
				if got := view(t, e); got != want {
					t.Errorf("there is\n%s\ninstead of\n%s", got, want)
				}
				if n := len(e.state.view.Rewrites); n > 0 {
					t.Errorf("the pack left %d rewrites", n)
				}
				if got, want := contents(e.state.view.Base), contents(u.state.view.Base); !slices.Equal(got, want) {
					t.Errorf("the segments have %v, without the pack before %v", got, want)
				}
				checkClean(t, e)
				wantNoDamage(t, b)
			})
		})
	}
}

// contents tells how much is in the segments of a base.
func contents(b *base.Base) (all []string) {
	for i := range b.Segments {
		s := &b.Segments[i]
		all = append(all, fmt.Sprint(s.First, s.Last, s.Txns, s.Records, s.DataBytes))
	}
	return all
}

// Packs in parts that die at any write, and are begun again, each time by another
// process.
func TestACrashOfAPackInPartsAtAnyWriteLosesNothing(t *testing.T) {
	const immortal = 1 << 30
	from, _, whole := scattered(t, few)
	var before, after string
	writes, segments := 0, 0
	synctest.Test(t, func(t *testing.T) {
		b := copyOf(t, from)
		l, err := live(b, immortal, inParts)
		if err != nil {
			t.Fatal(err)
		}
		before = view(t, l.Engine)
		if err := l.Pack(l.ctx, whole); err != nil {
			t.Fatal(err)
		}
		checkClean(t, l.Engine)
		after, writes, segments = view(t, l.Engine), l.b.mu.written, b.written()
		l.die()
	})
	t.Logf("%d writes, %d of them segments", writes, segments)
	for n := range writes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := copyOf(t, from)
				if l, err := live(b, n, inParts); err == nil {
					_ = l.Pack(l.ctx, whole)
					synctest.Wait()
					l.die()
				}
				// The next one sweeps, and may die, too.
				if l, err := live(b, n/2, inParts); err == nil {
					if l.sweep(l.ctx) == nil {
						_ = l.Pack(l.ctx, whole)
						synctest.Wait()
					}
					l.die()
				}
				l, err := live(b, immortal, inParts)
				if err != nil {
					t.Fatal(err)
				}
				wantNoDamage(t, b)
				if got := view(t, l.Engine); got != before && got != after {
					t.Errorf("there is\n%s\ninstead of\n%sor\n%s", got, before, after)
				}
				checkClean(t, l.Engine)
				b.written()
				done := len(l.state.view.Rewrites)
				if err := l.Pack(l.ctx, whole); err != nil {
					t.Fatal(err)
				}
				if left := b.written(); left > segments-done {
					t.Errorf("%d segments of %d were written, of which %d had been done", left, segments, done)
				}
				if got := view(t, l.Engine); got != after {
					t.Errorf("after the pack there is\n%s\ninstead of\n%s", got, after)
				}
				checkClean(t, l.Engine)
				wantNoDamage(t, b)
				l.die()
			})
		})
	}
}
