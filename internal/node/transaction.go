package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"s3storage/internal/blob"
	"s3storage/internal/engine"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// Begin implements zodb.Storage.
func (n *Node) Begin(meta zodb.TxnMeta, tid zodb.Tid, origin zodb.Observer) (zodb.Transaction, error) {
	if t, err := n.Engine.Begin(meta, tid, origin); err == nil || !errors.Is(err, zodb.ErrReadOnly) {
		return t, err
	}
	n.stats.active.Add(1)
	return &transaction{n: n, meta: meta, tid: tid, origin: origin}, nil
}

// A transaction keeps what a client wants changed until the vote. Then it makes the
// same changes on the node that leads: where is what it is there.
type transaction struct {
	n      *Node
	meta   zodb.TxnMeta
	tid    zodb.Tid
	origin zodb.Observer

	// Of the one who calls Store and Vote.
	changes []func(zodb.Forwarded) error
	blobs   []*upload
	made    int  // how many of the changes are made there
	told    bool // the client was told of conflicts: what it does about them counts there only

	mu struct {
		sync.Mutex
		where  zodb.Forwarded
		cancel context.CancelFunc // of the vote that is under way
		voting chan struct{}      // closed when it ends
		ended  bool
	}
}

func (t *transaction) change(f func(zodb.Forwarded) error) error {
	t.changes = append(t.changes, f)
	t.n.stats.stores.Add(1)
	return nil
}

// Store implements zodb.Transaction.
func (t *transaction) Store(oid zodb.Oid, serial zodb.Tid, data []byte) error {
	return t.change(func(w zodb.Forwarded) error { return w.Store(oid, serial, data) })
}

// Delete implements zodb.Transaction.
func (t *transaction) Delete(oid zodb.Oid, serial zodb.Tid) error {
	return t.change(func(w zodb.Forwarded) error { return w.Delete(oid, serial) })
}

// Undo implements zodb.Transaction.
func (t *transaction) Undo(undone zodb.Tid) error {
	return t.change(func(w zodb.Forwarded) error { return w.Undo(undone) })
}

// Restore implements zodb.Transaction.
func (t *transaction) Restore(oid zodb.Oid, data []byte, source zodb.Tid) error {
	return t.change(func(w zodb.Forwarded) error { return w.Restore(oid, data, source) })
}

// CheckCurrent implements zodb.Transaction.
func (t *transaction) CheckCurrent(oid zodb.Oid, serial zodb.Tid) error {
	return t.change(func(w zodb.Forwarded) error { return w.CheckCurrent(oid, serial) })
}

// StoreBlob implements zodb.Transaction.
func (t *transaction) StoreBlob(oid zodb.Oid, serial zodb.Tid, data []byte, b zodb.BlobUpload) error {
	u, ok := b.(*upload)
	if !ok {
		b.Abort() // it was begun when this node led
		return fmt.Errorf("%w: another server leads since the blob of object %s was begun", zodb.ErrNotCommitted, oid)
	}
	t.blobs = append(t.blobs, u)
	u.finish()
	return t.change(func(w zodb.Forwarded) error {
		return w.StoreBlobOf(oid, serial, data, u.out.ID(), u.size)
	})
}

// Vote implements zodb.Transaction.
func (t *transaction) Vote(ctx context.Context) (zodb.Ballot, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.mu.cancel, t.mu.voting = cancel, make(chan struct{})
	ended := t.mu.ended
	t.mu.Unlock()
	defer close(t.mu.voting)
	if ended {
		return zodb.Ballot{}, &zodb.TransactionError{Reason: "the transaction is aborted already"}
	}
	for _, u := range t.blobs {
		if err := u.finished(ctx); err != nil {
			return zodb.Ballot{}, err
		}
	}
	for {
		w, err := t.n.target(ctx)
		if err != nil {
			return zodb.Ballot{}, err
		}
		ballot, err := t.voteOn(ctx, w)
		if err == nil || !t.n.gone(w, err) || t.told || ctx.Err() != nil {
			if err == nil {
				err = t.seen(ctx, ballot)
			}
			if errors.As(err, new(*zodb.ReadConflictError)) || len(ballot.Conflicts) > 0 {
				t.n.stats.conflicts.Add(1)
			}
			t.told = t.told || len(ballot.Conflicts) > 0
			return ballot, err
		}
		t.leave() // and do all of it where the next leader is
	}
}

// voteOn makes the changes that are not made yet, and has the vote taken.
func (t *transaction) voteOn(ctx context.Context, to target) (ballot zodb.Ballot, err error) {
	for _, u := range t.blobs {
		if u.link != to.link {
			return ballot, fmt.Errorf("%w: another server leads since its blobs were stored", zodb.ErrNotCommitted)
		}
	}
	w, err := t.enter(ctx, to)
	if err != nil {
		return ballot, err
	}
	for ; t.made < len(t.changes); t.made++ {
		if err := t.changes[t.made](w); err != nil {
			return ballot, err
		}
	}
	ballot, err = w.Vote(ctx)
	var read *zodb.ReadConflictError
	var conflict *zodb.ConflictError
	switch {
	case errors.As(err, &read):
		return ballot, errors.Join(t.n.AwaitTransaction(ctx, read.Committed), err)
	case errors.As(err, &conflict):
		return ballot, errors.Join(t.n.AwaitTransaction(ctx, conflict.Committed), err)
	}
	return ballot, err
}

