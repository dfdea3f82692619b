package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// dataFiles returns the names of the objects that hold data.
func dataFiles(t *testing.T, b bucket.Bucket) []string {
	t.Helper()
	return slices.Concat(listed(t, b, segment.Prefix), listed(t, b, index.Prefix), listed(t, b, base.Prefix), listed(t, b, blob.Prefix))
}

func TestASnapshotKeepsWhatItNeedsUntilItIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		e := openEngine(t, b)
		t1 := commit(t, e, stored{0, 0, record("root", 1, 2)}, stored{1, 0, record("old")})
		t2 := storeBlob(t, e, 2, 0, record("blob"), "content")
		if err := e.Snapshot(t.Context(), "before"); err != nil {
			t.Fatal(err)
		}
		if err := e.Snapshot(t.Context(), "before"); err == nil || !strings.Contains(err.Error(), "before") {
			t.Errorf("the same name once more: %v", err)
		}
		commit(t, e, stored{0, t1, record("root", 1)}, stored{1, t1, record("new")})
		if err := e.Pack(t.Context(), zodb.MaxTid); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := e.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := e.LoadSerial(t.Context(), 1, t1); !isKeyError(err) {
			t.Errorf("what was packed: %v", err)
		}
		past, err := OpenReadOnly(t.Context(), b, Options{Logger: e.opts.Logger, At: Moment{Snapshot: "before"}})
		if err != nil {
			t.Fatal(err)
		}
		if data, err := past.LoadSerial(t.Context(), 1, t1); err != nil || string(data) != record("old") {
			t.Errorf("%q, %v", data, err)
		}
		if content, err := loadBlob(t, past, 2, t2); err != nil || content != "content" {
			t.Errorf("%q, %v", content, err)
		}
		if n := past.Info().Objects; n != 3 || past.LastTransaction() != t2 {
			t.Errorf("%d objects, last %s", n, past.LastTransaction())
		}
		if err := past.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := e.DeleteSnapshot(t.Context(), "other"); err == nil {
			t.Error("a snapshot that is not there was deleted")
		}
		with := len(dataFiles(t, b))
		if err := e.DeleteSnapshot(t.Context(), "before"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := e.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := dataFiles(t, b); len(now) != 3 || len(now) >= with { // one segment, one table, one base
			t.Errorf("%d objects with the snapshot, then %v", with, now)
		}
	})
}

func TestThePastIsWhatItWas(t *testing.T) {
	for _, flush := range []bool{false, true} {
		b := bucket.NewMemory()
		e := openEngine(t, b)
		t1 := commit(t, e, stored{0, 0, record("root", 1)}, stored{1, 0, record("one")})
		t2 := commit(t, e, stored{1, t1, record("two")}, stored{2, 0, record("more")})
		t3 := commit(t, e, stored{1, t2, record("three")}, stored{3, 0, record("even more")})
		if flush {
			if err := e.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for tid, want := range map[zodb.Tid]struct {
			text    string
			objects int64
			last    zodb.Tid
		}{t1: {"one", 2, t1}, t2: {"two", 3, t2}, t2 + 1: {"two", 3, t2}, t3: {"three", 4, t3}, zodb.MaxTid: {"three", 4, t3}} {
			past, err := OpenReadOnly(t.Context(), b, Options{Logger: e.opts.Logger, At: Moment{Tid: tid}})
			if err != nil {
				t.Fatal(err)
			}
			if got := load(t, past, 1); string(got.Data) != record(want.text) || got.Next != zodb.NoTid {
				t.Errorf("at %s: %q, next %s", tid, got.Data, got.Next)
			}
			if n, last := past.Info().Objects, past.LastTransaction(); n != want.objects || last < want.last || last > max(tid, want.last) {
				t.Errorf("at %s of %s %s %s, flushed %v: %d objects, last %s", tid, t1, t2, t3, flush, n, last)
			}
			if _, err := past.Begin(zodb.TxnMeta{}, zodb.NoTid, nil); !errors.Is(err, zodb.ErrReadOnly) {
				t.Error(err)
			}
		}
		if err := e.Pack(t.Context(), t2); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenReadOnly(t.Context(), b, Options{Logger: e.opts.Logger, At: Moment{Tid: t1}}); err == nil || !strings.Contains(err.Error(), "packed") {
			t.Errorf("before the pack: %v", err)
		}
	}
}

func TestABranchAndItsParentGoTheirOwnWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		buckets := map[string]*bucket.Memory{"parent": bucket.NewMemory(), "child": bucket.NewMemory(), "grandchild": bucket.NewMemory()}
		open := func(o *Options) {
			o.OpenBucket = func(_ context.Context, location string) (bucket.Bucket, error) { return buckets[location], nil }
		}
		parent := openEngine(t, buckets["parent"], open)
		t1 := commit(t, parent, stored{0, 0, record("root", 1, 2)}, stored{1, 0, record("one")})
		b1 := storeBlob(t, parent, 2, 0, record("blob"), "content")
		t2 := commit(t, parent, stored{1, t1, record("two")})
		if _, err := parent.Branch(t.Context(), Moment{Tid: b1}, buckets["child"], "parent"); err != nil {
			t.Fatal(err)
		}
		if _, err := parent.Branch(t.Context(), Now, buckets["child"], "parent"); err == nil {
			t.Error("a branch was made where there is a database")
		}
		child := openEngine(t, buckets["child"], open)
		if got := load(t, child, 1); string(got.Data) != record("one") || got.Serial != t1 {
			t.Errorf("%q", got.Data)
		}
		if n := child.Info().Objects; n != 3 {
			t.Errorf("%d objects", n)
		}
		t3 := commit(t, child, stored{1, t1, record("child's")})
		if _, err := child.Branch(t.Context(), Now, buckets["grandchild"], "child"); err != nil {
			t.Fatal(err)
		}
		grandchild := openEngine(t, buckets["grandchild"], open)
		// The parent forgets what only its branch needs.
		commit(t, parent, stored{0, t1, record("root", 1)})
		for _, e := range []*Engine{parent, child} {
			if err := e.Pack(t.Context(), zodb.MaxTid); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := e.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := load(t, parent, 1); got.Serial != t2 {
			t.Error(got.Serial)
		}
		for _, e := range []*Engine{child, grandchild} {
			if got := load(t, e, 1); got.Serial != t3 || string(got.Data) != record("child's") {
				t.Errorf("%s %q", got.Serial, got.Data)
			}
			if content, err := loadBlob(t, e, 2, b1); err != nil || content != "content" {
				t.Errorf("%q, %v", content, err)
			}
		}
		if data, err := grandchild.LoadSerial(t.Context(), 1, t1); err != nil || string(data) != record("one") {
			t.Errorf("%q, %v", data, err)
		}
		// The branches go, and the parent stays.
		buckets["child"], buckets["grandchild"] = bucket.NewMemory(), bucket.NewMemory()
		closeEngine(t, parent)
		if got := load(t, openEngine(t, buckets["parent"], open), 1); got.Serial != t2 {
			t.Error(got.Serial)
		}
	})
}

