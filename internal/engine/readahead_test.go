package engine

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// A server that was opened a moment ago answers the first load of an object with one
// request, when the index is small, and no load of a segment has to wait for its
// directory.
func TestDirectoriesAreReadBeforeALoadNeedsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		const segments = 3
		e := openEngine(t, b)
		for oid := range zodb.Oid(segments) {
			commit(t, e, stored{oid, 0, "state"})
			if err := e.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		closeEngine(t, e)
		observed := bucket.Observe(b)
		requests := func() uint64 { return observed.Snapshot().Kinds[bucket.KindGetRange].Count }
		for readAhead, want := range map[bool]uint64{false: 2*segments + segments, true: segments} {
			e = openEngine(t, observed, func(o *Options) { o.ReadDirectories = readAhead })
			if n := len(e.state.view.Segments); n != segments {
				t.Fatalf("%d segments", n)
			}
			synctest.Wait()
			before := requests()
			for oid := range zodb.Oid(segments) {
				load(t, e, oid)
			}
			if n := requests() - before; n != want {
				t.Errorf("directories were read ahead: %t, and the first loads take %d requests, not %d", readAhead, n, want)
			}
			closeEngine(t, e)
		}
	})
}

// Whoever closes an engine can do with its cache what he likes.
func TestNothingIsReadAheadWhenAnEngineIsClosed(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	for oid := range zodb.Oid(3) {
		commit(t, e, stored{oid, 0, "state"})
		if err := e.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	closeEngine(t, e)
	var slowReads bucket.Delays
	slowReads[bucket.KindGetRange] = bucket.Delay{Min: time.Second, Max: time.Second}
	synctest.Test(t, func(t *testing.T) {
		for _, open := range []func(context.Context, bucket.Bucket, Options) (*Engine, error){OpenReadOnly, Open} {
			slow := bucket.Observe(bucket.Slow(b, slowReads, 1))
			e, err := open(t.Context(), slow, Options{Node: t.Name(), Creator: "test", Logger: slog.New(slog.DiscardHandler), ReadDirectories: true})
			if err != nil {
				t.Fatal(err)
			}
			before := slow.Snapshot()
			closeEngine(t, e)
			if n := slow.Snapshot().Sub(before).Kinds[bucket.KindGetRange]; n.InFlight > 0 || n.Count > 1 {
				t.Errorf("%d reads were done, and %d are under way", n.Count, n.InFlight)
			}
		}
	})
}

func TestReadingAheadStopsWhereMemoryEnds(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	for oid := range zodb.Oid(3) {
		commit(t, e, stored{oid, 0, "state"})
		if err := e.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	closeEngine(t, e)
	observed := bucket.Observe(b)
	e = openEngine(t, observed)
	before := observed.Snapshot()
	if err := e.present().ReadDirectories(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n, want := observed.Snapshot().Sub(before).Kinds[bucket.KindGetRange].Count, uint64(3+1); n != want {
		t.Errorf("%d requests, not %d: for three tables and the newest segment", n, want)
	}
}
