package storagetest

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"s3storage/internal/zodb"
)

func differentObjects(h *harness) {
	a, b := h.beginWith(change{1, 0, "a"}), h.beginWith(change{2, 0, "b"})
	h.vote(a)
	h.vote(b)
	tb := h.finish(b).Tid
	ta := h.finish(a).Tid
	if ta <= tb {
		h.Errorf("finished as %s, then %s", tb, ta)
	}
}

// wantConflict wants exactly one conflict.
func (h *harness) wantConflict(conflicts []zodb.Conflict, err error, want zodb.Conflict) {
	h.Helper()
	h.must(err)
	if len(conflicts) != 1 {
		h.Fatalf("conflicts %v", conflicts)
	}
	c := conflicts[0]
	if c.Oid != want.Oid || c.Committed != want.Committed || c.Read != want.Read || string(c.Data) != string(want.Data) {
		h.Errorf("conflict %+v, want %+v", c, want)
	}
}

func voteWaits(h *harness) {
	t1 := h.commit(change{1, 0, "old"})
	a, b := h.beginWith(change{1, t1, "a"}), h.beginWith(change{1, t1, "b"})
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	t2 := h.finish(a).Tid
	h.wait(waiting)
	h.wantConflict(waiting.ballot.Conflicts, waiting.err, zodb.Conflict{Oid: 1, Committed: t2, Read: t1, Data: []byte("b")})
	b.Abort()
	h.wantRevision(1, zodb.MaxTid, "a", t2, zodb.NoTid)
}

func abortLetsGo(h *harness) {
	a, b := h.beginWith(change{1, 0, "a"}), h.beginWith(change{1, 0, "b"})
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	a.Abort()
	h.wait(waiting)
	if waiting.err != nil || len(waiting.ballot.Conflicts) > 0 {
		h.Fatal(waiting.ballot.Conflicts, waiting.err)
	}
	t1 := h.finish(b).Tid
	h.wantRevision(1, zodb.MaxTid, "b", t1, zodb.NoTid)
}

func checksShare(h *harness) {
	t1 := h.commit(change{1, 0, "x"})
	a, b := h.beginWith(change{2, 0, "a"}), h.beginWith(change{3, 0, "b"})
	h.must(a.CheckCurrent(1, t1))
	h.must(b.CheckCurrent(1, t1))
	h.vote(a)
	h.vote(b)
	h.finish(a)
	h.finish(b)
}

func writeWaitsForCheck(h *harness) {
	t1 := h.commit(change{1, 0, "x"})
	a, b := h.beginWith(change{2, 0, "a"}), h.beginWith(change{1, t1, "b"})
	h.must(a.CheckCurrent(1, t1))
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	h.finish(a)
	h.wait(waiting)
	if waiting.err != nil || len(waiting.ballot.Conflicts) > 0 {
		h.Fatal(waiting.ballot.Conflicts, waiting.err)
	}
	h.finish(b)
}

func (h *harness) wantReadConflict(err error, want zodb.ReadConflictError) {
	h.Helper()
	var got *zodb.ReadConflictError
	if !errors.As(err, &got) || *got != want {
		h.Errorf("error %v, want %v", err, &want)
	}
}

func checkWaitsForWrite(h *harness) {
	t1 := h.commit(change{1, 0, "x"})
	a, b := h.beginWith(change{1, t1, "a"}), h.beginWith(change{2, 0, "b"})
	h.must(b.CheckCurrent(1, t1))
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	t2 := h.finish(a).Tid
	h.wait(waiting)
	h.wantReadConflict(waiting.err, zodb.ReadConflictError{Oid: 1, Committed: t2, Read: t1})
	b.Abort()
	h.commit(change{2, 0, "free again"})
}

func checkFails(h *harness) {
	t1 := h.commit(change{1, 0, "x"})
	t2 := h.commit(change{1, t1, "y"})
	a := h.beginWith(change{2, 0, "a"})
	h.must(a.CheckCurrent(1, t1))
	_, err := a.Vote(h.Context())
	h.wantReadConflict(err, zodb.ReadConflictError{Oid: 1, Committed: t2, Read: t1})
	a.Abort()
	h.commit(change{1, t2, "z"}, change{2, 0, "b"})
}

func checkOfDeletedFails(h *harness) {
	t1 := h.commit(change{1, 0, "x"})
	deletion := h.begin()
	h.must(deletion.Delete(1, t1))
	h.vote(deletion)
	t2 := h.finish(deletion).Tid
	for _, serial := range []zodb.Tid{t1, t2} {
		txn := h.begin()
		h.must(txn.CheckCurrent(1, serial))
		_, err := txn.Vote(h.Context())
		h.wantKeyError(err, 1)
		txn.Abort()
	}
}

