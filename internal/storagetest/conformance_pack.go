package storagetest

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"s3storage/internal/zodb"
)

// refers is a change whose record refers to other objects.
func refers(oid zodb.Oid, serial zodb.Tid, text string, refs ...zodb.Oid) change {
	return change{oid, serial, string(Record(text, refs...))}
}

func (h *harness) pack(tid zodb.Tid) {
	h.Helper()
	h.must(h.s.Pack(h.Context(), tid))
}

// wantDropped wants a revision not to be there any more.
func (h *harness) wantDropped(oid zodb.Oid, serial zodb.Tid) {
	h.Helper()
	_, err := h.s.LoadSerial(h.Context(), oid, serial)
	h.wantKeyError(err, oid)
	if rev, ok, err := h.s.LoadBefore(h.Context(), oid, serial+1); ok && err == nil {
		h.Errorf("%s before %s: %+v", oid, serial+1, rev)
	}
}

func packDropsOldRevisions(h *harness) {
	t1 := h.commit(refers(0, 0, "root", 1), refers(1, 0, "a"))
	t2 := h.commit(refers(1, t1, "b"))
	t3 := h.commit(refers(1, t2, "c"))
	t4 := h.commit(refers(1, t3, "d"))
	h.pack(t3)
	h.wantRevision(0, zodb.MaxTid, string(Record("root", 1)), t1, zodb.NoTid)
	h.wantRevision(1, zodb.MaxTid, string(Record("d")), t4, zodb.NoTid)
	h.wantRevision(1, t4, string(Record("c")), t3, t4)
	h.wantDropped(1, t2)
	h.wantDropped(1, t1)
	entries, err := h.s.History(h.Context(), 1, 9)
	if h.must(err); !slices.Equal(tidsOf(entries), []zodb.Tid{t4, t3}) {
		h.Errorf("history %+v", entries)
	}
	all := h.iterate(h.s.Iterate(zodb.NoTid, zodb.MaxTid))
	if len(all) != 3 || all[0].Meta.Status != zodb.Packed || all[1].Meta.Status != zodb.Packed || all[2].Meta.Status != ' ' {
		h.Fatalf("%+v", all)
	}
	h.wantRecords(all[0], t1, zodb.Record{Oid: 0, Data: Record("root", 1)})
	h.wantRecords(all[1], t3, zodb.Record{Oid: 1, Data: Record("c")})
	h.wantRecords(all[2], t4, zodb.Record{Oid: 1, Data: Record("d")})
	if last := h.s.LastTransaction(); last != t4 {
		h.Errorf("last transaction %s", last)
	}
	if _, oids, ok := h.s.Invalidations(h.Context(), t1); ok && !slices.Equal(oids, []zodb.Oid{1}) {
		h.Errorf("invalidations %v", oids)
	}
	h.commit(refers(1, t4, "goes on"))
}

func packDropsGarbage(h *harness) {
	t1 := h.commit(refers(0, 0, "root", 1), refers(1, 0, "linked", 2), refers(2, 0, "linked too"),
		refers(3, 0, "never linked", 4), refers(4, 0, "in a cycle", 3))
	t2 := h.commit(refers(5, 0, "later"))
	h.pack(t1)
	for _, oid := range []zodb.Oid{3, 4} {
		_, _, err := h.s.LoadBefore(h.Context(), oid, zodb.MaxTid)
		h.wantKeyError(err, oid)
		h.wantDropped(oid, t1)
	}
	if n := h.s.Info().Objects; n != 4 {
		h.Errorf("%d objects, want 4", n)
	}
	h.wantRevision(2, zodb.MaxTid, string(Record("linked too")), t1, zodb.NoTid)
	h.wantRevision(5, zodb.MaxTid, string(Record("later")), t2, zodb.NoTid)
	t3 := h.commit(refers(1, t1, "not linked any more"))
	h.pack(t3)
	for _, oid := range []zodb.Oid{2, 5} {
		_, _, err := h.s.LoadBefore(h.Context(), oid, zodb.MaxTid)
		h.wantKeyError(err, oid)
	}
	o, ok, err := h.s.NextObject(h.Context(), 2)
	if h.must(err); ok {
		h.Errorf("there still is %s", o.Oid)
	}
	oids, err := h.s.NewOids(h.Context(), 3)
	if h.must(err); slices.Min(oids) <= 5 {
		h.Errorf("oids of garbage are given out again: %v", oids)
	}
}

