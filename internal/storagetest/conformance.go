package storagetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"s3storage/internal/zodb"
)

// Conformance runs every promise of zodb.Storage, zodb.Observer,
// zodb.Transaction and zodb.CachedLoader against storages that open returns,
// each of them empty and writable, and with a grace period of zero.
func Conformance(t *testing.T, open func(t *testing.T) zodb.Storage) {
	for _, c := range []struct {
		name string
		test func(*harness)
	}{
		{"an empty storage", emptyStorage},
		{"loads find the revision before a tid", loadsFindRevisions},
		{"the last of several stores of an object counts", lastStoreCounts},
		{"history is newest first", historyIsNewestFirst},
		{"invalidations name each changed object once", invalidationsAreComplete},
		{"oids are handed out once", oidsAreHandedOutOnce},
		{"statistics count", statisticsCount},
		{"a transaction without changes is one like others", emptyTransaction},
		{"a commit tells the size of the database", commitTellsInfo},

		{"different objects are voted on side by side", differentObjects},
		{"a vote waits for the object's lock", voteWaits},
		{"a vote gets the lock that was aborted away", abortLetsGo},
		{"checks of one object go side by side", checksShare},
		{"a write waits for a check", writeWaitsForCheck},
		{"a check waits for a write", checkWaitsForWrite},
		{"a check fails for what changed before", checkFails},
		{"a check fails for what was deleted", checkOfDeletedFails},
		{"a conflict leaves the transaction usable", conflictGoesOn},
		{"with conflicts no lock is held", conflictHoldsNoLock},
		{"a vote that waits holds no lock", waitingHoldsNoLock},
		{"abort ends a vote that waits", abortWakesVote},
		{"the context ends a vote that waits", contextWakesVote},
		{"abort after finish does nothing", abortAfterFinish},
		{"abort can be repeated", abortTwice},
		{"no update is lost", noLostUpdates},

		{"undo brings back the state before", undoChange},
		{"undo of a creation", undoCreation},
		{"undo of a deletion", undoDeletion},
		{"undo of a deletion that the object has come back to", undoDeletionThatCameBack},
		{"undo of an undo", undoUndo},
		{"several undos in one transaction", undoSeveral},
		{"undo beside stores", undoBesideStores},
		{"undo shares the data", undoSharesTheData},
		{"a conflict in undo is resolved by a store", undoConflictResolved},
		{"a conflict in undo is not resolved", undoConflictUnresolved},
		{"undo that is impossible names the objects", undoImpossible},
		{"undo cannot be combined with a store of the object", undoWithOwnChanges},
		{"undo of what a later state has brought back", undoOfWhatCameBack},
		{"undo of no transaction", undoOfUnknown},
		{"undo locks its objects", undoLocks},
		{"the undo log is newest first", undoLogIsNewestFirst},

		{"iteration over ranges of tids", iterationOverRanges},
		{"iteration tells all", iterationTellsAll},
		{"iteration while commits go on", iterationWhileCommitsGoOn},
		{"records outlive the step to the next transaction", recordsOutliveNext},
		{"the next object is one that exists", nextObjectSkipsDeleted},

		{"a deleted object is gone", deletedIsGone},
		{"deletion conflicts with changes", deleteConflicts},
		{"restore keeps tids", restoreKeepsTids},
		{"restore doubts the source", restoreDoubtsTheSource},
		{"restore goes only forward", restoreOnlyForward},
		{"a store under a given tid", storeUnderATid},

		{"blobs come back", blobsComeBack},
		{"several blobs at once", severalBlobsAtOnce},
		{"blobs go through undo", blobsThroughUndo},
		{"a blob is kept when a conflict is resolved", blobKeptInConflict},
		{"a blob after a store of the same record", blobAfterStore},
		{"aborted blobs are gone", abortedBlobs},

		{"pack drops old revisions", packDropsOldRevisions},
		{"pack drops garbage", packDropsGarbage},
		{"pack drops deletions", packDropsDeletions},
		{"pack drops blobs", packDropsBlobs},
		{"pack keeps what later revisions need", packKeepsWhatIsNeeded},
		{"pack keeps data that a later undo shares", packKeepsSharedData},
		{"pack ends undo", packEndsUndo},
		{"a pack that drops nothing changes nothing", packThatDropsNothing},
		{"a pack to an earlier time than one before", packToAnEarlierTime},
		{"pack stops at what it cannot read", packStopsAtWhatItCannotRead},
		{"pack while commits go on", packWhileCommitsGoOn},

		{"observers hear of others' commits in order", observersHearInOrder},
		{"an observer that left hears nothing", unsubscribed},
		{"a subscription starts where it says", subscriptionIsAtomic},
		{"a commit is seen when it is announced", visibilityIsAnnounced},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(&harness{t, open(t)}) })
	}
}

// A harness is one storage under test.
type harness struct {
	*testing.T
	s zodb.Storage
}

