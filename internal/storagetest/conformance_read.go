package storagetest

import (
	"errors"
	"io"
	"slices"
	"sync"

	"s3storage/internal/zodb"
)

func emptyTransaction(h *harness) {
	t1 := h.commit(change{1, 0, "one"})
	seen := &recorder{}
	h.s.Subscribe(seen)
	defer h.s.Unsubscribe(seen)
	empty := h.begin()
	h.vote(empty)
	c := h.finish(empty)
	if c.Tid <= t1 || len(c.Oids) > 0 || h.s.LastTransaction() != c.Tid {
		h.Errorf("tid %s after %s, oids %v, last transaction %s", c.Tid, t1, c.Oids, h.s.LastTransaction())
	}
	if heard := seen.heard(); len(heard) != 1 || heard[0] != c.Tid {
		h.Errorf("announced: %v", heard)
	}
	it := h.s.Iterate(t1+1, zodb.MaxTid)
	info, err := it.Next(h.Context())
	h.must(err)
	if _, err := it.Records().Next(h.Context()); info.Tid != c.Tid || !errors.Is(err, io.EOF) {
		h.Errorf("iteration finds %s with records: %v", info.Tid, err)
	}
}

func emptyStorage(h *harness) {
	if last := h.s.LastTransaction(); last != zodb.NoTid {
		h.Errorf("last transaction %s", last)
	}
	h.must(h.s.ReadOnly())
	_, _, err := h.s.LoadBefore(h.Context(), 7, zodb.MaxTid)
	h.wantKeyError(err, 7)
	_, err = h.s.LoadSerial(h.Context(), 7, 1)
	h.wantKeyError(err, 7)
	_, err = h.s.GetTid(h.Context(), 7)
	h.wantKeyError(err, 7)
	_, err = h.s.History(h.Context(), 7, 1)
	h.wantKeyError(err, 7)
	if n := h.s.Info().Objects; n != 0 {
		h.Errorf("%d objects", n)
	}
}

func loadsFindRevisions(h *harness) {
	t1 := h.commit(change{1, zodb.NoTid, "one"}, change{2, zodb.NoTid, "other"})
	t2 := h.commit(change{1, t1, "two"})
	t3 := h.commit(change{1, t2, ""})
	if zodb.NoTid >= t1 || t1 >= t2 || t2 >= t3 {
		h.Fatalf("tids do not ascend: %s %s %s", t1, t2, t3)
	}
	if last := h.s.LastTransaction(); last != t3 {
		h.Errorf("last transaction %s, want %s", last, t3)
	}
	h.wantRevision(1, zodb.MaxTid, "", t3, zodb.NoTid)
	h.wantRevision(1, t3+1, "", t3, zodb.NoTid)
	h.wantRevision(1, t3, "two", t2, t3)
	h.wantRevision(1, t2+1, "two", t2, t3)
	h.wantRevision(1, t2, "one", t1, t2)
	h.wantRevision(2, t1+1, "other", t1, zodb.NoTid)
	for _, tid := range []zodb.Tid{t1, 1, 0} {
		if _, ok, err := h.s.LoadBefore(h.Context(), 1, tid); ok || err != nil {
			h.Errorf("before %s: %v, %v", tid, ok, err)
		}
	}
	_, _, err := h.s.LoadBefore(h.Context(), 3, zodb.MaxTid)
	h.wantKeyError(err, 3)

	tid, err := h.s.GetTid(h.Context(), 1)
	if h.must(err); tid != t3 {
		h.Errorf("serial %s, want %s", tid, t3)
	}
	data, err := h.s.LoadSerial(h.Context(), 1, t2)
	if h.must(err); string(data) != "two" {
		h.Errorf("revision %q", data)
	}
	_, err = h.s.LoadSerial(h.Context(), 2, t2)
	h.wantKeyError(err, 2)
	_, err = h.s.LoadSerial(h.Context(), 1, t1+1)
	if t1+1 != t2 {
		h.wantKeyError(err, 1)
	}
}

func lastStoreCounts(h *harness) {
	t1 := h.commit(change{1, zodb.NoTid, "first"}, change{2, zodb.NoTid, "x"}, change{1, zodb.NoTid, "second"})
	h.wantRevision(1, zodb.MaxTid, "second", t1, zodb.NoTid)
	if n := h.s.Info().Objects; n != 2 {
		h.Errorf("%d objects, want 2", n)
	}
}

