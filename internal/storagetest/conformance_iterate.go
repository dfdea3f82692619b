package storagetest

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"s3storage/internal/zodb"
)

// An iterated transaction, with its records.
type iterated struct {
	zodb.TxnInfo
	records []zodb.Record
}

func (h *harness) records(it zodb.RecordIterator) (records []zodb.Record) {
	h.Helper()
	for {
		rec, err := it.Next(h.Context())
		if errors.Is(err, io.EOF) {
			if _, err := it.Next(h.Context()); !errors.Is(err, io.EOF) {
				h.Errorf("after the end: %v", err)
			}
			return records
		}
		h.must(err)
		records = append(records, rec)
	}
}

func (h *harness) iterate(it zodb.TxnIterator) (all []iterated) {
	h.Helper()
	for {
		info, err := it.Next(h.Context())
		if errors.Is(err, io.EOF) {
			if _, err := it.Next(h.Context()); !errors.Is(err, io.EOF) {
				h.Errorf("after the end: %v", err)
			}
			return all
		}
		h.must(err)
		all = append(all, iterated{info, h.records(it.Records())})
	}
}

func (h *harness) iteratedTids(start, stop zodb.Tid) (tids []zodb.Tid) {
	h.Helper()
	for _, txn := range h.iterate(h.s.Iterate(start, stop)) {
		tids = append(tids, txn.Tid)
	}
	return tids
}

func iterationOverRanges(h *harness) {
	if got := h.iteratedTids(zodb.NoTid, zodb.MaxTid); got != nil {
		h.Errorf("in an empty storage: %v", got)
	}
	var tids []zodb.Tid
	serial := zodb.NoTid
	for range 5 {
		serial = h.commit(change{1, serial, "x"})
		tids = append(tids, serial)
	}
	for _, c := range []struct {
		start, stop zodb.Tid
		want        []zodb.Tid
	}{
		{zodb.NoTid, zodb.MaxTid, tids},
		{tids[0], tids[4], tids},
		{tids[1], tids[3], tids[1:4]},
		{tids[1] + 1, tids[3] - 1, tids[2:3]},
		{tids[2], tids[2], tids[2:3]},
		{tids[3], tids[1], nil},
		{tids[4] + 1, zodb.MaxTid, nil},
		{zodb.NoTid, tids[0] - 1, nil},
	} {
		if tids[1]+1 == tids[2] && c.start == tids[1]+1 {
			continue // the clock stands, so there is nothing between two tids
		}
		if got := h.iteratedTids(c.start, c.stop); !slices.Equal(got, c.want) {
			h.Errorf("from %s to %s: %v, want %v", c.start, c.stop, got, c.want)
		}
	}
}

func iterationTellsAll(h *harness) {
	ext := []byte("\x80\x03}X\x01\x00\x00\x00aK\x01s.")
	txn, err := h.s.Begin(zodb.TxnMeta{User: []byte("me"), Description: []byte("why"), Extension: ext, Status: ' '}, zodb.NoTid, nil)
	h.must(err)
	for _, c := range []change{{7, 0, "seven"}, {2, 0, ""}, {5, 0, "five"}} {
		h.must(txn.Store(c.oid, c.serial, []byte(c.data)))
	}
	h.vote(txn)
	t1 := h.finish(txn).Tid
	t2 := h.delete(5, t1)
	t3 := h.undo([]zodb.Oid{2, 5, 7}, t2, t1)
	all := h.iterate(h.s.Iterate(zodb.NoTid, zodb.MaxTid))
	if len(all) != 3 {
		h.Fatalf("%+v", all)
	}
	meta := all[0].Meta
	if string(meta.User) != "me" || string(meta.Description) != "why" || string(meta.Extension) != string(ext) || meta.Status != ' ' {
		h.Errorf("%+v", meta)
	}
	h.wantRecords(all[0], t1, zodb.Record{Oid: 7, Data: []byte("seven")}, zodb.Record{Oid: 2, Data: []byte{}}, zodb.Record{Oid: 5, Data: []byte("five")})
	h.wantRecords(all[1], t2, zodb.Record{Oid: 5})
	for _, rec := range all[2].records {
		if rec.Tid != t3 || rec.Data != nil {
			h.Errorf("%+v, want nothing any more", rec)
		}
	}
}

