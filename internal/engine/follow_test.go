package engine

import (
	"context"
	"fmt"
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
