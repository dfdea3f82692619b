package engine

import (
	"slices"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

func TestNothingIsMissingWhileAPackIsBeingApplied(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b, keep)
	t1 := commit(t, e, stored{0, 0, record("root", 1)}, stored{1, 0, record("one")}, stored{2, 0, record("garbage")})
	t2 := commit(t, e, stored{0, t1, record("root", 1)}, stored{1, t1, record("two")})
	p, err := e.plan(t.Context(), t2)
	if err != nil {
		t.Fatal(err)
	}
	entry := &txlog.Pack{Tid: t2, Dropped: p.dropped()}
	entry.NameLists()
	if err := entry.WriteLists(t.Context(), b, e.format.Database); err != nil {
		t.Fatal(err)
	}
	before := e.Iterate(0, zodb.MaxTid)
	e.janitor.stop() // from here on, the test drops
	if _, ok, err := e.appendPack(entry, p); !ok || err != nil {
		t.Fatal(ok, err)
	}
	serial := commit(t, e, stored{2, t1, record("no longer garbage")}) // settled behind the pack
	for left := len(entry.Dropped); ; left-- {
		e.state.RLock()
		packs, more := e.state.packs, len(e.state.drops) > 0
		e.state.RUnlock()
		if done := left == 0; done != (packs == 1) || done == more {
			t.Errorf("%d revisions are left, %d packs are done, there is more: %v", left, packs, more)
		}
		if log, err := e.UndoLog(t.Context(), 0, 10, nil); err != nil || len(log) != 1 || log[0].Tid != serial {
			t.Error(log, err)
		}
		for _, d := range entry.Dropped { // readable for as long as the grace lasts
			if _, err := e.LoadSerial(t.Context(), d.Oid, d.Serial); err != nil {
				t.Errorf("%d revisions are left: %v", left, err)
			}
		}
		if got := load(t, e, 2); got.Serial != serial {
			t.Error(got.Serial)
		}
		if left > 0 { // to one that begins now, the pack came later
			if tids := iterated(t, e.Iterate(0, zodb.MaxTid)); !slices.Equal(tids, []zodb.Tid{t1, t2, serial}) {
				t.Errorf("%d revisions are left: %v", left, tids)
			}
		}
		if next, freed := e.expire(); freed || next.IsZero() != (left > 0) {
			t.Errorf("%d revisions are left: the next is forgotten at %v", left, next)
		}
		if left == 0 {
			break
		}
		e.state.Lock()
		e.dropSomeLocked(1)
		e.state.Unlock()
	}
	if tids := iterated(t, before); !slices.Equal(tids, []zodb.Tid{t1, t2}) {
		t.Error(tids)
	}
	if tids := iterated(t, e.Iterate(0, zodb.MaxTid)); !slices.Equal(tids, []zodb.Tid{t2, serial}) {
		t.Error(tids)
	}
	want := e.Info()
	closeEngine(t, e)
	e = openEngine(t, b)
	if got := e.Info(); got.Objects != want.Objects {
		t.Errorf("%d objects, %d when the database is opened again", want.Objects, got.Objects)
	}
	if tids := iterated(t, e.Iterate(0, zodb.MaxTid)); !slices.Equal(tids, []zodb.Tid{t2, serial}) {
		t.Error(tids)
	}
}
