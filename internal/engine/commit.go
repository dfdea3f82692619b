package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

const (
	payloadSize   = 8 << 20 // bytes of data that go into one payload object, a single record may have more
	payloadsAsync = 4       // that are put at once
)

// A transaction is a zodb.Transaction.
type transaction struct {
	e      *Engine
	origin zodb.Observer
	done   func(*zodb.Commit, error) // set by Finish

	// What the client stored; for the one who calls Store and Vote.
	txn    txlog.Transaction
	place  map[zodb.Oid]int // in txn.Records
	checks map[zodb.Oid]zodb.Tid
	bytes  int
	locks  *lockRequest // held, unless nil

	mu struct {
		sync.Mutex
		phase  phase
		cancel context.CancelFunc // of the vote that is under way
		voting chan struct{}      // closed when it ends
	}
}

type phase string

const (
	begun    phase = "begun"
	voting   phase = "voting"
	voted    phase = "voted"
	finished phase = "finished"
	aborted  phase = "aborted"
)

// Begin implements zodb.Storage.
func (e *Engine) Begin(meta zodb.TxnMeta, _ zodb.Tid, origin zodb.Observer) (zodb.Transaction, error) {
	if err := e.ReadOnly(); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{"user name", meta.User}, {"description", meta.Description}, {"extension", meta.Extension}} {
		if len(f.b) > txlog.MaxMeta {
			return nil, fmt.Errorf("the %s of the transaction has %d bytes, the limit is %d", f.name, len(f.b), txlog.MaxMeta)
		}
	}
	t := &transaction{
		e:      e,
		origin: origin,
		place:  make(map[zodb.Oid]int),
		checks: make(map[zodb.Oid]zodb.Tid),
	}
	t.txn.Meta = meta
	t.mu.phase = begun
	e.stats.active.Add(1)
	return t, nil
}

// Store implements zodb.Transaction.
func (t *transaction) Store(oid zodb.Oid, serial zodb.Tid, data []byte) error {
	if err := t.inPhase(begun); err != nil {
		return err
	}
	if err := t.e.oids.refuse(oid); err != nil {
		return err
	}
	if len(data) > txlog.MaxData {
		return fmt.Errorf("object %s has %d bytes, the limit is %d", oid, len(data), txlog.MaxData)
	}
	rec := txlog.Record{Oid: oid, Prev: serial, Kind: txlog.RecordData, Data: data, Size: uint32(len(data))}
	if i, again := t.place[oid]; again {
		t.bytes -= len(t.txn.Records[i].Data)
		t.txn.Records[i] = rec
	} else {
		if len(t.txn.Records) == t.e.opts.MaxRecords {
			return fmt.Errorf("the transaction changes more than %d objects: split it into several", t.e.opts.MaxRecords)
		}
		t.place[oid] = len(t.txn.Records)
		t.txn.Records = append(t.txn.Records, rec)
	}
	t.bytes += len(data)
	t.e.stats.stores.Add(1)
	return nil
}

// CheckCurrent implements zodb.Transaction.
func (t *transaction) CheckCurrent(oid zodb.Oid, serial zodb.Tid) error {
	if err := t.inPhase(begun); err != nil {
		return err
	}
	t.checks[oid] = serial
	return nil
}

func (t *transaction) inPhase(want phase) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inPhaseLocked(want)
}

func (t *transaction) inPhaseLocked(want phase) error {
	if t.mu.phase != want {
		return &zodb.TransactionError{Reason: "the transaction is " + string(t.mu.phase) + " already"}
	}
	return nil
}

// Vote implements zodb.Transaction.
func (t *transaction) Vote(ctx context.Context) (ballot zodb.Ballot, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	if err := t.inPhaseLocked(begun); err != nil {
		t.mu.Unlock()
		return ballot, err
	}
	t.mu.phase, t.mu.cancel, t.mu.voting = voting, cancel, make(chan struct{})
	t.mu.Unlock()

	ballot.Conflicts, err = t.vote(ctx)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.phase = begun
	if err == nil && len(ballot.Conflicts) == 0 {
		t.mu.phase = voted
	} else if len(ballot.Conflicts) > 0 || errors.As(err, new(*zodb.ReadConflictError)) {
		t.e.stats.conflicts.Add(1)
	}
	close(t.mu.voting)
	return ballot, err
}

func (t *transaction) vote(ctx context.Context) ([]zodb.Conflict, error) {
	e := t.e
	if err := e.ReadOnly(); err != nil {
		return nil, err
	}
	locks := &lockRequest{}
	for _, rec := range t.txn.Records {
		locks.write = append(locks.write, rec.Oid)
	}
	for oid := range t.checks {
		if _, writes := t.place[oid]; !writes {
			locks.check = append(locks.check, oid)
		}
	}
	if err := e.locks.acquire(ctx, locks); err != nil {
		return nil, err
	}
	conflicts, newest, err := t.judge()
	if err == nil && len(conflicts) == 0 && t.bytes > e.opts.MaxInline {
		err = t.writePayloads(ctx)
	}
	if err == nil && len(conflicts) == 0 {
		t.locks = locks
		return nil, nil
	}
	e.locks.release(locks)
	// Whoever is told of a conflict must be able to see what it was with.
	if wait := e.await(ctx, func() bool { return e.state.last >= newest }); wait != nil {
		return nil, wait
	}
	return conflicts, err
}