// wantRecords wants the records, in their order; what is not given is not
// looked at.
func (h *harness) wantRecords(got iterated, tid zodb.Tid, want ...zodb.Record) {
	h.Helper()
	if got.Tid != tid || len(got.records) != len(want) {
		h.Errorf("%s: %+v, want %+v", got.Tid, got.records, want)
		return
	}
	for i, rec := range got.records {
		if w := want[i]; rec.Oid != w.Oid || rec.Tid != tid || string(rec.Data) != string(w.Data) ||
			(rec.Data == nil) != (w.Data == nil) || rec.DataTxn != w.DataTxn {
			h.Errorf("%s, record %d: %+v, want %+v", tid, i, rec, w)
		}
	}
}

func iterationWhileCommitsGoOn(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	it := h.s.Iterate(zodb.NoTid, zodb.MaxTid)
	t2 := h.commit(change{1, t1, "b"})
	if all := h.iterate(it); len(all) != 1 || all[0].Tid != t1 {
		h.Errorf("%+v", all)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for serial, n := t2, 0; n < 100; n++ {
			txn := h.beginWith(change{1, serial, "x"})
			_, err := txn.Vote(h.Context())
			c, err2 := await(txn)
			if err = errors.Join(err, err2); err != nil {
				h.Error(err)
				return
			}
			serial = c.Tid
		}
	})
	for range 20 {
		last := h.s.LastTransaction()
		tids := h.iteratedTids(zodb.NoTid, zodb.MaxTid)
		if !slices.IsSorted(tids) || tids[len(tids)-1] < last {
			h.Errorf("after %s: %v", last, tids)
		}
	}
	wg.Wait()
}

func recordsOutliveNext(h *harness) {
	t1 := h.commit(change{1, 0, "a"}, change{2, 0, "b"})
	t2 := h.commit(change{1, t1, "c"})
	it := h.s.Iterate(zodb.NoTid, zodb.MaxTid)
	_, err := it.Next(h.Context())
	h.must(err)
	first, again := it.Records(), it.Records()
	_, err = first.Next(h.Context())
	h.must(err)
	_, err = it.Next(h.Context())
	h.must(err)
	second := it.Records()
	if rest := h.records(first); len(rest) != 1 || rest[0].Oid != 2 || rest[0].Tid != t1 {
		h.Errorf("%+v", rest)
	}
	if all := h.records(again); len(all) != 2 {
		h.Errorf("%+v", all)
	}
	if all := h.records(second); len(all) != 1 || all[0].Tid != t2 {
		h.Errorf("%+v", all)
	}
	ctx, cancel := context.WithCancel(h.Context())
	cancel()
	if _, err := h.s.Iterate(zodb.NoTid, zodb.MaxTid).Next(ctx); err != nil && !errors.Is(err, context.Canceled) {
		h.Error(err)
	}
}

func nextObjectSkipsDeleted(h *harness) {
	if _, ok, err := h.s.NextObject(h.Context(), 0); ok || err != nil {
		h.Errorf("in an empty storage: %v, %v", ok, err)
	}
	t1 := h.commit(change{3, 0, "three"}, change{5, 0, "five"}, change{0, 0, "root"}, change{9, 0, "nine"})
	t2 := h.commit(change{3, t1, "three again"})
	h.delete(5, t1)
	for from, want := range map[zodb.Oid]zodb.Oid{0: 0, 1: 3, 3: 3, 4: 9, 5: 9, 9: 9} {
		o, ok, err := h.s.NextObject(h.Context(), from)
		next := map[zodb.Oid]zodb.Oid{0: 3, 3: 9}[want]
		if err != nil || !ok || o.Oid != want || o.Next != next {
			h.Errorf("from %s: %+v %v %v, want %s and then %s", from, o, ok, err, want, next)
		}
		if want == 3 && (string(o.Data) != "three again" || o.Serial != t2) {
			h.Errorf("from %s: %+v", from, o)
		}
	}
	if o, ok, err := h.s.NextObject(h.Context(), 10); ok || err != nil {
		h.Errorf("after the last: %+v %v, %v", o, ok, err)
	}
}
