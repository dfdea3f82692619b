package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"s3storage/internal/blob"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// errFollows is why a node that follows takes no writes.
var errFollows = fmt.Errorf("%w: this server follows another one", zodb.ErrReadOnly)

// Lead makes this node, which follows, the leader: the one before can write no
// more. It waits for the end of a reign that was just lost. It is for one goroutine
// at a time.
func (e *Engine) Lead(ctx context.Context) error { return e.log.Lead(ctx) }

// Leads begins a reign. The state is that of the log's end, and nothing
// is sequenced.
func (lo *logObserver) Leads(p txlog.Position) {
	e := (*Engine)(lo)
	e.state.Lock()
	last, packs, mark := e.state.last, e.state.packs, e.state.oidMark
	grown := e.grownLocked()
	clear(e.state.adopting) // what the log has adopted, it has by now
	e.state.Unlock()
	e.oids.mu.Lock()
	e.oids.next, e.oids.asked, e.oids.batch = max(1, mark), mark, 0 // oid 0 is the root's
	e.oids.mu.Unlock()
	e.seq.Lock()
	e.seq.last, e.seq.packs = last, packs
	e.seq.pending = make(map[zodb.Oid]newest)
	e.seq.late = nil
	e.seq.reign++
	e.seq.epoch = p.Epoch
	if !errors.Is(e.seq.readOnly, zodb.ErrClosed) {
		e.seq.readOnly = nil
	}
	e.seq.Unlock()
	e.janitor.poke()
	if grown {
		e.janitor.pokeFlush()
	}
	e.opts.OnRole()
}

// Deposed ends all writing: another node leads.
func (lo *logObserver) Deposed(by txlog.Lost, _ []txlog.Entry) {
	e := (*Engine)(lo)
	e.opts.Logger.Warn("another server leads this database now; transactions that were not acknowledged failed",
		"bucket", e.bucket.Properties().Location, "leader", by.By.String(), "slot", by.Slot)
	why := fmt.Errorf("%w: %w: the server %s has taken over this database", zodb.ErrNotCommitted, zodb.ErrReadOnly, by.By)
	e.seq.Lock()
	// Nothing was sequenced since the log found out, or it is among these.
	failed := e.seq.finishing
	e.seq.finishing = make(map[zodb.Tid]*transaction)
	e.seq.epoch = 0
	if !errors.Is(e.seq.readOnly, zodb.ErrClosed) {
		e.seq.readOnly = why
	}
	e.seq.Unlock()
	e.endFollowing()
	for _, t := range failed {
		t.done(nil, why)
	}
	e.opts.OnRole()
}

// HandOver ends this node's reign, if it leads, for another one: it takes no more
// votes, waits for as long as patience until what was voted for is finished, and until
// what was finished is in the log, or ctx is done, lets go, and tells those who follow
// that this is all: they may lead at once then.
func (e *Engine) HandOver(ctx context.Context, patience time.Duration, letGo func()) error {
	if leads := e.leads() == nil; !leads {
		return nil
	}
	e.endWrites(fmt.Errorf("%w: %w: %w: the server is being stopped", zodb.ErrNotCommitted, zodb.ErrReadOnly, zodb.ErrClosed))
	// All that are voted for share this one.
	all := &lockRequest{write: []zodb.Oid{orderLock}}
	voters, cancel := context.WithTimeout(ctx, patience)
	err := e.locks.acquire(voters, all)
	cancel()
	if err == nil {
		defer e.locks.release(all)
	} else {
		err = fmt.Errorf("a transaction that was voted for was not finished in time: %w", err)
	}
	err = errors.Join(err, e.log.Flush(ctx))
	e.seq.Lock()
	e.seq.readOnly = fmt.Errorf("%w: %w: another server leads", zodb.ErrNotCommitted, zodb.ErrReadOnly)
	e.seq.Unlock()
	letGo()
	e.endFollowing()
	return err
}

// endFollowing tells those who follow this node that it leads no more, and wakes those
// who wait for what it would have done.
func (e *Engine) endFollowing() {
	e.state.Lock()
	defer e.state.Unlock()
	for f := range e.state.followers {
		f.LogEnded()
	}
	clear(e.state.followers)
	e.announceLocked()
}

