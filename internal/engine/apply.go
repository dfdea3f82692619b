package engine

import (
	"fmt"
	"unique"

	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A logObserver is the engine as the log sees it.
type logObserver Engine

// Settled makes the transactions of a log object visible, and begins to apply its
// packs.
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
	number := uint32(len(e.state.objects))
	e.state.objects = append(e.state.objects, object{name: name})
	for i, entry := range o.Entries {
		switch {
		case entry.Txn != nil:
			e.settleLocked(number, entry.Txn, mine[i])
		case entry.Pack != nil:
			e.dropLocked(entry.Pack)
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
	for _, t := range mine {
		if t != nil {
			e.uploads.forget(t)
		}
	}
}

// settleLocked makes one transaction visible and tells everybody; t is nil for
// one that was read from the log.
func (e *Engine) settleLocked(number uint32, txn *txlog.Transaction, t *transaction) {
	payload := uint32(len(e.state.objects)) // the number of the first payload object
	for _, id := range txn.Payloads {
		e.state.objects = append(e.state.objects, object{name: id.Name()})
	}
	s := settledTxn{
		tid:         txn.Tid,
		oids:        make([]zodb.Oid, len(txn.Records)),
		status:      txn.Meta.Status,
		user:        unique.Make(string(txn.Meta.User)),
		description: unique.Make(string(txn.Meta.Description)),
		extension:   unique.Make(string(txn.Meta.Extension)),
	}
	for i := range txn.Records {
		rec := &txn.Records[i]
		s.oids[i] = rec.Oid
		r := index.Revision{Serial: txn.Tid, Object: number, Offset: rec.Span.Offset, Size: rec.Span.Size, Data: rec.Size}
		switch rec.Kind {
		case txlog.RecordPayload:
			r.Object = payload + rec.Payload
			e.state.objects[r.Object].bytes += int64(rec.Span.Size)
			e.state.size += int64(rec.Span.Size)
		case txlog.RecordDeletion:
			r.Size = 0
		case txlog.RecordShared:
			// Where the source is missing the log is damaged. The record itself
			// is none of data, so loads will say so and name it.
			if source, ok := e.state.index.At(rec.Oid, rec.Source); ok {
				r.Object, r.Offset, r.Size = source.Object, source.Offset, source.Size
			}
		}
		e.addLocked(rec.Oid, r, extra{rec.Source, rec.Blob})
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

// addLocked adds a revision and counts what it refers to.
func (e *Engine) addLocked(oid zodb.Oid, r index.Revision, x extra) {
	e.state.index.Add(oid, r)
	if !r.Deleted() {
		e.state.objects[r.Object].refs++
	}
	if x != (extra{}) {
		e.state.extras[txlog.Dropped{Oid: oid, Serial: r.Serial}] = x
	}
	if x.blob != nil {
		if e.state.blobs[x.blob.ID]++; e.state.blobs[x.blob.ID] == 1 {
			e.state.size += x.blob.Size
		}
	}
}

// forgetLocked undoes what addLocked did, but for the index.
func (e *Engine) forgetLocked(oid zodb.Oid, r index.Revision) {
	if !r.Deleted() {
		o := &e.state.objects[r.Object]
		if o.refs--; o.refs == 0 {
			e.state.size -= o.bytes
		}
	}
	key := txlog.Dropped{Oid: oid, Serial: r.Serial}
	if b := e.state.extras[key].blob; b != nil {
		if e.state.blobs[b.ID]--; e.state.blobs[b.ID] == 0 {
			delete(e.state.blobs, b.ID)
			e.state.size -= b.Size
		}
	}
	delete(e.state.extras, key)
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
