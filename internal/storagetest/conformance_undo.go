package storagetest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"s3storage/internal/zodb"
)

func (h *harness) beginUndo(undone ...zodb.Tid) zodb.Transaction {
	h.Helper()
	txn := h.begin()
	for _, tid := range undone {
		h.must(txn.Undo(tid))
	}
	return txn
}

// undo undoes, and wants the vote to name the objects.
func (h *harness) undo(oids []zodb.Oid, undone ...zodb.Tid) zodb.Tid {
	h.Helper()
	txn := h.beginUndo(undone...)
	ballot, err := txn.Vote(h.Context())
	h.must(err)
	if got := slices.Sorted(slices.Values(ballot.Undone)); len(ballot.Conflicts) > 0 || !slices.Equal(got, oids) {
		h.Fatalf("the vote answers %+v, want %v undone", ballot, oids)
	}
	c := h.finish(txn)
	if got := slices.Sorted(slices.Values(c.Oids)); !slices.Equal(got, oids) {
		h.Errorf("the commit names %v, want %v", got, oids)
	}
	return c.Tid
}

// wantNotUndone wants a vote to fail with a *MultipleUndoErrors about the
// objects.
func (h *harness) wantNotUndone(txn zodb.Transaction, oids ...zodb.Oid) {
	h.Helper()
	ballot, err := txn.Vote(h.Context())
	txn.Abort()
	var multiple *zodb.MultipleUndoErrors
	if !errors.As(err, &multiple) {
		h.Errorf("the vote answers %+v, %v; want a MultipleUndoErrors", ballot, err)
		return
	}
	var got []zodb.Oid
	for _, e := range multiple.Errs {
		got = append(got, e.Oid)
		if e.Reason == "" {
			h.Errorf("no reason about %s", e.Oid)
		}
	}
	if slices.Sort(got); !slices.Equal(got, oids) {
		h.Errorf("errors about %v, want %v", got, oids)
	}
}

func (h *harness) wantGone(oid zodb.Oid, tid zodb.Tid) {
	h.Helper()
	rev, ok, err := h.s.LoadBefore(h.Context(), oid, tid)
	if err == nil {
		h.Errorf("%s before %s: %+v %v", oid, tid, rev, ok)
		return
	}
	h.wantKeyError(err, oid)
}

func undoChange(h *harness) {
	t1 := h.commit(change{1, 0, "old"}, change{2, 0, "other"})
	t2 := h.commit(change{1, t1, "new"})
	t3 := h.undo([]zodb.Oid{1}, t2)
	h.wantRevision(1, zodb.MaxTid, "old", t3, zodb.NoTid)
	h.wantRevision(1, t3, "new", t2, t3)
	h.wantRevision(2, zodb.MaxTid, "other", t1, zodb.NoTid)
	data, err := h.s.LoadSerial(h.Context(), 1, t3)
	if h.must(err); string(data) != "old" {
		h.Errorf("revision %q", data)
	}
	h.commit(change{1, t3, "goes on"})
}

func undoCreation(h *harness) {
	t1 := h.commit(change{1, 0, "a"}, change{2, 0, "b"})
	t2 := h.undo([]zodb.Oid{1, 2}, t1)
	h.wantGone(1, zodb.MaxTid)
	_, err := h.s.GetTid(h.Context(), 1)
	h.wantKeyError(err, 1)
	_, err = h.s.LoadSerial(h.Context(), 1, t2)
	h.wantKeyError(err, 1)
	h.wantRevision(1, t2, "a", t1, t2)

	t3 := h.undo([]zodb.Oid{1, 2}, t2) // and back
	h.wantRevision(1, zodb.MaxTid, "a", t3, zodb.NoTid)
	h.wantGone(1, t3)
}

func undoDeletion(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	t2 := h.delete(1, t1)
	t3 := h.undo([]zodb.Oid{1}, t2)
	h.wantRevision(1, zodb.MaxTid, "a", t3, zodb.NoTid)
	h.wantGone(1, t3)
	h.wantRevision(1, t2, "a", t1, t2)
}