// seen waits until this node shows what conflicts are with.
func (t *transaction) seen(ctx context.Context, b zodb.Ballot) error {
	last := zodb.NoTid
	for _, c := range b.Conflicts {
		last = max(last, c.Committed)
	}
	return t.n.AwaitTransaction(ctx, last)
}

// enter begins the transaction where it is to be made, unless it is there.
func (t *transaction) enter(ctx context.Context, to target) (zodb.Forwarded, error) {
	t.mu.Lock()
	w := t.mu.where
	t.mu.Unlock()
	if w != nil {
		if r, remote := w.(*remote); remote != (to.link != nil) || remote && r.link != to.link {
			return nil, errLinkLost
		}
		return w, nil
	}
	if to.link == nil {
		inner, err := t.n.Engine.Begin(t.meta, t.tid, t.origin)
		if err != nil {
			return nil, err
		}
		w = inner.(zodb.Forwarded) //nolint:forcetypeassert // those of the engine are
	} else {
		r, err := to.link.begin(ctx, t.meta, t.tid, t.origin)
		if err != nil {
			return nil, err
		}
		w = r
	}
	t.mu.Lock()
	ended := t.mu.ended
	t.mu.where = w
	t.mu.Unlock()
	if ended {
		w.Abort()
		return nil, context.Canceled
	}
	t.made = 0
	return w, nil
}

// leave gives up what was done on a node.
func (t *transaction) leave() {
	t.mu.Lock()
	w := t.mu.where
	t.mu.where = nil
	t.mu.Unlock()
	if w != nil {
		w.Abort()
	}
}

// Finish implements zodb.Transaction.
func (t *transaction) Finish(done func(*zodb.Commit, error)) {
	t.mu.Lock()
	w := t.mu.where
	t.mu.where, t.mu.ended = nil, true
	t.mu.Unlock()
	if w == nil {
		done(nil, &zodb.TransactionError{Reason: "the transaction is not voted for"})
		return
	}
	t.n.stats.active.Add(-1)
	w.Finish(func(c *zodb.Commit, err error) {
		done(c, err)
		t.n.do(t.forgetBlobs) // not under the engine's lock
	})
}

// Abort implements zodb.Transaction.
func (t *transaction) Abort() {
	t.mu.Lock()
	was := t.mu.ended
	t.mu.ended = true
	cancel, voting := t.mu.cancel, t.mu.voting
	t.mu.Unlock()
	if was {
		return
	}
	if cancel != nil {
		cancel()
		<-voting
	}
	t.leave()
	t.n.stats.active.Add(-1)
	t.n.stats.aborts.Add(1)
	t.n.do(t.forgetBlobs)
}

func (t *transaction) forgetBlobs() {
	for _, u := range t.blobs {
		<-u.done
		u.forget()
	}
}

// A remote is a transaction on another node.
type remote struct {
	link   *link
	c      *zeo.Client
	tid    zodb.Tid
	origin zodb.Observer
	gone   sync.Once
}

// txnID names a transaction to the leader: a connection has one at a time.
const txnID = 1

func (l *link) begin(ctx context.Context, meta zodb.TxnMeta, tid zodb.Tid, origin zodb.Observer) (*remote, error) {
	c, err := l.client(ctx)
	if err != nil {
		return nil, err
	}
	r := &remote{link: l, c: c, tid: tid, origin: origin}
	if err := c.TpcBeginWith(txnID, meta, tid); err != nil {
		r.drop()
		return nil, r.lost(err)
	}
	return r, nil
}

// lost says so if an error is that of the connection, not one that the leader has
// answered with.
func (r *remote) lost(err error) error {
	if err != nil && r.c.Err() != nil {
		return fmt.Errorf("%w: %w", errLinkLost, err)
	}
	return err
}

// drop closes the connection: whatever it was about is aborted there.
func (r *remote) drop() { r.gone.Do(func() { r.c.Close(); r.link.done(r.c) }) }

// back gives the connection back.
func (r *remote) back() { r.gone.Do(func() { r.link.done(r.c) }) }

func (r *remote) Store(oid zodb.Oid, serial zodb.Tid, data []byte) error {
	return r.lost(r.c.Storea(oid, serial, data, txnID))
}

func (r *remote) Delete(oid zodb.Oid, serial zodb.Tid) error {
	return r.lost(r.c.DeleteObject(oid, serial, txnID))
}

func (r *remote) Undo(undone zodb.Tid) error { return r.lost(r.c.Undoa(undone, txnID)) }

