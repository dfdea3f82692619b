package engine

import (
	"fmt"

	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A logObserver is the engine as the log sees it.
type logObserver Engine

// Settled makes the transactions of a log object visible.
func (lo *logObserver) Settled(o *txlog.Object) {
	e := (*Engine)(lo)
	mine := make([]*transaction, len(o.Entries))
	e.seq.Lock()
	for i, entry := range o.Entries {
		if entry.Txn != nil {
			mine[i] = e.seq.finishing[entry.Txn.Tid]
		}
	}
	e.seq.Unlock()

	name := o.Name()
	for i, t := range mine {
		if t == nil {
			continue
		}
		for _, rec := range o.Entries[i].Txn.Records {
			if rec.Kind == txlog.RecordData {
				e.cache.Add(cache.Key{Name: name, Offset: rec.Span.Offset}, rec.Data)
			}
		}
	}

	e.state.Lock()
	e.state.size += o.Size
	e.state.oidMark = max(e.state.oidMark, o.OidMark) // a seal has none
	object := uint32(len(e.state.names))
	e.state.names = append(e.state.names, name)
	for i, entry := range o.Entries {
		if entry.Txn != nil {
			e.settleLocked(object, entry.Txn, mine[i])
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
		for _, rec := range entry.Txn.Records {
			if e.seq.pending[rec.Oid] == entry.Txn.Tid {
				delete(e.seq.pending, rec.Oid)
			}
		}
	}
	e.seq.Unlock()
}

// settleLocked makes one transaction visible and tells everybody; t is nil for
// one that was read from the log.
func (e *Engine) settleLocked(object uint32, txn *txlog.Transaction, t *transaction) {
	payload := uint32(len(e.state.names)) // the number of the first payload object
	for _, id := range txn.Payloads {
		e.state.names = append(e.state.names, id.Name())
	}
	s := settledTxn{tid: txn.Tid, object: object, head: txn.Head, oids: make([]zodb.Oid, len(txn.Records))}
	for i, rec := range txn.Records {
		s.oids[i] = rec.Oid
		r := index.Revision{Serial: txn.Tid, Object: object, Offset: rec.Span.Offset, Size: rec.Span.Size}
		switch rec.Kind {
		case txlog.RecordPayload:
			r.Object = payload + rec.Payload
			e.state.size += int64(rec.Span.Size)
		case txlog.RecordDeletion:
			r.Size = 0
		}
		e.state.index.Add(rec.Oid, r)
	}
	e.state.txns = append(e.state.txns, s)
	e.state.last = txn.Tid

	c := &zodb.Commit{Tid: txn.Tid, Oids: s.oids, Info: e.infoLocked()}
	for obs := range e.state.observers {
		if t == nil || obs != t.origin {
			obs.Committed(c)
		}
	}
	// Last: whoever hears of the commit from its maker, and then asks the
	// server for what is new, must find it.
	if t != nil {
		e.stats.commits.Add(1)
		t.done(c, nil)
	}
}

// Deposed ends all writing: another node leads.
func (lo *logObserver) Deposed(by txlog.Lost, _ []txlog.Entry) {
	e := (*Engine)(lo)
	leader := by.By
	if leader == "" {
		leader = "an unknown node"
	}
	e.opts.Logger.Error("ANOTHER SERVER HAS TAKEN OVER this database; this one takes no more writes, "+
		"transactions that it had not acknowledged failed; stop one of the two servers",
		"bucket", e.bucket.Properties().Location, "leader", leader, "slot", by.Slot)
	why := fmt.Errorf("%w: the server %s has taken over this database", zodb.ErrReadOnly, leader)
	e.seq.Lock()
	// Nothing was sequenced since the log found out, or it is among these.
	failed := e.seq.finishing
	e.seq.finishing = make(map[zodb.Tid]*transaction)
	e.seq.readOnly = why
	e.seq.Unlock()
	for _, t := range failed {
		t.done(nil, fmt.Errorf("%w; the transaction was not committed", why))
	}
	e.endWrites(why)
}