// NewUpload begins to put a blob whose object another node's transaction will name.
func (e *Engine) NewUpload(ctx context.Context) *blob.Upload {
	return blob.NewUpload(ctx, e.bucket, e.format.Database)
}

// AwaitTransaction waits until this node has applied the transaction.
func (e *Engine) AwaitTransaction(ctx context.Context, tid zodb.Tid) error {
	return e.awaitWhile(ctx, func() error { return nil }, func() bool { return e.state.last >= tid })
}

// reign returns in which reign of this node it is, or was last.
func (e *Engine) reign() int {
	e.seq.Lock()
	defer e.seq.Unlock()
	return e.seq.reign
}

// sameReignLocked returns an error if another node has led since a reign of this
// one: what was found out then may not be true any more. The caller holds seq.
func (e *Engine) sameReignLocked(reign int) error {
	if e.seq.reign != reign {
		return errLedMeanwhile
	}
	return nil
}

var errLedMeanwhile = fmt.Errorf("%w: another server has led this database meanwhile", zodb.ErrNotCommitted)

// Database returns the database's id.
func (e *Engine) Database() txlog.DatabaseID { return e.format.Database }

// Log returns the log, for the one who decides when to follow and when to lead.
func (e *Engine) Log() *txlog.Log { return e.log }

// AwaitApplied waits until this node has applied everything before a slot of the log.
func (e *Engine) AwaitApplied(ctx context.Context, slot uint64) error {
	return e.awaitWhile(ctx, func() error { return nil }, func() bool {
		return e.growingLocked().end.Slot >= txlog.Slot(slot)
	})
}

// AwaitSent implements zodb.Leader.
func (e *Engine) AwaitSent(ctx context.Context) error {
	reign := e.reign()
	sent := e.log.Sent()
	return e.awaitLead(ctx, reign, func() bool { return e.growingLocked().end.Slot >= sent })
}

// sequenced names a transaction that another node has sequenced: two leaders may give
// the same tid.
type sequenced struct {
	epoch txlog.Epoch
	tid   zodb.Tid
}

// expected is what is to be done about one that a client of this node waits for.
type expected struct {
	origin zodb.Observer
	done   func(*zodb.Commit, error)
}

// Expect has done called when this node has applied the transaction that the
// leader of an epoch has given that tid, at its place in the order of commits, or
// when it is known that it never will be: the error then wraps
// zodb.ErrNotCommitted. Its end is not announced to origin otherwise.
func (e *Engine) Expect(tid zodb.Tid, epoch uint64, origin zodb.Observer, done func(*zodb.Commit, error)) {
	e.state.Lock()
	defer e.state.Unlock()
	of := txlog.Epoch(epoch)
	switch {
	case of < e.state.epoch && tid > e.state.sealed:
		done(nil, errEpochEnded)
		return
	case e.state.expected == nil: // this node is closed
		done(nil, zodb.ErrOutcomeUnknown)
		return
	case e.state.last < tid:
		e.state.expected[sequenced{of, tid}] = expected{origin, done}
		return
	}
	// The log was faster than the answer. What two later leaders have written it does
	// not tell apart from what that one has.
	for _, t := range e.state.tails {
		if of+1 < e.state.epoch {
			break
		}
		if i, ok := slices.BinarySearchFunc(t.txns, tid, byTid); ok {
			e.stats.commits.Add(1)
			done(commitOf(t.txns[i], e.infoLocked()), nil)
			return
		}
	}
	done(nil, zodb.ErrOutcomeUnknown)
}

var errEpochEnded = fmt.Errorf("%w: the server that was to commit it leads no more", zodb.ErrNotCommitted)

// expectedLocked returns who waits for a transaction, or nil, and forgets it.
func (e *Engine) expectedLocked(tid zodb.Tid, epoch txlog.Epoch) *expected {
	name := sequenced{epoch, tid}
	x, ok := e.state.expected[name]
	if !ok {
		return nil
	}
	delete(e.state.expected, name)
	return &x
}

// Ended says of what was expected of earlier epochs that it is not part of the log.
func (lo *logObserver) Ended(epoch txlog.Epoch) {
	e := (*Engine)(lo)
	e.state.Lock()
	defer e.state.Unlock()
	e.endEpochsLocked(epoch)
}