func packDropsDeletions(h *harness) {
	t1 := h.commit(refers(0, 0, "root"), refers(1, 0, "a"), refers(2, 0, "b"))
	t2 := h.delete(1, t1)
	t3 := h.undo([]zodb.Oid{0, 2}, h.commit(refers(0, t1, "links", 2), refers(2, t1, "c")))
	h.pack(t3)
	_, _, err := h.s.LoadBefore(h.Context(), 1, zodb.MaxTid)
	h.wantKeyError(err, 1)
	_, err = h.s.History(h.Context(), 1, 9)
	h.wantKeyError(err, 1)
	h.wantRevision(0, zodb.MaxTid, string(Record("root")), t3, zodb.NoTid)
	all := h.iterate(h.s.Iterate(zodb.NoTid, zodb.MaxTid))
	if len(all) != 1 || all[0].Tid <= t2 {
		h.Fatalf("%+v", all)
	}
	h.wantRecords(all[0], t3, zodb.Record{Oid: 0, Data: Record("root")})
}

func packDropsBlobs(h *harness) {
	t1 := h.commit(refers(0, 0, "root", 1))
	t2 := h.commitBlob(1, 0, string(Record("a")), []byte("blob a"))
	t3 := h.commitBlob(1, t2, string(Record("b")), []byte("blob b"))
	t4 := h.commitBlob(2, 0, string(Record("garbage")), []byte("blob of garbage"))
	h.pack(t4)
	h.wantNoBlob(1, t2)
	h.wantBlob(1, t3, []byte("blob b"))
	h.wantNoBlob(2, t4)
	h.wantRevision(0, zodb.MaxTid, string(Record("root", 1)), t1, zodb.NoTid)
}

// packKeepsWhatIsNeeded packs to a time at which nothing referred to an object
// that is in use now.
func packKeepsWhatIsNeeded(h *harness) {
	t1 := h.commit(refers(0, 0, "root"), refers(1, 0, "waits", 2), refers(2, 0, "waits too"), refers(3, 0, "garbage"))
	t2 := h.commit(refers(0, t1, "links", 1))
	h.pack(t1)
	h.wantRevision(1, zodb.MaxTid, string(Record("waits", 2)), t1, zodb.NoTid)
	h.wantRevision(2, zodb.MaxTid, string(Record("waits too")), t1, zodb.NoTid)
	h.wantDropped(3, t1)
	h.wantRevision(0, t2, string(Record("root")), t1, t2)
}

// packKeepsSharedData packs away the revision that an undo has brought back.
func packKeepsSharedData(h *harness) {
	t1 := h.commit(refers(0, 0, "root", 1), refers(2, 0, "linked again", 3), refers(3, 0, "linked again"))
	t2 := h.commitBlob(1, 0, string(Record("old", 2)), []byte("old blob"))
	t3 := h.commitBlob(1, t2, string(Record("new")), []byte("new blob"))
	t4 := h.undo([]zodb.Oid{1}, t3)
	h.pack(t3)
	h.wantRevision(1, zodb.MaxTid, string(Record("old", 2)), t4, zodb.NoTid)
	h.wantRevision(1, t4, string(Record("new")), t3, t4)
	h.wantRevision(3, zodb.MaxTid, string(Record("linked again")), t1, zodb.NoTid)
	h.wantBlob(1, t4, []byte("old blob"))
	for _, txn := range h.iterate(h.s.Iterate(t4, t4)) {
		rec := txn.records[0]
		if string(rec.Data) != string(Record("old", 2)) || rec.DataTxn != t2 && rec.DataTxn != zodb.NoTid {
			h.Errorf("%+v", rec)
		}
	}
	t5 := h.undo([]zodb.Oid{1}, t4)
	h.wantRevision(1, zodb.MaxTid, string(Record("new")), t5, zodb.NoTid)
	h.wantBlob(1, t5, []byte("new blob"))
	h.pack(t5)
	h.wantBlob(1, t5, []byte("new blob"))
	h.wantNoBlob(1, t4)
	h.wantDropped(2, t1)
}

func packEndsUndo(h *harness) {
	t1 := h.commit(refers(0, 0, "root"))
	t2 := h.commit(refers(0, t1, "a"))
	t3 := h.commit(refers(0, t2, "b"))
	t4 := h.commit(refers(0, t3, "c"))
	h.pack(t3)
	if got := tidsOf(h.undoLog(0, 10, nil)); !slices.Equal(got, []zodb.Tid{t4}) {
		h.Errorf("undo log %v, want only %s", got, t4)
	}
	for _, tid := range []zodb.Tid{t1, t2, t3} {
		txn := h.beginUndo(tid)
		_, err := txn.Vote(h.Context())
		if txn.Abort(); !errors.As(err, new(*zodb.UndoError)) {
			h.Errorf("undo of %s: %v, want an UndoError", tid, err)
		}
	}
	t5 := h.undo([]zodb.Oid{0}, t4)
	h.wantRevision(0, zodb.MaxTid, string(Record("b")), t5, zodb.NoTid)
}