func conflictGoesOn(h *harness) {
	t1 := h.commit(change{1, 0, "x"})
	t2 := h.commit(change{1, t1, "y"})
	a := h.beginWith(change{1, t1, "stale"}, change{2, 0, "new"})
	ballot, err := a.Vote(h.Context())
	h.wantConflict(ballot.Conflicts, err, zodb.Conflict{Oid: 1, Committed: t2, Read: t1, Data: []byte("stale")})
	t3 := h.commit(change{1, t2, "z"}) // once more in the meantime
	h.must(a.Store(1, t2, []byte("merged")))
	ballot, err = a.Vote(h.Context())
	h.wantConflict(ballot.Conflicts, err, zodb.Conflict{Oid: 1, Committed: t3, Read: t2, Data: []byte("merged")})
	h.must(a.Store(1, t3, []byte("merged again")))
	h.vote(a)
	t4 := h.finish(a).Tid
	h.wantRevision(1, zodb.MaxTid, "merged again", t4, zodb.NoTid)
	h.wantRevision(2, zodb.MaxTid, "new", t4, zodb.NoTid)
}

func conflictHoldsNoLock(h *harness) {
	t1 := h.commit(change{1, 0, "x"})
	a := h.beginWith(change{1, 0, "stale"}, change{2, 0, "a"})
	if ballot, err := a.Vote(h.Context()); err != nil || len(ballot.Conflicts) == 0 {
		h.Fatal(ballot.Conflicts, err)
	}
	h.commit(change{1, t1, "y"}, change{2, 0, "b"})
	a.Abort()
}

func waitingHoldsNoLock(h *harness) {
	a, b, c := h.beginWith(change{1, 0, "a"}), h.beginWith(change{1, 0, "b"}, change{2, 0, "b"}), h.beginWith(change{2, 0, "c"})
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	h.vote(c) // all at once or not at all: 2 is free
	a.Abort()
	c.Abort()
	h.wait(waiting)
	if waiting.err != nil || len(waiting.ballot.Conflicts) > 0 {
		h.Fatal(waiting.ballot.Conflicts, waiting.err)
	}
	h.finish(b)
}

func abortWakesVote(h *harness) {
	a, b := h.beginWith(change{1, 0, "a"}), h.beginWith(change{1, 0, "b"})
	h.vote(a)
	waiting := h.startBlockedVote(h.Context(), b)
	b.Abort()
	h.wait(waiting)
	if waiting.err == nil {
		h.Errorf("the vote ends with %v and no error", waiting.ballot.Conflicts)
	}
	t1 := h.finish(a).Tid
	h.commit(change{1, t1, "free again"})
}

func contextWakesVote(h *harness) {
	a, b := h.beginWith(change{1, 0, "a"}), h.beginWith(change{1, 0, "b"})
	h.vote(a)
	ctx, cancel := context.WithCancel(h.Context())
	defer cancel()
	waiting := h.startBlockedVote(ctx, b)
	cancel()
	h.wait(waiting)
	if waiting.err == nil {
		h.Errorf("the vote ends with %v and no error", waiting.ballot.Conflicts)
	}
	b.Abort()
	t1 := h.finish(a).Tid
	h.commit(change{1, t1, "free again"})
}

func abortAfterFinish(h *harness) {
	a := h.beginWith(change{1, 0, "a"})
	h.vote(a)
	t1 := h.finish(a).Tid
	a.Abort()
	h.wantRevision(1, zodb.MaxTid, "a", t1, zodb.NoTid)

	b := h.beginWith(change{1, t1, "b"})
	h.vote(b)
	done := make(chan error, 1)
	b.Finish(func(_ *zodb.Commit, err error) { done <- err })
	b.Abort() // perhaps before it is durable
	h.must(<-done)
	if n := h.s.Stats().Aborts; n != 0 {
		h.Errorf("%d aborts", n)
	}
}

func abortTwice(h *harness) {
	a, b := h.beginWith(change{1, 0, "a"}), h.beginWith(change{1, 0, "b"})
	h.vote(a)
	a.Abort()
	h.vote(b)
	a.Abort() // must not take b's lock away
	c := h.beginWith(change{1, 0, "c"})
	waiting := h.startBlockedVote(h.Context(), c)
	h.finish(b)
	h.wait(waiting)
	c.Abort()
}

// noLostUpdates has many transactions add one to one object, resolving their
// conflicts as clients do.
func noLostUpdates(h *harness) {
	encode := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	h.commit(change{1, 0, string(encode(0))})
	const workers, each = 6, 15
	var wg sync.WaitGroup
	add := func() error {
		rev, _, err := h.s.LoadBefore(h.Context(), 1, zodb.MaxTid)
		if err != nil {
			return err
		}
		txn := h.begin()
		for {
			if err := txn.Store(1, rev.Serial, encode(binary.BigEndian.Uint64(rev.Data)+1)); err != nil {
				return err
			}
			ballot, err := txn.Vote(h.Context())
			if err != nil {
				return err
			}
			if len(ballot.Conflicts) == 0 {
				_, err := await(txn)
				return err
			}
			rev.Serial = ballot.Conflicts[0].Committed
			if rev.Data, err = h.s.LoadSerial(h.Context(), 1, rev.Serial); err != nil {
				return err
			}
		}
	}
	for range workers {
		wg.Go(func() {
			for range each {
				if err := add(); err != nil {
					h.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	rev, _, err := h.s.LoadBefore(h.Context(), 1, zodb.MaxTid)
	h.must(err)
	if n := binary.BigEndian.Uint64(rev.Data); n != workers*each {
		h.Errorf("%d after %d additions", n, workers*each)
	}
}
