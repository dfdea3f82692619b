package storagetest

import (
	"errors"
	"slices"
	"time"

	"s3storage/internal/zodb"
)

func (h *harness) delete(oid zodb.Oid, serial zodb.Tid) zodb.Tid {
	h.Helper()
	txn := h.begin()
	h.must(txn.Delete(oid, serial))
	h.vote(txn)
	c := h.finish(txn)
	if !slices.Equal(c.Oids, []zodb.Oid{oid}) {
		h.Errorf("the deletion of %s names %v", oid, c.Oids)
	}
	return c.Tid
}

func deletedIsGone(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	r := &recorder{}
	h.s.Subscribe(r)
	t2 := h.delete(1, t1)
	h.wantGone(1, zodb.MaxTid)
	h.wantRevision(1, t2, "a", t1, t2)
	_, err := h.s.GetTid(h.Context(), 1)
	h.wantKeyError(err, 1)
	_, err = h.s.LoadSerial(h.Context(), 1, t2)
	h.wantKeyError(err, 1)
	if heard := r.heard(); !slices.Equal(heard, []zodb.Tid{t2}) {
		h.Errorf("heard %v", heard)
	}
	if _, oids, ok := h.s.Invalidations(h.Context(), t1); !ok || !slices.Equal(oids, []zodb.Oid{1}) {
		h.Errorf("invalidations %v %v", oids, ok)
	}
	entries, err := h.s.History(h.Context(), 1, 9)
	if h.must(err); !slices.Equal(tidsOf(entries), []zodb.Tid{t2, t1}) {
		h.Errorf("history %+v", entries)
	}
	check := h.begin()
	h.must(check.CheckCurrent(1, t1))
	if _, err := check.Vote(h.Context()); err == nil {
		h.Error("a check of a deleted object succeeds")
	}
	check.Abort()
}

func deleteConflicts(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	t2 := h.commit(change{1, t1, "b"})
	txn := h.begin()
	h.must(txn.Delete(1, t1))
	_, err := txn.Vote(h.Context())
	var conflict *zodb.ConflictError
	if !errors.As(err, &conflict) || *conflict != (zodb.ConflictError{Oid: 1, Committed: t2, Read: t1}) {
		h.Errorf("%v", err)
	}
	txn.Abort()

	txn = h.begin()
	h.must(txn.Delete(7, t1))
	_, err = txn.Vote(h.Context())
	h.wantKeyError(err, 7)
	txn.Abort()

	a, b := h.begin(), h.beginWith(change{1, t2, "c"})
	h.must(a.Delete(1, t2))
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	t3 := h.finish(a).Tid
	h.wait(waiting)
	h.wantConflict(waiting.ballot.Conflicts, waiting.err, zodb.Conflict{Oid: 1, Committed: t3, Read: t2, Data: []byte("c")})
	b.Abort()
	h.wantGone(1, zodb.MaxTid)
}

// A restored record is one for a transaction of restore.
type restored struct {
	oid    zodb.Oid
	data   []byte
	source zodb.Tid
}

func (h *harness) restore(tid zodb.Tid, status byte, records ...restored) {
	h.Helper()
	txn, err := h.s.Begin(zodb.TxnMeta{User: []byte("u"), Description: []byte("d"), Status: status}, tid, nil)
	h.must(err)
	for _, r := range records {
		h.must(txn.Restore(r.oid, r.data, r.source))
	}
	h.vote(txn)
	if c := h.finish(txn); c.Tid != tid || len(c.Oids) != len(records) {
		h.Errorf("restored %+v, want %s", c, tid)
	}
	if last := h.s.LastTransaction(); last != tid {
		h.Errorf("last transaction %s, want %s", last, tid)
	}
}

// longAgo is a tid that no clock gives any more.
var longAgo = zodb.TidAt(time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC))

