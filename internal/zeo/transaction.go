package zeo

import (
	"errors"
	"slices"
	"time"

	"s3storage/internal/zodb"
)

// A txnState says what a transaction is ready for.
//
//	open --vote--> voting --> voted --tpc_finish--> (gone)
//	  ^               |  \
//	  |  conflicts    |   error --> (gone)
//	  +---------------+
//
// tpc_abort and the end of the connection lead out of every state. A transaction
// that is voted for too long is timed out, and the connection at its end.
type txnState int

const (
	txnOpen txnState = iota
	txnVoting
	txnVoted
	txnTimedOut
)

// A txn is the transaction of a connection between tpc_begin and its end.
type txn struct {
	id    []byte   // the client's, pickled
	tid   zodb.Tid // given by the client, or NoTid
	inner zodb.Transaction

	// broken is why the vote has to fail: the storage refused something that
	// a one-way call brought. Of the reading goroutine.
	broken error
	votes  int // likewise

	// Guarded by conn.mu.
	state   txnState
	votedAt time.Time
	timeout *time.Timer // nil if there is no transaction timeout
}

// abort lets go of everything.
func (t *txn) abort() {
	if t.inner != nil {
		t.inner.Abort()
	}
}

// spoil makes the vote fail. The first reason is kept.
func (t *txn) spoil(err error) {
	if t.broken == nil {
		t.broken = err
	}
}

// txnID returns the i-th argument, which names a transaction, pickled. It is
// opaque too.
func (k *call) txnID(i int) ([]byte, error) {
	switch k.args[i].(type) {
	case int64, string, []byte:
		return appendPickle(nil, k.args[i])
	}
	return nil, k.wrong(i, "id", "int, str or bytes")
}

// current returns the transaction that the call's i-th argument names.
func (c *conn) current(k *call, i int) (*txn, error) {
	id, err := k.txnID(i)
	if err != nil {
		return nil, err
	}
	if c.readOnly {
		return nil, errReadOnlyConnection
	}
	c.mu.Lock()
	t := c.mu.txn
	c.mu.Unlock()
	if t == nil {
		return nil, &Error{classTransaction, Tuple{nil, k.args[i]}}
	}
	if string(t.id) != string(id) {
		own, _ := Z5.decodeValue(t.id)
		return nil, &Error{classTransaction, Tuple{own, k.args[i]}}
	}
	return t, nil
}

// writable returns the transaction named by the i-th argument for one more
// change.
func (c *conn) writable(k *call, i int) (*txn, error) {
	t, err := c.current(k, i)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.state != txnOpen {
		return nil, &zodb.TransactionError{Reason: "the transaction is being voted on, or was"}
	}
	return t, nil
}

// tpc_begin(id, user, description, extension, tid or None, status)
func (c *conn) tpcBegin(k *call) (any, error) {
	id, err := k.txnID(0)
	if err != nil {
		return nil, err
	}
	if c.readOnly {
		return nil, errReadOnlyConnection
	}
	c.mu.Lock()
	old := c.mu.txn
	c.mu.Unlock()
	if old != nil {
		if string(old.id) == string(id) {
			return nil, nil
		}
		return nil, &zodb.TransactionError{Reason: "one client has one transaction at a time"}
	}
	meta, err := k.meta()
	if err != nil {
		return nil, err
	}
	t := &txn{id: id}
	if len(k.args) > 4 {
		if t.tid, err = k.serial(4); err != nil {
			return nil, err
		}
	}
	if t.inner, err = c.storage.Begin(meta, t.tid, c); err != nil {
		t.spoil(err)
	}
	c.mu.Lock()
	c.mu.txn = t
	c.mu.Unlock()
	return nil, nil
}

// change makes one change of an object: the first arguments of the call are the
// oid and the serial or None, the i-th names the transaction. What f refuses
// makes the vote fail.
func (c *conn) change(k *call, i int, f func(t *txn, oid zodb.Oid, serial zodb.Tid) error) (any, error) {
	oid, err := k.oid()
	if err != nil {
		return nil, err
	}
	serial, err := k.serial(1)
	if err != nil {
		return nil, err
	}
	t, err := c.writable(k, i)
	if err != nil || t.broken != nil {
		return nil, err
	}
	if err := f(t, oid, serial); err != nil {
		t.spoil(err)
	}
	return nil, nil
}

// storea(oid, serial or None, data, id)
func (c *conn) storea(k *call) (any, error) {
	return c.change(k, 3, func(t *txn, oid zodb.Oid, serial zodb.Tid) error {
		data, err := k.ownData()
		if err != nil {
			return err
		}
		return t.inner.Store(oid, serial, data)
	})
}

// checkCurrentSerialInTransaction(oid, serial, id)
func (c *conn) checkCurrent(k *call) (any, error) {
	return c.change(k, 2, func(t *txn, oid zodb.Oid, serial zodb.Tid) error {
		return t.inner.CheckCurrent(oid, serial)
	})
}

// maxVotes is how often a stock client votes for one transaction. If there are
// conflicts in the last reply too, it calls tpc_finish as if there were none,
// which leaves its process unable to commit anything. So the last reply is an
// error that the client takes for what it is.
const maxVotes = 9

