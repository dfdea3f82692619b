package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

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

	// What the client asked for; for the one who calls Store and Vote.
	meta    zodb.TxnMeta
	tid     zodb.Tid // to be given to it, or NoTid
	changes []change
	place   map[zodb.Oid]int // in changes
	undos   []zodb.Tid
	told    map[zodb.Oid]bool // conflicts of undo that the client knows of
	checks  map[zodb.Oid]zodb.Tid
	blobs   []*upload
	bytes   int

	// What the vote makes of it.
	txn   txlog.Transaction
	locks *lockRequest // held, unless nil
	pins  []pin        // likewise
	reign int          // of this node, in which it was judged
	epoch txlog.Epoch  // in which it was put into the log

	votedAt, finishedAt time.Time

	mu struct {
		sync.Mutex
		phase  phase
		cancel context.CancelFunc // of the vote that is under way
		voting chan struct{}      // closed when it ends
	}
}

// A change is what a client does to one object. Its record's Prev is the serial
// that the client has seen; in a restoration it counts for nothing.
type change struct {
	txlog.Record
	restored bool
	blob     *upload // or nil
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
func (e *Engine) Begin(meta zodb.TxnMeta, tid zodb.Tid, origin zodb.Observer) (zodb.Transaction, error) {
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
		meta:   meta,
		tid:    tid,
		place:  make(map[zodb.Oid]int),
		told:   make(map[zodb.Oid]bool),
		checks: make(map[zodb.Oid]zodb.Tid),
	}
	t.mu.phase = begun
	e.stats.active.Add(1)
	return t, nil
}

// Store implements zodb.Transaction.
func (t *transaction) Store(oid zodb.Oid, serial zodb.Tid, data []byte) error {
	return t.change(change{Record: txlog.Record{Oid: oid, Prev: serial, Kind: txlog.RecordData, Data: data}})
}

// Delete implements zodb.Transaction.
func (t *transaction) Delete(oid zodb.Oid, serial zodb.Tid) error {
	return t.change(change{Record: txlog.Record{Oid: oid, Prev: serial, Kind: txlog.RecordDeletion}})
}

// Restore implements zodb.Transaction.
func (t *transaction) Restore(oid zodb.Oid, data []byte, source zodb.Tid) error {
	if t.tid == zodb.NoTid {
		return &zodb.TransactionError{Reason: "restore needs a transaction that was begun with a tid"}
	}
	c := change{Record: txlog.Record{Oid: oid, Kind: txlog.RecordData, Data: data, Source: source}, restored: true}
	if data == nil {
		c.Kind, c.Source = txlog.RecordDeletion, zodb.NoTid
	}
	return t.change(c)
}

// change takes note of a change. The last one of an object counts, but the blob
// stays: conflicts are resolved without it.
func (t *transaction) change(c change) error {
	if err := t.inPhase(begun); err != nil {
		return err
	}
	if err := t.e.oids.refuse(c.Oid); err != nil {
		return err
	}
	if len(c.Data) > txlog.MaxData {
		return fmt.Errorf("object %s has %d bytes, the limit is %d", c.Oid, len(c.Data), txlog.MaxData)
	}
	c.Size = uint32(len(c.Data))
	if i, again := t.place[c.Oid]; again {
		t.bytes -= len(t.changes[i].Data)
		if c.blob == nil && c.Kind != txlog.RecordDeletion {
			c.blob = t.changes[i].blob
		}
		t.changes[i] = c
	} else {
		if len(t.changes) == t.e.opts.MaxRecords {
			return t.tooMany()
		}
		t.place[c.Oid] = len(t.changes)
		t.changes = append(t.changes, c)
	}
	t.bytes += len(c.Data)
	t.e.stats.stores.Add(1)
	return nil
}

func (t *transaction) tooMany() error {
	return fmt.Errorf("the transaction changes more than %d objects: split it into several", t.e.opts.MaxRecords)
}