func (r *remote) Restore(oid zodb.Oid, data []byte, source zodb.Tid) error {
	return r.lost(r.c.Restorea(oid, r.tid, data, source, txnID))
}

func (r *remote) CheckCurrent(oid zodb.Oid, serial zodb.Tid) error {
	return r.lost(r.c.CheckCurrent(oid, serial, txnID))
}

func (r *remote) StoreBlob(zodb.Oid, zodb.Tid, []byte, zodb.BlobUpload) error {
	return zodb.ErrUnsupported
}

func (r *remote) StoreBlobOf(oid zodb.Oid, serial zodb.Tid, data []byte, id [16]byte, size int64) error {
	return r.lost(r.c.StoreBlobOf(oid, serial, data, id, size, txnID))
}

func (r *remote) Vote(ctx context.Context) (zodb.Ballot, error) {
	stop := context.AfterFunc(ctx, r.drop)
	n, start := r.link.n, time.Now()
	n.stats.voting.Add(1)
	undone, conflicts, err := r.c.Vote(txnID)
	n.stats.voting.Add(-1)
	n.Took(engine.StageLeaderVote, time.Since(start))
	if !stop() && err != nil {
		return zodb.Ballot{}, context.Cause(ctx)
	}
	return zodb.Ballot{Conflicts: conflicts, Undone: undone}, r.lost(err)
}

// Finish implements zodb.Transaction: the log decides.
func (r *remote) Finish(done func(*zodb.Commit, error)) {
	n, start := r.link.n, time.Now()
	begun := n.do(func() {
		end := r.link.beginFinish()
		tid, epoch, err := r.c.Finish(txnID)
		if err == nil {
			n.Expect(tid, epoch, r.origin, func(c *zodb.Commit, err error) {
				n.Took(engine.StageLeaderFinish, time.Since(start))
				done(c, err)
			})
		}
		end()
		switch {
		case err == nil:
			r.back()
		case r.c.Err() != nil:
			r.drop()
			done(nil, fmt.Errorf("%w: %w", zodb.ErrOutcomeUnknown, err))
		default:
			r.back()
			done(nil, err)
		}
	})
	if !begun {
		done(nil, fmt.Errorf("%w: this server is being stopped", zodb.ErrNotCommitted))
	}
}

func (r *remote) Sequenced() (zodb.Tid, uint64) { return zodb.NoTid, 0 }

func (r *remote) Abort() {
	r.link.n.do(func() {
		if r.c.TpcAbort(txnID) != nil {
			r.drop()
			return
		}
		r.back()
	})
}

// maxFinishing is how many blobs, taken over by transactions, may wait for the
// bucket.
const maxFinishing = 64

// An upload is a blob that this node puts while another one leads.
type upload struct {
	n    *Node
	link *link // on which the leader knows of it
	out  *blob.Upload

	done chan struct{} // nil until a transaction takes it over; closed when the blob stands or failed
	size int64
	err  error
}

// NewBlob implements zodb.Storage.
func (n *Node) NewBlob(ctx context.Context) (zodb.BlobUpload, error) {
	for {
		t, err := n.target(ctx)
		if err != nil {
			return nil, err
		}
		if t.link == nil {
			u, err := n.Engine.NewBlob(ctx)
			if n.gone(t, err) {
				continue
			}
			return u, err
		}
		select {
		case n.finishing <- struct{}{}:
			<-n.finishing // there is room
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		u := &upload{n: n, link: t.link, out: n.NewUpload(ctx)}
		// The object cannot stand before Finish.
		if err := t.link.control.AnnounceBlob(u.out.ID()); err != nil {
			_ = u.out.Abort()
			if n.gone(t, err) {
				continue
			}
			return nil, err
		}
		return u, nil
	}
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) { return u.out.Write(p) }

// Abort implements zodb.BlobUpload.
func (u *upload) Abort() {
	if u.done != nil {
		return
	}
	u.n.do(func() {
		if err := u.out.Abort(); err != nil && u.n.ctx.Err() == nil {
			u.n.logger.Warn("could not delete an aborted blob; a sweep will", "object", u.out.ID().Name(), "err", err)
		}
		u.forget()
	})
}

// finish has the blob completed while the client goes on.
func (u *upload) finish() {
	u.done = make(chan struct{})
	begun := u.n.do(func() {
		defer close(u.done)
		u.n.finishing <- struct{}{} // those who have a place leave it by themselves
		defer func() { <-u.n.finishing }()
		u.size, u.err = u.out.Finish()
	})
	if !begun {
		u.err = fmt.Errorf("%w: this server is being stopped", zodb.ErrNotCommitted)
		close(u.done)
	}
}

// finished waits until the blob stands.
func (u *upload) finished(ctx context.Context) error {
	select {
	case <-u.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if u.err != nil {
		return fmt.Errorf("storing a blob: %w", u.err)
	}
	return nil
}

// forget lets the leader know that nothing is put any more.
func (u *upload) forget() { _ = u.link.control.ForgetBlob(u.out.ID()) }
