package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

func TestAServerThatWasTakenOverForgetsWhatTheOtherHasWrittenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		grace := func(o *Options) { o.PackGrace = time.Minute } // the log is kept for as long
		first := openEngine(t, b, grace)
		serial := commit(t, first, stored{0, zodb.NoTid, record("state")})
		second := openEngine(t, b, grace)
		for i := range 30 {
			serial = commit(t, second, stored{0, serial, record(fmt.Sprint("state ", i))})
			if err := second.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second) // it finds out, and follows
		}
		time.Sleep(2 * time.Minute)
		first.state.RLock()
		defer first.state.RUnlock()
		if n := len(first.state.retired); n > 0 {
			t.Errorf("%d bases that were replaced", n)
		}
		// Behind the base come what had it adopted, and what let the other delete.
		if tail := first.state.tails[0]; tail.end.Slot < 80 || len(tail.txns) > 0 || len(tail.log) > 40 || tail.logBytes > int64(len(tail.log))<<8 {
			t.Errorf("to slot %d: %d transactions, %d log objects with %d bytes", tail.end.Slot, len(tail.txns), len(tail.log), tail.logBytes)
		}
	})
}

func TestCloseOfAServerThatWasTakenOverDoesNotWaitForAFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		first := openEngine(t, b)
		serial := commit(t, first, stored{0, zodb.NoTid, record("state")})
		second := openEngine(t, b) // of which the first does not know
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := first.Close(ctx); err != nil || ctx.Err() != nil {
			t.Errorf("close: %v, %v", err, ctx.Err())
		}
		if rev := load(t, second, 0); rev.Serial != serial {
			t.Errorf("%q of %s", rev.Data, rev.Serial)
		}
	})
}

func TestATidThatTwoLeadersHaveGivenIsNotTakenForTheOther(t *testing.T) {
	b := bucket.NewMemory()
	moment := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	stopped := func(o *Options) { o.Now = func() time.Time { return moment } }
	first := openEngine(t, b, stopped)
	serial := commit(t, first, stored{0, zodb.NoTid, record("state")})
	lost := begin(t, first, stored{1, zodb.NoTid, record("lost")})
	vote(t, lost)
	early, err := Follow(t.Context(), b, Options{Node: "early", Creator: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeEngine(t, early) })
	second := openEngine(t, b, stopped) // of which the first does not know
	theirs := commit(t, second, stored{0, serial, record("theirs")})
	if _, err := finish(lost); !errors.Is(err, zodb.ErrNotCommitted) {
		t.Fatal(err)
	}
	tid, epoch := lost.(zodb.Forwarded).Sequenced()
	if tid != theirs {
		t.Fatalf("%s and %s: the test wants one tid", tid, theirs)
	}
	follower, err := Follow(t.Context(), b, Options{Node: "follower", Creator: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeEngine(t, follower) })
	// The answer of the first comes late.
	told := make(chan error, 1)
	follower.Expect(tid, epoch, nil, func(_ *zodb.Commit, err error) { told <- err })
	if err := <-told; !errors.Is(err, zodb.ErrNotCommitted) {
		t.Errorf("what the first had sequenced: %v", err)
	}
	follower.Expect(theirs, epoch+1, nil, func(_ *zodb.Commit, err error) { told <- err })
	if err := <-told; err != nil {
		t.Errorf("what the second has: %v", err)
	}
	// Both come before the log does.
	of := make(chan error, 1)
	early.Expect(tid, epoch, nil, func(_ *zodb.Commit, err error) { of <- err })
	early.Expect(theirs, epoch+1, nil, func(_ *zodb.Commit, err error) { told <- err })
	if err := early.Log().CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first, second := <-of, <-told; !errors.Is(first, zodb.ErrNotCommitted) || second != nil {
		t.Errorf("what the first had sequenced: %v; what the second has: %v", first, second)
	}
}

func TestABlobIsNotCommittedWhenAnotherServerHasLedSinceItWasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		first := openEngine(t, b)
		serial := commit(t, first, stored{0, zodb.NoTid, record("state")})
		txn := begin(t, first)
		u, err := first.NewBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := txn.StoreBlob(0, serial, []byte(record("with a blob")), u); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		second := openEngine(t, b)
		time.Sleep(15 * time.Minute) // it sweeps
		closeEngine(t, second)
		if err := first.Lead(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := txn.Vote(t.Context()); !errors.Is(err, zodb.ErrNotCommitted) {
			t.Errorf("vote: %v", err)
		}
		txn.Abort()
	})
}

func TestAVoteThatWaitsForItsBlobIsRefusedAfterAHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openEngine(t, bucket.NewMemory())
		txn := begin(t, e)
		u, err := e.NewBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range maxFinishing { // others hold up the blob
			e.finishing <- struct{}{}
		}
		if err := txn.StoreBlob(0, zodb.NoTid, []byte(record("state")), u); err != nil {
			t.Fatal(err)
		}
		voted := make(chan error, 1)
		go func() {
			_, err := txn.Vote(t.Context())
			voted <- err
		}()
		synctest.Wait()
		if err := e.HandOver(t.Context(), time.Second, func() {}); err != nil {
			t.Fatal(err)
		}
		for range maxFinishing {
			<-e.finishing
		}
		if err := <-voted; !errors.Is(err, zodb.ErrNotCommitted) {
			t.Errorf("vote: %v", err)
		}
		txn.Abort()
	})
}

// A follower notes what it is told.
type follower struct{ told []string }

func (f *follower) LogObject(slot uint64, _ []byte) {
	f.told = append(f.told, fmt.Sprint("slot ", slot))
}
func (f *follower) LogEnded() { f.told = append(f.told, "the end") }

func TestALeaderLetsGoBeforeThoseWhoFollowAreToldThatItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openEngine(t, bucket.NewMemory())
		f := &follower{}
		_, slot, err := e.FollowLog(f)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, e, stored{0, zodb.NoTid, record("state")})
		err = e.HandOver(t.Context(), time.Second, func() { f.told = append(f.told, "let go") })
		if err != nil {
			t.Error(err)
		}
		if want := []string{fmt.Sprint("slot ", slot), "let go", "the end"}; !slices.Equal(f.told, want) {
			t.Errorf("%q, not %q", f.told, want)
		}
		if err := e.HandOver(t.Context(), time.Second, func() { t.Error("it let go of what it did not have") }); err != nil {
			t.Error(err)
		}
	})
}