func packThatDropsNothing(h *harness) {
	h.pack(zodb.MaxTid) // an empty storage
	t1 := h.commit(refers(0, 0, "root", 1), refers(1, 0, "a"))
	t2 := h.commit(refers(1, t1, "b"))
	for _, tid := range []zodb.Tid{zodb.NoTid, t1 - 1, t1} {
		h.pack(tid)
		if got := tidsOf(h.undoLog(0, 10, nil)); !slices.Equal(got, []zodb.Tid{t2, t1}) {
			h.Errorf("pack to %s leaves only %v to undo", tid, got)
		}
	}
	h.wantRevision(1, t2, string(Record("a")), t1, t2)
	h.pack(t2)
	info := h.s.Info()
	h.pack(t2)
	h.pack(t1)
	if again := h.s.Info(); again.Objects != info.Objects {
		h.Errorf("%+v after %+v", again, info)
	}
	h.wantRevision(1, zodb.MaxTid, string(Record("b")), t2, zodb.NoTid)
}

// packToAnEarlierTime packs to a time of which a pack before has dropped the root.
func packToAnEarlierTime(h *harness) {
	t1 := h.commit(refers(0, 0, "root", 1), refers(1, 0, "a"))
	t2 := h.commit(refers(0, t1, "root, again", 1))
	t3 := h.commit(refers(1, t1, "b"))
	h.pack(t2)
	for _, tid := range []zodb.Tid{t1, t1 - 1, zodb.NoTid} {
		h.pack(tid)
	}
	h.wantRevision(0, zodb.MaxTid, string(Record("root, again", 1)), t2, zodb.NoTid)
	h.wantRevision(1, t3, string(Record("a")), t1, t3)
	h.wantRevision(1, zodb.MaxTid, string(Record("b")), t3, zodb.NoTid)
	if got := tidsOf(h.undoLog(0, 10, nil)); !slices.Equal(got, []zodb.Tid{t3}) {
		h.Errorf("undo log %v, want only %s", got, t3)
	}
}

func packStopsAtWhatItCannotRead(h *harness) {
	t1 := h.commit(refers(0, 0, "root", 1, 2), refers(1, 0, "a"), change{2, 0, "no pickle at all"})
	t2 := h.commit(refers(1, t1, "b"), refers(3, 0, "garbage"))
	if err := h.s.Pack(h.Context(), t2); err == nil {
		h.Error("a pack guesses what an unreadable record refers to")
	}
	h.wantRevision(1, t2, string(Record("a")), t1, t2)
	h.wantRevision(3, zodb.MaxTid, string(Record("garbage")), t2, zodb.NoTid)
	if got := tidsOf(h.undoLog(0, 10, nil)); !slices.Equal(got, []zodb.Tid{t2, t1}) {
		h.Errorf("undo log %v", got)
	}
}

// packWhileCommitsGoOn packs several times at once while objects are created,
// changed and unlinked. What is linked stays, whatever the moment.
func packWhileCommitsGoOn(h *harness) {
	serials := map[zodb.Oid]zodb.Tid{0: h.commit(refers(0, 0, "root"))}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				if err := h.s.Pack(h.Context(), h.s.LastTransaction()); err != nil {
					h.Error(err)
					return
				}
			}
		})
	}
	for n := zodb.Oid(1); n <= 60; n++ {
		linked := []zodb.Oid{n}
		if n > 1 {
			linked = append(linked, n-1)
		}
		tid := h.commit(refers(0, serials[0], "root", linked...), refers(n, 0, "new"))
		serials[0], serials[n] = tid, tid
		if n > 1 {
			serials[n-1] = h.commit(refers(n-1, serials[n-1], "changed"))
		}
		for _, oid := range linked {
			rev, ok, err := h.s.LoadBefore(h.Context(), oid, zodb.MaxTid)
			if err != nil || !ok || rev.Serial != serials[oid] {
				h.Errorf("%s: %+v %v %v, want %s", oid, rev, ok, err, serials[oid])
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	h.pack(h.s.LastTransaction())
	var left []zodb.Oid
	for oid := zodb.Oid(0); ; oid++ {
		o, ok, err := h.s.NextObject(h.Context(), oid)
		if h.must(err); !ok {
			break
		}
		if o.Serial != serials[o.Oid] {
			h.Errorf("%s: %s, want %s", o.Oid, o.Serial, serials[o.Oid])
		}
		left = append(left, o.Oid)
		oid = o.Oid
	}
	if !slices.Equal(left, []zodb.Oid{0, 59, 60}) {
		h.Errorf("left are %v", left)
	}
}
