package engine

import (
	"context"
	"math"
	"slices"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A logObserver is the engine as the log sees it.
type logObserver Engine

// Reset begins anew with what a checkpoint stands for.
func (lo *logObserver) Reset(ctx context.Context, c *txlog.Checkpoint) error {
	e := (*Engine)(lo)
	b, p := &base.Base{Position: txlog.Start()}, txlog.Start()
	if c != nil {
		var err error
		if b, err = base.Read(ctx, e.bucket, e.format.Database, c.Base); err != nil {
			return err
		}
		p = c.Position
	}
	v, err := e.reader.View(ctx, b)
	if err != nil {
		return err
	}
	e.state.Lock()
	defer e.state.Unlock()
	if e.state.view != nil {
		e.misledLocked() // of the transactions between then and now nobody is told
	}
	e.state.view, e.state.viewBytes = v, b.Bytes()
	e.state.position = p
	e.state.tails = []*tail{newTail(p)}
	e.state.adopted, e.state.checkpointed = 0, b.Number
	if c != nil {
		e.state.adopted = c.Adopted
	}
	// The last transaction may be an imported one that a pack has dropped.
	e.state.last, e.state.oidMark = max(p.LastTid, v.Last(), b.Packed), p.OidMark
	e.state.epoch, e.state.sealed = p.Epoch, e.state.last
	e.failExpectedLocked(math.MaxUint64, zodb.ErrOutcomeUnknown)
	e.announceLocked()
	return nil
}

// Fetch reads the bases that an object which another node wrote has adopted.
func (lo *logObserver) Fetch(ctx context.Context, o *txlog.Object) error {
	e := (*Engine)(lo)
	e.state.RLock()
	old := o.Slot <= e.state.adopted // then it may be gone
	e.state.RUnlock()
	if old {
		return nil
	}
	for _, entry := range o.Entries {
		if entry.Base == nil {
			continue
		}
		b, err := base.Read(ctx, e.bucket, e.format.Database, entry.Base.ID)
		if err != nil {
			return err
		}
		v, err := e.reader.View(ctx, b)
		if err != nil {
			return err
		}
		e.state.Lock()
		e.state.adopting[b.ID] = adoption{view: v, foreign: true}
		e.state.Unlock()
	}
	return nil
}

// Settled makes the transactions of a log object visible, and adopts bases.
func (lo *logObserver) Settled(s txlog.Settled) {
	e, o := (*Engine)(lo), s.Object
	mine := make([]*transaction, len(o.Entries))
	e.seq.Lock()
	for i, entry := range o.Entries {
		if entry.Txn != nil {
			// Another leader may have given the tid to another one.
			if t := e.seq.finishing[entry.Txn.Tid]; t != nil && t.epoch == o.Epoch {
				mine[i] = t
			}
		}
	}
	e.seq.Unlock()

	e.state.Lock()
	e.state.oidMark = max(e.state.oidMark, o.OidMark) // a seal has none
	if o.Seal() == nil {
		e.endEpochsLocked(o.Epoch)
	}
	e.growingLocked().extend(o.Size, s.End)
	for i, entry := range o.Entries {
		switch {
		case entry.Txn != nil:
			e.settleLocked(entry.Txn, mine[i], e.expectedLocked(entry.Txn.Tid, o.Epoch))
		case entry.Base != nil:
			e.adoptLocked(entry.Base)
		}
	}
	if e.grownLocked() {
		e.janitor.pokeFlush()
	}
	if s.Data != nil {
		for f := range e.state.followers {
			f.LogObject(uint64(o.Slot), s.Data)
		}
	}
	e.announceLocked()
	e.state.Unlock()

	e.seq.Lock()
	for i, entry := range o.Entries {
		if mine[i] == nil {
			continue
		}
		delete(e.seq.finishing, entry.Txn.Tid)
		if e.seq.late != nil {
			e.seq.late[entry.Txn.Tid] = mine[i]
		}
		for _, rec := range entry.Txn.Records {
			if e.seq.pending[rec.Oid].serial == entry.Txn.Tid {
				delete(e.seq.pending, rec.Oid)
			}
		}
		mine[i].unpinLocked()
	}
	e.seq.Unlock()
	applied := time.Now()
	for _, t := range mine {
		if t != nil {
			e.uploads.forget(t)
			e.Took(StageQueue, s.Put.Sub(t.finishedAt))
			e.Took(StagePut, s.Stood.Sub(s.Put))
			e.Took(StageApply, applied.Sub(s.Stood))
		}
	}
}

// growingLocked returns the tail that takes in what is settled next.
func (e *Engine) growingLocked() *tail { return e.state.tails[len(e.state.tails)-1] }

// grownLocked tells whether the tail has grown enough to be written out.
func (e *Engine) grownLocked() bool {
	t := e.growingLocked()
	return len(t.log) >= e.opts.FlushObjects || t.bytes() >= int64(e.opts.FlushBytes)
}

// settleLocked makes one transaction visible and tells everybody; t is nil for
// one that was read from the log, and x for one that no client of this node waits
// for.
func (e *Engine) settleLocked(txn *txlog.Transaction, t *transaction, x *expected) {
	e.growingLocked().add(txn)
	e.state.last = txn.Tid
	c := commitOf(txn, e.infoLocked())
	for obs := range e.state.observers {
		if (t == nil || obs != t.origin) && (x == nil || obs != x.origin) {
			obs.Committed(c)
		}
	}
	// Last: whoever hears of the commit from its maker, and then asks the
	// server for what is new, must find it.
	if t != nil {
		e.stats.commits.Add(1)
		t.done(c, nil)
	}
	if x != nil {
		e.stats.commits.Add(1)
		x.done(c, nil)
	}
}

func commitOf(txn *txlog.Transaction, info zodb.Info) *zodb.Commit {
	c := &zodb.Commit{Tid: txn.Tid, Oids: make([]zodb.Oid, len(txn.Records)), Info: info}
	for i := range txn.Records {
		c.Oids[i] = txn.Records[i].Oid
	}
	return c
}

// An adoption is a base that the log may come to adopt.
type adoption struct {
	view  *base.View
	blobs []string // that are not needed any more then

	foreign bool // another node has made it
}

// retired is a base that was replaced.
type retired struct {
	view     *base.View
	until    time.Time // when what only it needs may be deleted
	readable bool      // a pack dropped revisions of it, which can still be read
	payloads []string  // payload objects whose data are in segments now
	blobs    []string  // that the pack dropped
}

// adoptLocked puts a base into the place of the one before and of what it
// accounts for of the tail.
func (e *Engine) adoptLocked(c *txlog.BaseChange) {
	a, ok := e.state.adopting[c.ID]
	v := a.view
	if !ok || v.Number <= e.state.view.Number {
		return // it was there from the start
	}
	delete(e.state.adopting, c.ID)
	old := &retired{view: e.state.view, until: time.Now().Add(e.opts.PackGrace), readable: c.Why == txlog.BasePack, blobs: a.blobs}
	e.state.view, e.state.viewBytes, e.state.position = v, v.Bytes(), v.Position
	for i, t := range e.state.tails {
		n, _ := slices.BinarySearchFunc(t.txns, v.Position.LastTid+1, byTid)
		for _, txn := range t.txns[:n] {
			for _, id := range txn.Payloads {
				old.payloads = append(old.payloads, id.Name())
			}
		}
		switch last := i == len(e.state.tails)-1; {
		case t.end.Slot <= v.Position.Slot && !last:
			e.state.tails[i] = nil
		case n > 0:
			e.state.tails[i] = t.after(v.Position)
		}
	}
	e.state.tails = slices.DeleteFunc(e.state.tails, func(t *tail) bool { return t == nil })
	e.state.retired = append(e.state.retired, old)
	if c.Why == txlog.BasePack || c.Why == txlog.BaseRestore {
		e.state.packs++
	}
	if a.foreign && c.Why == txlog.BaseRestore {
		e.misledLocked()
	}
	e.state.last = max(e.state.last, v.Position.LastTid, v.Last()) // an import goes past the log
	e.janitor.poke()
}

// misledLocked is called when clients may have cached what is not true and will not
// be told.
func (e *Engine) misledLocked() {
	if e.opts.OnMisled != nil && len(e.state.observers) > 0 {
		e.janitor.do(e.opts.OnMisled)
	}
}