// undoDeletionThatCameBack undoes deletions, and an undo that had deleted, where
// the object was there in between and is not any more.
func undoDeletionThatCameBack(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	t2 := h.delete(1, t1)
	t3 := h.commit(change{1, t2, "b"})
	t4 := h.undo([]zodb.Oid{1}, t3)
	h.wantGone(1, zodb.MaxTid)
	t5 := h.undo([]zodb.Oid{1}, t2)
	h.wantRevision(1, zodb.MaxTid, "a", t5, zodb.NoTid)
	h.wantGone(1, t5)
	h.wantRevision(1, t4, "b", t3, t4)

	t6 := h.delete(1, t5)
	t7 := h.commit(change{1, t6, "b"})
	t8 := h.undo([]zodb.Oid{1}, t7, t6) // both in one transaction
	h.wantRevision(1, zodb.MaxTid, "a", t8, zodb.NoTid)

	t9 := h.delete(1, t8)
	t10 := h.commit(change{1, t9, "b"})
	h.wantNotUndone(h.beginUndo(t9), 1)
	h.delete(1, t10) // another deletion, the same state
	t12 := h.undo([]zodb.Oid{1}, t9)
	h.wantRevision(1, zodb.MaxTid, "a", t12, zodb.NoTid)

	u1 := h.commit(change{3, 0, "c"})
	u2 := h.undo([]zodb.Oid{3}, u1)
	u3 := h.undo([]zodb.Oid{3}, u2)
	h.undo([]zodb.Oid{3}, u3)
	u5 := h.undo([]zodb.Oid{3}, u2)
	h.wantRevision(3, zodb.MaxTid, "c", u5, zodb.NoTid)
}

func undoUndo(h *harness) {
	t1 := h.commit(change{1, 0, "old"})
	t2 := h.commit(change{1, t1, "new"})
	t3 := h.undo([]zodb.Oid{1}, t2)
	t4 := h.undo([]zodb.Oid{1}, t3)
	h.wantRevision(1, zodb.MaxTid, "new", t4, zodb.NoTid)
	t5 := h.undo([]zodb.Oid{1}, t4)
	h.wantRevision(1, zodb.MaxTid, "old", t5, zodb.NoTid)
	h.wantRevision(1, t5, "new", t4, t5)
}

func undoSeveral(h *harness) {
	t1 := h.commit(change{1, 0, "1"}, change{2, 0, "1"})
	t2 := h.commit(change{1, t1, "2"}, change{2, t1, "2"})
	t3 := h.commit(change{1, t2, "3"}, change{3, 0, "3"})
	t4 := h.undo([]zodb.Oid{1, 2, 3}, t3, t2)
	h.wantRevision(1, zodb.MaxTid, "1", t4, zodb.NoTid)
	h.wantRevision(2, zodb.MaxTid, "1", t4, zodb.NoTid)
	h.wantGone(3, zodb.MaxTid)
	t5 := h.undo([]zodb.Oid{1, 2, 3}, t4)
	h.wantRevision(1, zodb.MaxTid, "3", t5, zodb.NoTid)
	h.wantRevision(2, zodb.MaxTid, "2", t5, zodb.NoTid)
	h.wantRevision(3, zodb.MaxTid, "3", t5, zodb.NoTid)
}

func undoBesideStores(h *harness) {
	t1 := h.commit(change{1, 0, "old"}, change{2, 0, "x"})
	t2 := h.commit(change{1, t1, "new"})
	txn := h.beginUndo(t2)
	h.must(txn.Store(2, t1, []byte("y")))
	h.vote(txn)
	t3 := h.finish(txn).Tid
	h.wantRevision(1, zodb.MaxTid, "old", t3, zodb.NoTid)
	h.wantRevision(2, zodb.MaxTid, "y", t3, zodb.NoTid)
}

