package engine

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

func TestOpeningWhatWasClosedInOrderTakesAFewRequestsAndNoListing(t *testing.T) {
	b := bucket.NewMemory()
	serial := zodb.NoTid
	for round := range 4 {
		counted := bucket.Observe(b)
		e := openEngine(t, counted)
		s := counted.Snapshot()
		total := uint64(0)
		for k := range s.Kinds {
			total += s.Kinds[k].Count
		}
		if lists := s.Kinds[bucket.KindList].Count; round > 0 && (lists > 0 || total > 10) {
			t.Errorf("start %d: %d requests, %d of them listings: %+v", round, total, lists, s.Kinds)
		}
		for range 50 {
			serial = commit(t, e, stored{1, serial, fmt.Sprint("state ", round)})
		}
		closeEngine(t, e)
	}
}

// Flushes and merges go on while others read and write, and change nothing that
// one can see.
func TestFlushesAndMergesChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		// Fewer than 3 would never end: an adoption and the deletion of what it replaced
		// take a log object each.
		small := func(o *Options) { o.FlushObjects = 4 }
		e := openEngine(t, b, small)
		serials := make(map[zodb.Oid][]zodb.Tid)
		var tids []zodb.Tid
		for i := range 300 {
			oid := zodb.Oid(i % 7)
			serial := zodb.NoTid
			if old := serials[oid]; len(old) > 0 {
				serial = old[len(old)-1]
			}
			tid := commit(t, e, stored{oid, serial, fmt.Sprint("state ", i)})
			serials[oid] = append(serials[oid], tid)
			tids = append(tids, tid)
			for j, past := range serials[oid] {
				rev, ok, err := e.LoadBefore(t.Context(), oid, past+1)
				if err != nil || !ok || rev.Serial != past || string(rev.Data) != fmt.Sprint("state ", int(oid)+7*j) {
					t.Fatalf("after %d commits: object %s at %s: %+v %v %v", i, oid, past, rev, ok, err)
				}
			}
		}
		check := func(e *Engine) {
			t.Helper()
			if n := e.Info().Objects; n != 7 {
				t.Errorf("%d objects", n)
			}
			if got := iterated(t, e.Iterate(0, zodb.MaxTid)); !slices.Equal(got, tids) {
				t.Errorf("%d transactions, want %d", len(got), len(tids))
			}
			log, err := e.UndoLog(t.Context(), 0, 1000, nil)
			if err != nil || len(log) != len(tids) || log[0].Tid != tids[len(tids)-1] || log[len(log)-1].Tid != tids[0] {
				t.Errorf("%d in the undo log, %v", len(log), err)
			}
			for oid, all := range serials {
				h, err := e.History(t.Context(), oid, 1000)
				if err != nil || len(h) != len(all) {
					t.Errorf("object %s: %d revisions, want %d: %v", oid, len(h), len(all), err)
				}
			}
			if _, oids, ok := e.Invalidations(t.Context(), tids[0]); !ok || len(oids) != 7 {
				t.Error(oids, ok)
			}
		}
		check(e)
		synctest.Wait() // for what is deleted in the background
		if s, i := listed(t, b, segment.Prefix), listed(t, b, index.Prefix); len(s) > 20 || len(i) > 20 {
			t.Errorf("%d segments, %d tables", len(s), len(i))
		}
		if l := listed(t, b, txlog.Prefix); len(l) > 100 {
			t.Errorf("%d log objects are left", len(l))
		}
		if l := listed(t, b, base.Prefix); len(l) > 3 {
			t.Errorf("%d bases are left", len(l))
		}
		closeEngine(t, e)
		check(openEngine(t, b, small))
	})
}