// CheckCurrent implements zodb.Transaction.
func (t *transaction) CheckCurrent(oid zodb.Oid, serial zodb.Tid) error {
	if err := t.inPhase(begun); err != nil {
		return err
	}
	if len(t.checks) == t.e.opts.MaxRecords {
		return fmt.Errorf("the transaction relies on more than %d objects: split it into several", t.e.opts.MaxRecords)
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

	ballot, err = t.vote(ctx)

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

func (t *transaction) vote(ctx context.Context) (ballot zodb.Ballot, err error) {
	e := t.e
	t.reign = e.reign()
	if err := e.ReadOnly(); err != nil {
		return ballot, err
	}
	if err := e.waitForRoom(ctx); err != nil {
		return ballot, err
	}
	if err := t.awaitBlobs(ctx); err != nil {
		return ballot, err
	}
	locks, err := t.wanted(ctx)
	if err != nil {
		return ballot, err
	}
	start := time.Now()
	if err := e.locks.acquire(ctx, locks); err != nil {
		return ballot, err
	}
	locked := time.Now()
	e.Took(StageLocks, locked.Sub(start))
	if err := e.ReadOnly(); err != nil { // since it began to wait
		e.locks.release(locks)
		return ballot, err
	}
	ballot, blocking, err := t.judge(ctx)
	if err == nil && len(ballot.Conflicts) == 0 && t.bytes > e.opts.MaxInline {
		err = t.writePayloads(ctx)
	}
	t.votedAt = time.Now()
	e.Took(StageJudge, t.votedAt.Sub(locked))
	if err == nil && len(ballot.Conflicts) == 0 {
		t.locks = locks
		return ballot, nil
	}
	e.seq.Lock()
	t.unpinLocked()
	e.seq.Unlock()
	e.locks.release(locks)
	// Whoever is told of a conflict must be able to see what it was with.
	if wait := e.await(ctx, func() bool { return e.state.last >= blocking }); wait != nil {
		return zodb.Ballot{}, wait
	}
	return ballot, err
}

// awaitBlobs waits until the transaction's blobs stand.
func (t *transaction) awaitBlobs(ctx context.Context) error {
	if len(t.blobs) == 0 {
		return nil
	}
	start := time.Now()
	for _, u := range t.blobs {
		if u.reign != t.reign { // whoever has led meanwhile may have swept it away
			return errLedMeanwhile
		}
		if err := u.finished(ctx); err != nil {
			return err
		}
	}
	t.e.Took(StageBlobs, time.Since(start))
	return nil
}

// orderLock stands for the order of transactions. One that brings its tid along
// has it for itself from vote to finish, others share it.
const orderLock zodb.Oid = math.MaxUint64

// wanted returns the locks that the transaction needs.
func (t *transaction) wanted(ctx context.Context) (*lockRequest, error) {
	locks := &lockRequest{}
	writes := make(map[zodb.Oid]bool, len(t.changes))
	write := func(oid zodb.Oid) {
		if !writes[oid] {
			writes[oid] = true
			locks.write = append(locks.write, oid)
		}
	}
	for i := range t.changes {
		write(t.changes[i].Oid)
	}
	for _, tid := range t.undos {
		undone, err := t.e.undoable(ctx, tid)
		if err != nil {
			return nil, err
		}
		for _, r := range undone.records {
			write(r.oid)
		}
	}
	if len(locks.write) > t.e.opts.MaxRecords {
		return nil, t.tooMany()
	}
	for oid := range t.checks {
		if !writes[oid] {
			locks.check = append(locks.check, oid)
		}
	}
	if t.tid != zodb.NoTid {
		locks.write = append(locks.write, orderLock)
	} else {
		locks.check = append(locks.check, orderLock)
	}
	return locks, nil
}

// judge compares what the client has seen with what is sequenced, and makes the
// records of the transaction. blocking is the tid of the newest transaction that
// stands in the way.
func (t *transaction) judge(ctx context.Context) (ballot zodb.Ballot, blocking zodb.Tid, err error) {
	e := t.e
	for oid, read := range t.checks {
		n, err := e.newest(ctx, oid)
		switch {
		case err != nil:
			return ballot, blocking, err
		case !n.exists:
			return ballot, n.serial, &zodb.POSKeyError{Oid: oid}
		case n.serial != read:
			return ballot, n.serial, &zodb.ReadConflictError{Oid: oid, Committed: n.serial, Read: read}
		}
	}
	if t.tid != zodb.NoTid {
		if err := e.admitTid(t.tid); err != nil {
			return ballot, blocking, err
		}
	}
	t.txn = txlog.Transaction{Meta: t.meta, Records: make([]txlog.Record, 0, len(t.changes))}
	for i := range t.changes {
		c := &t.changes[i]
		rec := c.Record
		if c.blob != nil {
			rec.Blob = c.blob.ref()
		}
		n, err := e.newest(ctx, rec.Oid)
		rec.Existed = n.exists
		switch {
		case err != nil:
			return ballot, blocking, err
		case c.restored, n.serial == zodb.NoTid && rec.Kind != txlog.RecordDeletion:
			rec.Prev = n.serial
		case rec.Kind == txlog.RecordDeletion && n.serial == zodb.NoTid:
			return ballot, blocking, &zodb.POSKeyError{Oid: rec.Oid}
		case rec.Kind == txlog.RecordDeletion && n.serial != rec.Prev:
			return ballot, n.serial, &zodb.ConflictError{Oid: rec.Oid, Committed: n.serial, Read: rec.Prev}
		case n.serial != rec.Prev:
			ballot.Conflicts = append(ballot.Conflicts, zodb.Conflict{Oid: rec.Oid, Committed: n.serial, Read: rec.Prev, Data: rec.Data})
			blocking = max(blocking, n.serial)
		}
		t.txn.Records = append(t.txn.Records, rec)
	}
	if len(t.undos) > 0 || t.tid != zodb.NoTid {
		if err := t.share(ctx, &ballot); err != nil {
			return ballot, blocking, err
		}
	}
	return ballot, blocking, nil
}

// maxAhead is how far in the future the tid of a transaction may lie that a
// client gave: all later ones have to lie above it.
const maxAhead = 7 * 24 * time.Hour

// admitTid returns an error unless a transaction can have the tid. The caller
// holds orderLock.
func (e *Engine) admitTid(tid zodb.Tid) error {
	e.seq.Lock()
	last := e.seq.last
	e.seq.Unlock()
	if tid <= last {
		return fmt.Errorf("cannot commit under tid %s: the database has later ones already, the last is %s; "+
			"restore into an empty database, or continue where an earlier copy ended", tid, last)
	}
	if tid.Time().Sub(e.opts.Now()) > maxAhead {
		return fmt.Errorf("cannot commit under tid %s: its time, %s, lies more than %s in the future",
			tid, tid.Time().Format(time.RFC3339), maxAhead)
	}
	return nil
}

// newest is the newest revision of an object that is sequenced.
type newest struct {
	serial zodb.Tid // NoTid if there is none
	exists bool     // it is there, and no deletion
}

// newest looks it up. The caller holds the object's lock.
func (e *Engine) newest(ctx context.Context, oid zodb.Oid) (newest, error) {
	// What is no longer pending is settled, so look in this order.
	e.seq.Lock()
	n, pending := e.seq.pending[oid]
	e.seq.Unlock()
	if pending {
		return n, nil
	}
	r, ok, err := e.current(ctx, oid)
	return newest{r.serial, ok && !r.deleted}, err
}

// writePayloads puts the data of a large transaction into objects of its own.
func (t *transaction) writePayloads(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(payloadsAsync)
	var group []*txlog.Record
	size := 0
	flush := func() {
		id := txlog.NewPayloadID()
		t.e.uploads.add(id.Name())
		data := txlog.EncodePayload(t.e.format.Database, id, len(t.txn.Payloads), group)
		t.txn.Payloads = append(t.txn.Payloads, id)
		group, size = nil, 0
		g.Go(func() error { return txlog.WritePayload(ctx, t.e.bucket, id, data) })
	}
	for i := range t.txn.Records {
		rec := &t.txn.Records[i]
		if rec.Kind != txlog.RecordData {
			continue
		}
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
	t.finishedAt = time.Now()
	e.Took(StageClient, t.finishedAt.Sub(t.votedAt))
	highest := zodb.Oid(0)
	for _, rec := range t.txn.Records {
		highest = max(highest, rec.Oid)
	}

	e.seq.Lock()
	// A closed engine still takes what was voted: Close waits for it.
	if err = e.leadsLocked(); err == nil {
		err = e.sameReignLocked(t.reign)
	}
	if err == nil {
		if t.txn.Tid = t.tid; t.tid == zodb.NoTid {
			t.txn.Tid = max(zodb.TidAt(e.opts.Now()), e.seq.last+1)
		}
		e.seq.last = t.txn.Tid
		t.epoch = e.seq.epoch
		e.seq.finishing[t.txn.Tid] = t
		for _, rec := range t.txn.Records {
			e.seq.pending[rec.Oid] = newest{t.txn.Tid, rec.Kind != txlog.RecordDeletion}
		}
		e.log.Append(&t.txn, e.oids.stored(highest))
	}
	if err != nil {
		t.unpinLocked()
	}
	e.seq.Unlock()
	e.locks.release(t.locks)
	if err != nil {
		t.discard()
		done(nil, fmt.Errorf("%w: %w", zodb.ErrNotCommitted, err))
	}
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
	t.e.seq.Lock()
	t.unpinLocked()
	t.e.seq.Unlock()
	t.discard()
}