// undoConflictResolved merges as a client does: what came later is kept.
func undoConflictResolved(h *harness) {
	t1 := h.commit(change{1, 0, "1"}, change{2, 0, "x"})
	t2 := h.commit(change{1, t1, "1+10"}, change{2, t1, "y"})
	t3 := h.commit(change{1, t2, "1+10+100"})
	txn := h.beginUndo(t2)
	ballot, err := txn.Vote(h.Context())
	h.wantConflict(ballot.Conflicts, err, zodb.Conflict{Oid: 1, Committed: t3, Read: t2, Data: []byte("1")})
	if len(ballot.Undone) > 0 {
		h.Errorf("conflicts and %v undone", ballot.Undone)
	}
	t4 := h.commit(change{1, t3, "1+10+100+1000"}) // once more in the meantime
	h.must(txn.Store(1, t3, []byte("1+100")))
	ballot, err = txn.Vote(h.Context())
	h.wantConflict(ballot.Conflicts, err, zodb.Conflict{Oid: 1, Committed: t4, Read: t3, Data: []byte("1+100")})
	h.must(txn.Store(1, t4, []byte("1+100+1000")))
	ballot, err = txn.Vote(h.Context())
	h.must(err)
	if len(ballot.Conflicts) > 0 || !slices.Equal(ballot.Undone, []zodb.Oid{2}) {
		h.Fatalf("%+v", ballot)
	}
	t5 := h.finish(txn).Tid
	h.wantRevision(1, zodb.MaxTid, "1+100+1000", t5, zodb.NoTid)
	h.wantRevision(2, zodb.MaxTid, "x", t5, zodb.NoTid)
}

func undoConflictUnresolved(h *harness) {
	t1 := h.commit(change{1, 0, "1"})
	t2 := h.commit(change{1, t1, "2"})
	t3 := h.commit(change{1, t2, "3"})
	txn := h.beginUndo(t2)
	if ballot, err := txn.Vote(h.Context()); err != nil || len(ballot.Conflicts) != 1 {
		h.Fatal(ballot, err)
	}
	txn.Abort()
	t4 := h.commit(change{1, t3, "4"})
	h.wantRevision(1, zodb.MaxTid, "4", t4, zodb.NoTid)

	// Two undos in one transaction, neither of which has the newest change.
	txn = h.beginUndo(t3, t2)
	ballot, err := txn.Vote(h.Context())
	h.wantConflict(ballot.Conflicts, err, zodb.Conflict{Oid: 1, Committed: t4, Read: t3, Data: []byte("1")})
	txn.Abort()
	txn = h.beginUndo(t2, t3)
	ballot, err = txn.Vote(h.Context())
	h.wantConflict(ballot.Conflicts, err, zodb.Conflict{Oid: 1, Committed: t4, Read: t3, Data: []byte("1")})
	txn.Abort()
}

func undoImpossible(h *harness) {
	t1 := h.commit(change{1, 0, "a"}, change{2, 0, "a"}, change{3, 0, "a"})
	t2 := h.commit(change{1, t1, "b"}, change{2, t1, "b"})
	h.wantNotUndone(h.beginUndo(t1), 1, 2) // they were created there and changed since

	t3 := h.commit(change{3, t1, "b"})
	t4 := h.commit(change{3, t3, "c"})
	t5 := h.commit(change{3, t4, "d"})
	h.commit(change{3, t5, "e"})
	h.wantNotUndone(h.beginUndo(t5, t3), 3) // with t4 between them

	h.delete(2, t2)
	h.wantNotUndone(h.beginUndo(t2), 2)
	h.wantRevision(1, zodb.MaxTid, "b", t2, zodb.NoTid)
}

func undoWithOwnChanges(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	t2 := h.commit(change{1, t1, "b"})
	txn := h.beginWith(change{1, t2, "c"})
	h.must(txn.Undo(t2))
	h.wantNotUndone(txn, 1)
	h.commit(change{1, t2, "free again"})
}

func undoOfWhatCameBack(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	t2 := h.commit(change{1, t1, "b"})
	t3 := h.commit(change{1, t2, "c"})
	h.commit(change{1, t3, "b"}) // as t2 left it
	t5 := h.undo([]zodb.Oid{1}, t2)
	h.wantRevision(1, zodb.MaxTid, "a", t5, zodb.NoTid)

	// The state that undo has brought back is the one of the first change.
	t6 := h.undo([]zodb.Oid{1}, t1)
	h.wantGone(1, zodb.MaxTid)
	h.wantRevision(1, t6, "a", t5, t6)
}