// patience bounds waits for what has to happen: it is no promise about speed.
const patience = 20 * time.Second

func (h *harness) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *harness) begin() zodb.Transaction {
	h.Helper()
	txn, err := h.s.Begin(zodb.TxnMeta{User: []byte("u"), Description: []byte("d"), Status: ' '}, zodb.NoTid, nil)
	h.must(err)
	return txn
}

// A change is a store of data over serial.
type change struct {
	oid    zodb.Oid
	serial zodb.Tid
	data   string
}

func (h *harness) beginWith(changes ...change) zodb.Transaction {
	h.Helper()
	txn := h.begin()
	for _, c := range changes {
		h.must(txn.Store(c.oid, c.serial, []byte(c.data)))
	}
	return txn
}

// vote votes and wants neither conflicts nor an error.
func (h *harness) vote(txn zodb.Transaction) {
	h.Helper()
	ballot, err := txn.Vote(h.Context())
	h.must(err)
	if len(ballot.Conflicts) > 0 {
		h.Fatalf("conflicts: %v", ballot.Conflicts)
	}
}

// finish commits and returns when the transaction is durable.
func (h *harness) finish(txn zodb.Transaction) *zodb.Commit {
	h.Helper()
	c, err := await(txn)
	h.must(err)
	return c
}

func await(txn zodb.Transaction) (*zodb.Commit, error) {
	type end struct {
		c   *zodb.Commit
		err error
	}
	done := make(chan end, 1)
	txn.Finish(func(c *zodb.Commit, err error) { done <- end{c, err} })
	select {
	case e := <-done:
		return e.c, e.err
	case <-time.After(patience):
		return nil, errors.New("finish does not end")
	}
}

func (h *harness) commit(changes ...change) zodb.Tid {
	h.Helper()
	txn := h.beginWith(changes...)
	h.vote(txn)
	return h.finish(txn).Tid
}

// A pendingVote is a vote under way.
type pendingVote struct {
	done   chan struct{}
	ballot zodb.Ballot
	err    error
}

func (h *harness) startVote(ctx context.Context, txn zodb.Transaction) *pendingVote {
	b := &pendingVote{done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.ballot, b.err = txn.Vote(ctx)
	}()
	return b
}

// startBlockedVote returns when the vote waits.
func (h *harness) startBlockedVote(ctx context.Context, txn zodb.Transaction) *pendingVote {
	h.Helper()
	before := h.s.Stats().Waiting
	b := h.startVote(ctx, txn)
	for start := time.Now(); h.s.Stats().Waiting == before; time.Sleep(time.Millisecond) {
		select {
		case <-b.done:
			h.Fatalf("the vote does not wait: %v, %v", b.ballot, b.err)
		default:
		}
		if time.Since(start) > patience {
			h.Fatal("Stats counts no vote that waits")
		}
	}
	return b
}

func (h *harness) wait(b *pendingVote) {
	h.Helper()
	select {
	case <-b.done:
	case <-time.After(patience):
		h.Fatal("the vote does not end")
	}
}

func (h *harness) wantKeyError(err error, oid zodb.Oid) {
	h.Helper()
	var key *zodb.POSKeyError
	if !errors.As(err, &key) || key.Oid != oid {
		h.Errorf("error %v, want a POSKeyError about %s", err, oid)
	}
}

// wantRevision wants what LoadBefore says, and LoadBeforeCached if it says
// anything.
func (h *harness) wantRevision(oid zodb.Oid, tid zodb.Tid, data string, serial, next zodb.Tid) {
	h.Helper()
	same := func(rev zodb.Revision, ok bool, err error) {
		h.Helper()
		h.must(err)
		if !ok || string(rev.Data) != data || rev.Serial != serial || rev.Next != next {
			h.Errorf("%s before %s: %q %s %s %v, want %q %s %s", oid, tid, rev.Data, rev.Serial, rev.Next, ok, data, serial, next)
		}
	}
	rev, ok, err := h.s.LoadBefore(h.Context(), oid, tid)
	same(rev, ok, err)
	if c, is := h.s.(zodb.CachedLoader); is {
		if rev, ok, hit, err := c.LoadBeforeCached(oid, tid); hit {
			same(rev, ok, err)
		}
	}
}

// A recorder is an observer that writes down what it hears.
type recorder struct {
	mu struct {
		sync.Mutex
		commits []*zodb.Commit
	}
}

func (r *recorder) Committed(c *zodb.Commit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.commits = append(r.mu.commits, c)
}

func (r *recorder) heard() []zodb.Tid {
	r.mu.Lock()
	defer r.mu.Unlock()
	var tids []zodb.Tid
	for _, c := range r.mu.commits {
		tids = append(tids, c.Tid)
	}
	return tids
}

func (r *recorder) newest() zodb.Tid {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.mu.commits); n > 0 {
		return r.mu.commits[n-1].Tid
	}
	return zodb.NoTid
}