// endEpochsLocked is called when all of the epochs before one is settled: what was
// expected of them, and is not, never will be.
func (e *Engine) endEpochsLocked(epoch txlog.Epoch) {
	if epoch == e.state.epoch {
		return
	}
	e.state.epoch, e.state.sealed = epoch, e.state.last
	e.failExpectedLocked(epoch, errEpochEnded)
}

// failExpectedLocked says why to those who wait for transactions of epochs before one.
func (e *Engine) failExpectedLocked(before txlog.Epoch, why error) {
	for name, x := range e.state.expected {
		if name.epoch < before {
			delete(e.state.expected, name)
			x.done(nil, why)
		}
	}
}

// FollowLog implements zodb.Leader.
func (e *Engine) FollowLog(o zodb.LogObserver) (epoch, slot uint64, err error) {
	e.state.Lock()
	defer e.state.Unlock()
	if err := e.serves(); err != nil {
		return 0, 0, err
	}
	e.state.followers[o] = struct{}{}
	end := e.growingLocked().end
	return uint64(end.Epoch), uint64(end.Slot), nil
}

// UnfollowLog implements zodb.Leader.
func (e *Engine) UnfollowLog(o zodb.LogObserver) {
	e.state.Lock()
	defer e.state.Unlock()
	delete(e.state.followers, o)
}

// LogEnd implements zodb.Leader.
func (e *Engine) LogEnd() (epoch, slot uint64, last zodb.Tid, err error) {
	e.state.RLock()
	defer e.state.RUnlock()
	end := e.growingLocked().end
	return uint64(end.Epoch), uint64(end.Slot), e.state.last, e.serves()
}

// StuckAfter is how long a leader may fail to write to its log before it makes room for
// another node, which perhaps can: it is no leader to those who follow until it has
// written again.
const StuckAfter = 3 * time.Second

// serves tells whether this node leads as others want it.
func (e *Engine) serves() error {
	if stuck := e.log.Stuck(); stuck > StuckAfter {
		return fmt.Errorf("%w: this server has failed to write to its log for %s", zodb.ErrReadOnly, stuck.Round(time.Second))
	}
	return e.leads()
}

// Sequenced implements zodb.Forwarded.
func (t *transaction) Sequenced() (tid zodb.Tid, epoch uint64) {
	t.e.seq.Lock()
	defer t.e.seq.Unlock()
	return t.txn.Tid, uint64(t.epoch)
}

// AnnounceBlob implements zodb.Leader.
func (e *Engine) AnnounceBlob(id [16]byte) error {
	reign := e.reign()
	if err := e.ReadOnly(); err != nil {
		return err
	}
	e.uploads.mu.Lock()
	defer e.uploads.mu.Unlock()
	e.uploads.mu.announced[blob.ID(id).Name()] = reign
	return nil
}

// ForgetBlob implements zodb.Leader.
func (e *Engine) ForgetBlob(id [16]byte) {
	e.uploads.mu.Lock()
	defer e.uploads.mu.Unlock()
	delete(e.uploads.mu.announced, blob.ID(id).Name())
}

// StoreBlobOf implements zodb.Forwarded.
func (t *transaction) StoreBlobOf(oid zodb.Oid, serial zodb.Tid, data []byte, id [16]byte, size int64) error {
	name := blob.ID(id).Name()
	u := &t.e.uploads
	u.mu.Lock()
	reign, ok := u.mu.announced[name]
	if ok {
		u.mu.names[name] = struct{}{}
	}
	u.mu.Unlock()
	if !ok {
		return fmt.Errorf("%w: the blob of object %s was not announced to this server", zodb.ErrNotCommitted, oid)
	}
	b := &upload{e: t.e, id: id, reign: reign, size: size, done: closed}
	err := t.change(change{
		Record: txlog.Record{Oid: oid, Prev: serial, Kind: txlog.RecordData, Data: data},
		blob:   b,
	})
	if err != nil {
		b.discard()
		return err
	}
	t.blobs = append(t.blobs, b)
	return nil
}

// closed is the done of uploads that stand already.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