func undoOfUnknown(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	for _, tid := range []zodb.Tid{zodb.NoTid, t1 - 1, t1 + 1, zodb.MaxTid} {
		txn := h.beginUndo(tid)
		_, err := txn.Vote(h.Context())
		if txn.Abort(); !errors.As(err, new(*zodb.UndoError)) {
			h.Errorf("undo of %s: %v, want an UndoError", tid, err)
		}
	}
	h.undo([]zodb.Oid{1}, t1)
}

func undoLocks(h *harness) {
	t1 := h.commit(change{1, 0, "a"})
	t2 := h.commit(change{1, t1, "b"})
	a, b := h.beginUndo(t2), h.beginWith(change{1, t2, "c"})
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	t3 := h.finish(a).Tid
	h.wait(waiting)
	h.wantConflict(waiting.ballot.Conflicts, waiting.err, zodb.Conflict{Oid: 1, Committed: t3, Read: t2, Data: []byte("c")})
	b.Abort()
}

func (h *harness) undoLog(first, n int, match func(*zodb.TxnInfo) bool) []zodb.TxnInfo {
	h.Helper()
	infos, err := h.s.UndoLog(h.Context(), first, n, match)
	h.must(err)
	return infos
}

func tidsOf(infos []zodb.TxnInfo) []zodb.Tid {
	var tids []zodb.Tid
	for _, info := range infos {
		tids = append(tids, info.Tid)
	}
	return tids
}

func undoLogIsNewestFirst(h *harness) {
	if got := h.undoLog(0, 10, nil); len(got) > 0 {
		h.Errorf("undo log of nothing: %+v", got)
	}
	serial := zodb.NoTid
	var newestFirst []zodb.Tid
	for n := range 30 {
		txn, err := h.s.Begin(zodb.TxnMeta{
			User: fmt.Appendf(nil, "user %d", n%3), Description: fmt.Appendf(nil, "change %d", n),
			Extension: []byte("\x80\x03}."), Status: ' ',
		}, zodb.NoTid, nil)
		h.must(err)
		h.must(txn.Store(1, serial, []byte("abc")))
		h.vote(txn)
		serial = h.finish(txn).Tid
		newestFirst = slices.Insert(newestFirst, 0, serial)
	}
	for _, c := range []struct{ first, n, want int }{{0, 30, 30}, {0, 100, 30}, {0, 1, 1}, {3, 5, 5}, {28, 5, 2}, {30, 5, 0}, {99, 5, 0}, {2, 0, 0}} {
		got := tidsOf(h.undoLog(c.first, c.n, nil))
		if want := newestFirst[min(c.first, 30):][:c.want]; !slices.Equal(got, want) {
			h.Errorf("first %d, at most %d: %v, want %v", c.first, c.n, got, want)
		}
	}
	info := h.undoLog(7, 1, nil)[0]
	if string(info.Meta.User) != "user 1" || string(info.Meta.Description) != "change 22" ||
		string(info.Meta.Extension) != "\x80\x03}." || info.Meta.Status != ' ' || info.Size <= 0 {
		h.Errorf("entry %+v", info)
	}
	// Only those that match are counted.
	got := h.undoLog(2, 3, func(info *zodb.TxnInfo) bool { return strings.HasSuffix(string(info.Meta.User), "0") })
	if want := []zodb.Tid{newestFirst[8], newestFirst[11], newestFirst[14]}; !slices.Equal(tidsOf(got), want) {
		h.Errorf("matching: %v, want %v", tidsOf(got), want)
	}
}

func undoSharesTheData(h *harness) {
	t1 := h.commit(change{1, 0, "old"})
	t2 := h.commit(change{1, t1, "new"})
	t3 := h.undo([]zodb.Oid{1}, t2)
	it := h.s.Iterate(t3, t3)
	_, err := it.Next(h.Context())
	h.must(err)
	rec, err := it.Records().Next(h.Context())
	if h.must(err); rec.Oid != 1 || rec.Tid != t3 || string(rec.Data) != "old" || rec.DataTxn != t1 {
		h.Errorf("%+v, want the data of %s", rec, t1)
	}
	if _, err := it.Next(h.Context()); !errors.Is(err, io.EOF) {
		h.Errorf("%v", err)
	}
}