// vote(id) -> the oids undone, or conflicts for the client to resolve
func (c *conn) vote(k *call) (any, error) {
	t, err := c.current(k, 0)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	state := t.state
	if state == txnOpen {
		t.state = txnVoting
	}
	c.mu.Unlock()
	switch {
	case state == txnVoting:
		return nil, &zodb.TransactionError{Reason: "Already voting (waiting)"}
	case state != txnOpen:
		return nil, &zodb.TransactionError{Reason: "Already voting (locked)"}
	case t.broken != nil:
		c.drop(t)
		t.abort()
		return nil, t.broken
	}
	t.votes++
	last := t.votes >= maxVotes && c.peer() == nil // another node counts those of its clients
	id, oneWay := slices.Clone(k.id), k.oneWay
	c.tasks.Go(func() {
		ballot, err := t.inner.Vote(c.ctx)
		conflicts := ballot.Conflicts
		if err == nil && len(conflicts) > 0 && last {
			err = &zodb.ConflictError{Oid: conflicts[0].Oid, Committed: conflicts[0].Committed, Read: conflicts[0].Read}
		}
		switch {
		case err != nil:
			c.drop(t)
			t.abort()
			c.log.Debug("vote failed", "error", err)
		case len(conflicts) > 0:
			c.setState(t, txnOpen)
		default:
			c.setState(t, txnVoted)
		}
		switch {
		case oneWay:
		case err != nil:
			c.fail(id, err)
		default:
			c.reply(id, ballotList(ballot))
		}
	})
	return nil, errLater
}

// drop forgets t, unless it was forgotten before.
func (c *conn) drop(t *txn) {
	c.mu.Lock()
	if c.mu.txn == t {
		c.mu.txn = nil
	}
	t.stopTimeoutLocked()
	c.mu.Unlock()
}

func (c *conn) setState(t *txn, s txnState) {
	c.mu.Lock()
	t.state = s
	if s == txnVoted {
		c.votedLocked(t)
	}
	c.mu.Unlock()
}

// ballotList is what vote answers. The conflicts are the client's to resolve;
// of the objects that undo has brought back it does not know the state.
func ballotList(b zodb.Ballot) any {
	if len(b.Conflicts) == 0 {
		return b.Undone
	}
	l := List{}
	for _, x := range b.Conflicts {
		l = append(l, Dict{
			{"oid", x.Oid},
			{"serials", Tuple{x.Committed, x.Read}},
			{"data", x.Data},
		})
	}
	return l
}

// tpc_finish(id) -> tid
func (c *conn) tpcFinish(k *call) (any, error) {
	t, err := c.current(k, 0)
	if err != nil {
		return nil, notBegun(err)
	}
	if err := c.beginFinish(t); err != nil {
		return nil, err
	}
	id, oneWay := slices.Clone(k.id), k.oneWay
	t.inner.Finish(func(commit *zodb.Commit, err error) { c.finished(id, oneWay, commit, err) })
	return nil, errLater
}

// beginFinish has t, which has to be voted for, no longer be the connection's
// transaction. endFinish follows.
func (c *conn) beginFinish(t *txn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.state != txnVoted {
		return &zodb.TransactionError{Reason: "tpc_finish without a vote"}
	}
	c.mu.txn = nil
	t.stopTimeoutLocked()
	c.mu.finishing++
	return nil
}

func (c *conn) endFinish() {
	c.mu.Lock()
	c.mu.finishing--
	c.mu.Unlock()
	if c.draining.Load() {
		c.drain()
	}
}

// notBegun turns the error of a call that names no transaction, or another
// one, into no error at all: tpc_finish and tpc_abort then do nothing.
func notBegun(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Class == classTransaction {
		return nil
	}
	return err
}

// finished is called by the storage, under its lock, at the transaction's place
// in the order of commits.
func (c *conn) finished(id ID, oneWay bool, commit *zodb.Commit, err error) {
	switch {
	case errors.Is(err, zodb.ErrOutcomeUnknown):
		c.out.fail(err) // so the client does not know it either
	case err != nil:
		if !oneWay {
			c.fail(id, err)
		}
	default:
		b := appendInfo(nil, c.enc, commit.Info)
		if !oneWay {
			b, _ = c.enc.AppendReply(b, id, commit.Tid) // a tid always can be sent
		}
		c.out.addOwn(b)
	}
	c.endFinish()
}

// tpc_abort(id) -> None
func (c *conn) tpcAbort(k *call) (any, error) {
	t, err := c.current(k, 0)
	if err != nil {
		return nil, notBegun(err)
	}
	c.drop(t)
	c.dropUpload()
	t.abort()
	return nil, nil
}

// abandon aborts the transaction that is left at the end of the connection, and
// tells whether there was one.
func (c *conn) abandon() bool {
	c.mu.Lock()
	t := c.mu.txn
	c.mu.txn = nil
	if t != nil {
		t.stopTimeoutLocked()
	}
	c.mu.Unlock()
	if t != nil {
		t.abort()
	}
	return t != nil
}