// judge compares what the client has seen with what is sequenced. newest is
// the tid of the newest transaction that stands in the way.
func (t *transaction) judge() (conflicts []zodb.Conflict, newest zodb.Tid, err error) {
	for oid, read := range t.checks {
		committed, exists := t.e.newest(oid)
		switch {
		case !exists:
			return nil, newest, &zodb.POSKeyError{Oid: oid}
		case committed != read:
			return nil, committed, &zodb.ReadConflictError{Oid: oid, Committed: committed, Read: read}
		}
	}
	for i := range t.txn.Records {
		rec := &t.txn.Records[i]
		committed, exists := t.e.newest(rec.Oid)
		if exists && committed != rec.Prev {
			conflicts = append(conflicts, zodb.Conflict{Oid: rec.Oid, Committed: committed, Read: rec.Prev, Data: rec.Data})
			newest = max(newest, committed)
		}
		if !exists {
			rec.Prev = zodb.NoTid
		}
	}
	return conflicts, newest, nil
}

// newest returns the serial of the newest revision that is sequenced. The
// caller holds the object's lock.
func (e *Engine) newest(oid zodb.Oid) (zodb.Tid, bool) {
	// What is no longer pending is in the index, so look in this order.
	e.seq.Lock()
	tid, pending := e.seq.pending[oid]
	e.seq.Unlock()
	if pending {
		return tid, true
	}
	e.state.RLock()
	defer e.state.RUnlock()
	r, ok := e.state.index.Current(oid)
	return r.Serial, ok
}

// writePayloads puts the data of a large transaction into objects of its own.
func (t *transaction) writePayloads(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(payloadsAsync)
	var group []*txlog.Record
	size := 0
	flush := func() {
		id := txlog.NewPayloadID()
		data := txlog.EncodePayload(t.e.format.Database, id, len(t.txn.Payloads), group)
		t.txn.Payloads = append(t.txn.Payloads, id)
		group, size = nil, 0
		g.Go(func() error { return txlog.WritePayload(ctx, t.e.bucket, id, data) })
	}
	for i := range t.txn.Records {
		rec := &t.txn.Records[i]
		group = append(group, rec)
		if size += len(rec.Data); size >= payloadSize {
			flush()
		}
	}
	if len(group) > 0 {
		flush()
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("writing the data of a large transaction: %w", err)
	}
	return nil
}

// Finish implements zodb.Transaction.
func (t *transaction) Finish(done func(*zodb.Commit, error)) {
	t.mu.Lock()
	err := t.inPhaseLocked(voted)
	if err == nil {
		t.mu.phase = finished
	}
	t.mu.Unlock()
	if err != nil {
		done(nil, err)
		return
	}
	e := t.e
	e.stats.active.Add(-1)
	t.done = done
	if len(t.txn.Records) == 0 {
		e.finishEmpty(t)
		return
	}
	highest := zodb.Oid(0)
	for _, rec := range t.txn.Records {
		highest = max(highest, rec.Oid)
	}

	e.seq.Lock()
	// A closed engine still takes what was voted: Close waits for it.
	if err = e.seq.readOnly; err == nil || errors.Is(err, zodb.ErrClosed) {
		err = nil
		t.txn.Tid = max(zodb.TidAt(e.opts.Now()), e.seq.last+1)
		e.seq.last = t.txn.Tid
		e.seq.finishing[t.txn.Tid] = t
		for _, rec := range t.txn.Records {
			e.seq.pending[rec.Oid] = t.txn.Tid
		}
		e.log.Append(&t.txn, e.oids.stored(highest))
	}
	e.seq.Unlock()
	e.locks.release(t.locks)
	if err != nil {
		t.discardPayloads()
		done(nil, fmt.Errorf("%w; the transaction was not committed", err))
	}
}

// finishEmpty ends a transaction that changed nothing. As with FileStorage it
// leaves no trace, and has the tid of the last one.
func (e *Engine) finishEmpty(t *transaction) {
	e.locks.release(t.locks)
	e.state.Lock()
	defer e.state.Unlock()
	t.done(&zodb.Commit{Tid: e.state.last, Info: e.infoLocked()}, nil)
}

// Abort implements zodb.Transaction.
func (t *transaction) Abort() {
	t.mu.Lock()
	for t.mu.phase == voting {
		t.mu.cancel()
		ended := t.mu.voting
		t.mu.Unlock()
		<-ended
		t.mu.Lock()
	}
	was := t.mu.phase
	if was == begun || was == voted {
		t.mu.phase = aborted
	}
	t.mu.Unlock()
	if was != begun && was != voted {
		return
	}
	t.e.stats.active.Add(-1)
	t.e.stats.aborts.Add(1)
	if t.locks != nil {
		t.e.locks.release(t.locks)
	}
	t.discardPayloads()
}

// discardPayloads deletes payload objects that no transaction will name. One
// that could not be deleted is garbage and harms nobody.
func (t *transaction) discardPayloads() {
	if len(t.txn.Payloads) == 0 {
		return
	}
	go func() {
		for _, id := range t.txn.Payloads {
			if err := t.e.bucket.Delete(context.Background(), id.Name()); err != nil {
				t.e.opts.Logger.Warn("could not delete the data of an aborted transaction; it takes up space", "object", id.Name(), "err", err)
			}
		}
	}()
}
