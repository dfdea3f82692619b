package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A slowSegments is a bucket that holds up segments while it has a gate.
type slowSegments struct {
	bucket.Bucket
	gate atomic.Pointer[chan struct{}]
}

func (b *slowSegments) PutStream(ctx context.Context, name string, r io.Reader) error {
	if gate := b.gate.Load(); gate != nil && strings.HasPrefix(name, segment.Prefix) {
		<-*gate
	}
	return b.Bucket.PutStream(ctx, name, r)
}

// What a restore took away does not come back with files that were made before.
func TestARestoreWaitsForAMergeAndAPack(t *testing.T) {
	for name, change := range map[string]func(context.Context, *Engine) error{
		"merge": func(ctx context.Context, e *Engine) error { return e.merge(ctx) },
		"pack":  func(ctx context.Context, e *Engine) error { return e.Pack(ctx, e.LastTransaction()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &slowSegments{Bucket: bucket.NewMemory()}
				e := openEngine(t, b)
				serial := commit(t, e, stored{0, 0, record("state 0")})
				if err := e.Snapshot(t.Context(), "first"); err != nil {
					t.Fatal(err)
				}
				for i := range mergeCount {
					serial = commit(t, e, stored{0, serial, record(fmt.Sprint("state ", i+1))})
					if err := e.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				gate := make(chan struct{})
				b.gate.Store(&gate)
				changed, restored := make(chan error, 1), make(chan error, 1)
				go func() { changed <- change(t.Context(), e) }()
				synctest.Wait()
				go func() {
					_, err := e.Restore(t.Context(), Moment{Snapshot: "first"})
					restored <- err
				}()
				synctest.Wait()
				b.gate.Store(nil)
				close(gate)
				if err := errors.Join(<-changed, <-restored); err != nil {
					t.Error(err)
				}
				if rev := load(t, e, 0); string(rev.Data) != record("state 0") {
					t.Errorf("%q", rev.Data)
				}
			})
		})
	}
}

// Whoever leads meanwhile sweeps away the files of such a change: it knows of none.
func TestAMergeAndAPackAreGivenUpWhenAnotherServerHasLedMeanwhile(t *testing.T) {
	for name, change := range map[string]func(context.Context, *Engine) error{
		"merge": func(ctx context.Context, e *Engine) error { return e.merge(ctx) },
		"pack":  func(ctx context.Context, e *Engine) error { return e.Pack(ctx, e.LastTransaction()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &slowSegments{Bucket: bucket.NewMemory()}
				first := openEngine(t, b)
				serial := zodb.NoTid
				for i := range mergeCount {
					serial = commit(t, first, stored{0, serial, record(fmt.Sprint("state ", i))})
					if err := first.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				gate := make(chan struct{})
				b.gate.Store(&gate)
				changed := make(chan error, 1)
				go func() { changed <- change(t.Context(), first) }()
				synctest.Wait()
				second := openEngine(t, b)
				time.Sleep(15 * time.Minute) // it sweeps
				closeEngine(t, second)
				if err := first.Lead(t.Context()); err != nil {
					t.Fatal(err)
				}
				b.gate.Store(nil)
				close(gate)
				if err := <-changed; !errors.Is(err, zodb.ErrNotCommitted) {
					t.Errorf("the change: %v", err)
				}
				if rev := load(t, openEngine(t, b), 0); rev.Serial != serial {
					t.Errorf("%q of %s", rev.Data, rev.Serial)
				}
			})
		})
	}
}

// Undo waits until what is sequenced has been adopted, by these numbers.
func TestPacksAndRestoresAreCountedAlikeWhenSequencedAndWhenSettled(t *testing.T) {
	e := openEngine(t, bucket.NewMemory())
	t1 := commit(t, e, stored{0, 0, record("one")})
	commit(t, e, stored{0, t1, record("two")})
	if err := e.Snapshot(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Restore(t.Context(), Moment{Snapshot: "two"}); err != nil {
		t.Fatal(err)
	}
	if err := e.Pack(t.Context(), e.LastTransaction()); err != nil {
		t.Fatal(err)
	}
	if e.seq.packs != 2 || e.state.packs != 2 {
		t.Errorf("%d sequenced, %d settled", e.seq.packs, e.state.packs)
	}
}

// A logless is a bucket that takes no log objects any more once a segment was put
// after it was armed.
type logless struct {
	bucket.Bucket
	armed, down atomic.Bool
}

func (b *logless) PutStream(ctx context.Context, name string, r io.Reader) error {
	if b.armed.Load() && strings.HasPrefix(name, segment.Prefix) {
		b.down.Store(true)
	}
	return b.Bucket.PutStream(ctx, name, r)
}

func (b *logless) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if b.down.Load() && strings.HasPrefix(name, txlog.Prefix) {
		return errors.New("out of order")
	}
	return b.Bucket.PutIfAbsent(ctx, name, data)
}

func TestCloseWaitsNoLongerThanItMayForItsLastFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &logless{Bucket: bucket.NewMemory()}
		e, err := Open(t.Context(), b, Options{Node: "n", Creator: "test", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		commit(t, e, stored{0, zodb.NoTid, record("root")})
		b.armed.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
		if ctx.Err() == nil {
			t.Error("the last flush did not wait")
		}
		b.down.Store(false)
		if rev := load(t, openEngine(t, b), 0); string(rev.Data) != record("root") {
			t.Errorf("%q", rev.Data)
		}
	})
}

// A forgetful is a bucket that puts bases, and while it is armed says that it has
// not.
type forgetful struct {
	bucket.Bucket
	armed atomic.Bool
}

func (b *forgetful) Put(ctx context.Context, name string, data []byte) error {
	err := b.Bucket.Put(ctx, name, data)
	if err == nil && b.armed.Load() && strings.HasPrefix(name, base.Prefix) {
		return context.Canceled // nobody tries again
	}
	return err
}

func TestASweepDeletesTheBaseOfAChangeThatFailed(t *testing.T) {
	b := &forgetful{Bucket: bucket.NewMemory()}
	e := openEngine(t, b)
	commit(t, e, stored{0, zodb.NoTid, record("root")})
	b.armed.Store(true)
	if err := e.Flush(t.Context()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b.armed.Store(false)
	failed := listed(t, b, base.Prefix)
	if len(failed) != 1 {
		t.Fatalf("%d bases", len(failed))
	}
	if err := e.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := listed(t, b, base.Prefix); len(left) != 1 || left[0] == failed[0] {
		t.Errorf("after the sweep: %v, %v is of the flush that failed", left, failed)
	}
}

func TestATransactionThatTheLogDoesNotTakeBeforeTheEngineIsClosedIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &logless{Bucket: bucket.NewMemory()}
		e, err := Open(t.Context(), b, Options{Node: "n", Creator: "test", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		commit(t, e, stored{0, zodb.NoTid, record("root")})
		before, during := begin(t, e, stored{1, zodb.NoTid, record("before")}), begin(t, e, stored{2, zodb.NoTid, record("during")})
		vote(t, before)
		vote(t, during)
		b.down.Store(true)
		answers := make(chan error, 2)
		done := func(_ *zodb.Commit, err error) { answers <- err }
		before.Finish(done)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		closed := make(chan error)
		go func() { closed <- e.Close(ctx) }()
		synctest.Wait()
		during.Finish(done)
		if err := <-closed; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		for range 2 {
			select {
			case err := <-answers:
				if err == nil {
					t.Error("it was committed")
				}
			default:
				t.Error("it was not answered")
			}
		}
	})
}