func restoreKeepsTids(h *harness) {
	const minute = 1 << 32
	t1, t2, t3, t4 := longAgo, longAgo+minute, longAgo+2*minute, longAgo+3*minute
	h.restore(t1, ' ', restored{oid: 1, data: []byte("a")}, restored{oid: 8, data: []byte("x")})
	h.restore(t2, ' ', restored{oid: 1, data: []byte("b")})
	h.restore(t3, zodb.Packed, restored{oid: 1, data: []byte("a"), source: t1})
	h.restore(t4, ' ', restored{oid: 8})
	h.wantRevision(1, zodb.MaxTid, "a", t3, zodb.NoTid)
	h.wantRevision(1, t3, "b", t2, t3)
	h.wantRevision(1, t2, "a", t1, t2)
	h.wantGone(8, zodb.MaxTid)
	h.wantRevision(8, t4, "x", t1, t4)

	all := h.iterate(h.s.Iterate(zodb.NoTid, zodb.MaxTid))
	if len(all) != 4 || all[1].Meta.Status != ' ' || all[2].Meta.Status != zodb.Packed {
		h.Fatalf("%+v", all)
	}
	h.wantRecords(all[2], t3, zodb.Record{Oid: 1, Data: []byte("a"), DataTxn: t1})
	h.wantRecords(all[3], t4, zodb.Record{Oid: 8})

	// New transactions and oids come after them.
	if t5 := h.commit(change{1, t3, "c"}); t5 <= t4 {
		h.Errorf("%s after %s", t5, t4)
	}
	oids, err := h.s.NewOids(h.Context(), 1)
	if h.must(err); oids[0] <= 8 {
		h.Errorf("oid %s was not free", oids[0])
	}
}

func restoreDoubtsTheSource(h *harness) {
	t1 := longAgo
	h.restore(t1, ' ', restored{oid: 1, data: []byte("a")}, restored{oid: 2, data: []byte("a")})
	h.restore(t1+1, ' ',
		restored{oid: 1, data: []byte("b"), source: t1},     // not what the source has
		restored{oid: 2, data: []byte("a"), source: t1 - 5}, // no such transaction
		restored{oid: 3, data: []byte("c"), source: t1})     // not in that transaction
	all := h.iterate(h.s.Iterate(t1+1, t1+1))
	if len(all) != 1 {
		h.Fatalf("%+v", all)
	}
	h.wantRecords(all[0], t1+1, zodb.Record{Oid: 1, Data: []byte("b")}, zodb.Record{Oid: 2, Data: []byte("a")}, zodb.Record{Oid: 3, Data: []byte("c")})
	h.wantRevision(1, zodb.MaxTid, "b", t1+1, zodb.NoTid)
}

func restoreOnlyForward(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	for _, tid := range []zodb.Tid{t1, t1 - 1, longAgo} {
		txn, err := h.s.Begin(zodb.TxnMeta{Status: ' '}, tid, nil)
		h.must(err)
		h.must(txn.Restore(1, []byte("b"), zodb.NoTid))
		if _, err := txn.Vote(h.Context()); err == nil {
			h.Errorf("the vote for %s succeeds after %s", tid, t1)
		}
		txn.Abort()
	}
	h.wantRevision(1, zodb.MaxTid, "a", t1, zodb.NoTid)
	txn := h.begin()
	err := txn.Restore(1, []byte("b"), zodb.NoTid)
	if err == nil {
		_, err = txn.Vote(h.Context())
	}
	if err == nil {
		h.Error("restored without a tid")
	}
	txn.Abort()
	h.restore(t1+1, ' ', restored{oid: 1, data: []byte("b")})
}

// storeUnderATid stores as a client does that copies transactions without
// restore.
func storeUnderATid(h *harness) {
	txn, err := h.s.Begin(zodb.TxnMeta{Status: ' '}, longAgo, nil)
	h.must(err)
	h.must(txn.Store(1, zodb.NoTid, []byte("a")))
	h.vote(txn)

	// Another vote must not get a later tid first.
	other := h.startVote(h.Context(), h.beginWith(change{2, 0, "b"}))
	if c := h.finish(txn); c.Tid != longAgo {
		h.Errorf("committed as %s, not as %s", c.Tid, longAgo)
	}
	h.wait(other)
	h.must(other.err)
	h.wantRevision(1, zodb.MaxTid, "a", longAgo, zodb.NoTid)
}