func TestARestoredDatabaseTellsClientsToDropTheirCaches(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	t1 := commit(t, e, stored{0, 0, record("root", 1)}, stored{1, 0, record("one")})
	t2 := commit(t, e, stored{1, t1, record("two")}, stored{2, 0, record("more")})
	snapshot, err := e.Restore(t.Context(), Moment{Tid: t1})
	if err != nil {
		t.Fatal(err)
	}
	check := func(e *Engine) zodb.Tid {
		t.Helper()
		if got := load(t, e, 1); got.Serial != t1 || got.Next != zodb.NoTid {
			t.Errorf("%s, next %s", got.Serial, got.Next)
		}
		if _, err := e.GetTid(t.Context(), 2); !isKeyError(err) {
			t.Error(err)
		}
		last := e.LastTransaction()
		if n := e.Info().Objects; n != 2 || last <= t2 {
			t.Errorf("%d objects, last %s after %s", n, last, t2)
		}
		for _, known := range []zodb.Tid{t1, t2} {
			if _, _, ok := e.Invalidations(t.Context(), known); ok {
				t.Errorf("a client that knows %s may keep its cache", known)
			}
		}
		if _, oids, ok := e.Invalidations(t.Context(), last); !ok || len(oids) > 0 {
			t.Error(oids, ok)
		}
		return last
	}
	check(e)
	closeEngine(t, e)
	e = openEngine(t, b)
	last := check(e)
	if tid := commit(t, e, stored{1, t1, record("other")}); tid <= last {
		t.Errorf("%s after %s", tid, last)
	}
	// And back again.
	if _, err := e.Restore(t.Context(), Moment{Snapshot: snapshot}); err != nil {
		t.Fatal(err)
	}
	if got := load(t, e, 1); got.Serial != t2 || string(got.Data) != record("two") {
		t.Errorf("%s %q", got.Serial, got.Data)
	}
}

func TestRestoresWithinASecondKeepWhatWasBeforeEachOfThem(t *testing.T) {
	now := time.Now()
	e := openEngine(t, bucket.NewMemory(), func(o *Options) { o.Now = func() time.Time { return now } })
	t1 := commit(t, e, stored{0, 0, record("root", 1)}, stored{1, 0, record("one")})
	made := make(map[string]string) // snapshots, and what the object was
	for i := range 3 {
		text := record(fmt.Sprint("state ", i))
		commit(t, e, stored{1, t1, text})
		snapshot, err := e.Restore(t.Context(), Moment{Tid: t1})
		if err != nil {
			t.Fatal(err)
		}
		if _, again := made[snapshot]; again {
			t.Errorf("%s was made twice", snapshot)
		}
		made[snapshot] = text
	}
	for snapshot, want := range made {
		if _, err := e.Restore(t.Context(), Moment{Snapshot: snapshot}); err != nil {
			t.Fatal(err)
		}
		if got := load(t, e, 1); string(got.Data) != want {
			t.Errorf("after %s: %q instead of %q", snapshot, got.Data, want)
		}
	}
}

func TestAServerThatFollowsARestoreIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		told := make(chan struct{}, 1)
		first := openEngine(t, b, func(o *Options) { o.OnMisled = func() { told <- struct{}{} } })
		t1 := commit(t, first, stored{1, 0, record("one")})
		commit(t, first, stored{1, t1, record("two")})
		first.Subscribe(discard{})
		second := openEngine(t, b)
		if _, err := second.Restore(t.Context(), Moment{Tid: t1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		select {
		case <-told:
		default:
			t.Error("nobody was told")
		}
	})
}

type discard struct{}

func (discard) Committed(*zodb.Commit) {}