func historyIsNewestFirst(h *harness) {
	ext := []byte("\x80\x03}X\x01\x00\x00\x00aK\x01s.")
	txn, err := h.s.Begin(zodb.TxnMeta{User: []byte("me"), Description: []byte("why"), Extension: ext, Status: ' '}, zodb.NoTid, nil)
	h.must(err)
	h.must(txn.Store(1, zodb.NoTid, []byte("abc")))
	h.vote(txn)
	t1 := h.finish(txn).Tid
	t2 := h.commit(change{1, t1, "defgh"})
	h.commit(change{2, zodb.NoTid, "x"})
	for size, want := range [][]zodb.Tid{1: {t2}, 2: {t2, t1}, 9: {t2, t1}} {
		if want == nil {
			continue
		}
		entries, err := h.s.History(h.Context(), 1, size)
		h.must(err)
		var tids []zodb.Tid
		for _, e := range entries {
			tids = append(tids, e.Tid)
		}
		if !slices.Equal(tids, want) {
			h.Errorf("history of %d: %v, want %v", size, tids, want)
		}
		if len(entries) < 2 {
			continue
		}
		e := entries[1]
		if string(e.Meta.User) != "me" || string(e.Meta.Description) != "why" ||
			string(e.Meta.Extension) != string(ext) || e.Meta.Status != ' ' || e.Size != 3 {
			h.Errorf("entry %+v", e)
		}
	}
	_, err = h.s.History(h.Context(), 3, 1)
	h.wantKeyError(err, 3)
}

func invalidationsAreComplete(h *harness) {
	t1 := h.commit(change{1, zodb.NoTid, "a"}, change{2, zodb.NoTid, "a"})
	t2 := h.commit(change{2, t1, "b"}, change{3, zodb.NoTid, "b"})
	t3 := h.commit(change{2, t2, "c"})
	for _, c := range []struct {
		after zodb.Tid
		want  []zodb.Oid
	}{
		{t3, nil},
		{t3 - 1, []zodb.Oid{2}},
		{t2, []zodb.Oid{2}},
		{t1, []zodb.Oid{2, 3}},
		{t1 - 1, []zodb.Oid{1, 2, 3}},
	} {
		last, oids, ok := h.s.Invalidations(h.Context(), c.after)
		if !ok {
			h.Errorf("after %s: nothing, though nothing was forgotten", c.after)
			continue
		}
		oids = slices.Sorted(slices.Values(oids))
		if last != t3 || !slices.Equal(oids, c.want) {
			h.Errorf("after %s: %s %v, want %s %v", c.after, last, oids, t3, c.want)
		}
	}
}

func oidsAreHandedOutOnce(h *harness) {
	var mu sync.Mutex
	seen := map[zodb.Oid]bool{0: true} // the root's
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, n := range []int{1, 100, 7, 100, 3} {
				oids, err := h.s.NewOids(h.Context(), n)
				if err != nil || len(oids) != n {
					h.Errorf("%d oids, want %d: %v", len(oids), n, err)
				}
				mu.Lock()
				for _, oid := range oids {
					if seen[oid] || oid > zodb.MaxOid {
						h.Errorf("oid %s was not free", oid)
					}
					seen[oid] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func statisticsCount(h *harness) {
	before := h.s.Stats()
	t1 := h.commit(change{1, zodb.NoTid, "a"}, change{2, zodb.NoTid, "a"})
	h.wantRevision(1, zodb.MaxTid, "a", t1, zodb.NoTid)
	txn := h.beginWith(change{1, zodb.NoTid, "b"})
	if n := h.s.Stats().ActiveTxns; n != before.ActiveTxns+1 {
		h.Errorf("%d active transactions", n)
	}
	if ballot, err := txn.Vote(h.Context()); len(ballot.Conflicts) != 1 || err != nil {
		h.Errorf("ballot.Conflicts %v, %v", ballot.Conflicts, err)
	}
	txn.Abort()
	after := h.s.Stats()
	if after.Commits != before.Commits+1 || after.Stores != before.Stores+3 || after.Aborts != before.Aborts+1 ||
		after.Conflicts != before.Conflicts+1 || after.ActiveTxns != before.ActiveTxns || after.Waiting != 0 ||
		after.Loads <= before.Loads {
		h.Errorf("from %+v to %+v", before, after)
	}
}

func commitTellsInfo(h *harness) {
	txn := h.beginWith(change{1, zodb.NoTid, "abc"}, change{2, zodb.NoTid, "d"})
	h.vote(txn)
	c := h.finish(txn)
	if info := h.s.Info(); c.Info != info || info.Objects != 2 || info.Size <= 0 {
		h.Errorf("the commit tells %+v, the storage %+v", c.Info, info)
	}
	if oids := slices.Sorted(slices.Values(c.Oids)); !slices.Equal(oids, []zodb.Oid{1, 2}) {
		h.Errorf("oids %v", oids)
	}
}
