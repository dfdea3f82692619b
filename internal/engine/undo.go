package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// UndoLog implements zodb.Storage.
func (e *Engine) UndoLog(ctx context.Context, first, n int, match func(*zodb.TxnInfo) bool) ([]zodb.TxnInfo, error) {
	e.state.RLock()
	txns := e.state.txns // only ever appended to
	packed := e.state.packed
	e.state.RUnlock()
	var found []zodb.TxnInfo
	for i := len(txns) - 1; i >= 0 && len(found) < n; i-- {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s := &txns[i]
		if s.tid <= packed || s.status == zodb.Packed {
			break
		}
		if s.status != ' ' {
			continue
		}
		info := zodb.TxnInfo{Tid: s.tid, Meta: s.meta()}
		if match != nil && !match(&info) {
			continue
		}
		if first--; first >= 0 {
			continue
		}
		e.state.RLock()
		info.Size = e.sizeLocked(s)
		e.state.RUnlock()
		found = append(found, info)
	}
	return found, nil
}

// sizeLocked returns the bytes of data in the records of a transaction.
func (e *Engine) sizeLocked(s *settledTxn) (n int64) {
	for _, oid := range s.oids {
		r, _ := e.state.index.At(oid, s.tid)
		n += int64(r.Data)
	}
	return n
}

// undoable returns the oids of a transaction that can be undone.
func (e *Engine) undoable(tid zodb.Tid) ([]zodb.Oid, error) {
	e.state.RLock()
	defer e.state.RUnlock()
	i, ok := slices.BinarySearchFunc(e.state.txns, tid, byTid)
	switch {
	case !ok:
		return nil, &zodb.UndoError{Reason: fmt.Sprintf("there is no transaction %s", tid)}
	case tid <= e.state.packed || e.state.txns[i].status == zodb.Packed:
		return nil, &zodb.UndoError{Reason: fmt.Sprintf("transaction %s was packed, it can no longer be undone", tid)}
	case e.state.txns[i].status != ' ':
		return nil, &zodb.UndoError{Reason: fmt.Sprintf("transaction %s cannot be undone: its status is %q", tid, e.state.txns[i].status)}
	}
	return e.state.txns[i].oids, nil
}

// Undo implements zodb.Transaction.
func (t *transaction) Undo(undone zodb.Tid) error {
	if err := t.inPhase(begun); err != nil {
		return err
	}
	if slices.Contains(t.undos, undone) {
		return nil
	}
	if len(t.undos) == maxUndos {
		return &zodb.UndoError{Reason: fmt.Sprintf("one transaction undoes %d others at most: undo in several steps", maxUndos)}
	}
	t.undos = append(t.undos, undone)
	return nil
}

// maxUndos is how many transactions one transaction can undo.
const maxUndos = 1000

// share adds the records that undo makes to the transaction, and has restored
// ones share the data of their sources. The caller holds the locks.
//
// What it judges by has to be settled, for it looks at data. What it shares is
// pinned then; if a pack was put into the log meanwhile, it judges once more.
func (t *transaction) share(ctx context.Context, ballot *zodb.Ballot) error {
	given := t.txn.Records
	for {
		t.txn.Records = slices.Clone(given)
		u, packs, err := t.shareOnce(ctx)
		if err != nil {
			return err
		}
		if !t.pin(packs) {
			continue
		}
		if len(u.failed) > 0 {
			return &zodb.MultipleUndoErrors{Errs: u.failed}
		}
		for _, c := range u.conflicts {
			t.told[c.Oid] = true
		}
		if ballot.Conflicts = append(ballot.Conflicts, u.conflicts...); len(ballot.Conflicts) == 0 {
			ballot.Undone = slices.Sorted(maps.Keys(u.made))
		}
		return nil
	}
}

// shareOnce does the work, and tells how many packs there are in the log that it
// has taken account of.
func (t *transaction) shareOnce(ctx context.Context) (u *undo, packs int, err error) {
	e := t.e
	e.seq.Lock()
	packs = e.seq.packs
	last := e.seq.last
	e.seq.Unlock()
	if err := e.await(ctx, func() bool { return e.state.last >= last && e.state.packs >= packs }); err != nil {
		return nil, packs, err
	}
	for i := range t.txn.Records {
		if rec := &t.txn.Records[i]; rec.Source != zodb.NoTid {
			if err := t.shareRestored(ctx, rec); err != nil {
				return nil, packs, err
			}
		}
	}
	t.gone = make(map[zodb.Oid]bool)
	u = &undo{t: t, made: make(map[zodb.Oid]int), stuck: make(map[zodb.Oid]bool)}
	for _, tid := range t.undos {
		if err := u.transaction(ctx, tid); err != nil {
			return nil, packs, err
		}
	}
	return u, packs, nil
}

// pin pins the revisions that the transaction shares data with, unless there are
// other packs in the log by now than the given number.
func (t *transaction) pin(packs int) bool {
	t.e.seq.Lock()
	defer t.e.seq.Unlock()
	if t.e.seq.packs != packs {
		return false
	}
	for _, rec := range t.txn.Records {
		if rec.Kind == txlog.RecordShared {
			pin := txlog.Dropped{Oid: rec.Oid, Serial: rec.Source}
			t.e.seq.pins[pin]++
			t.pins = append(t.pins, pin)
		}
	}
	return true
}

// unpinLocked lets go of the revisions that the transaction shares data with.
func (t *transaction) unpinLocked() {
	for _, pin := range t.pins {
		if t.e.seq.pins[pin]--; t.e.seq.pins[pin] == 0 {
			delete(t.e.seq.pins, pin)
		}
	}
	t.pins = nil
}

// shareRestored turns a restored record with a source into one that shares the
// source's data, if they are the same.
func (t *transaction) shareRestored(ctx context.Context, rec *txlog.Record) error {
	r, x, ok := t.e.revision(rec.Oid, rec.Source)
	if ok && !r.Deleted() && r.Data == rec.Size {
		data, err := t.e.data(ctx, rec.Oid, r)
		if err != nil {
			return err
		}
		if bytes.Equal(data, rec.Data) {
			rec.Kind, rec.Data = txlog.RecordShared, nil
			if rec.Blob == nil {
				rec.Blob = x.blob
			}
			return nil
		}
	}
	rec.Source = zodb.NoTid // it was only a hint
	return nil
}

// revision returns the one revision and what else it has.
func (e *Engine) revision(oid zodb.Oid, serial zodb.Tid) (r index.Revision, x extra, ok bool) {
	e.state.RLock()
	defer e.state.RUnlock()
	r, ok = e.state.index.At(oid, serial)
	return r, e.state.extras[txlog.Dropped{Oid: oid, Serial: serial}], ok
}

// data reads the data of a revision.
func (e *Engine) data(ctx context.Context, oid zodb.Oid, r index.Revision) ([]byte, error) {
	e.state.RLock()
	name := e.state.objects[r.Object].name
	e.state.RUnlock()
	return e.read(ctx, name, r, oid)
}

// An undo works out the records that take transactions back, by the rules of
// FileStorage (_transactionalUndoRecord): a change can be taken back if the
// object's current data is what the change made of it. Else the client may merge.
type undo struct {
	t         *transaction
	made      map[zodb.Oid]int // the records that undo has made, as places in t.txn.Records
	conflicts []zodb.Conflict
	failed    []zodb.ObjectUndoError
	stuck     map[zodb.Oid]bool // the objects of conflicts and failed
}

func (u *undo) transaction(ctx context.Context, tid zodb.Tid) error {
	// Once more: it may have been packed since.
	oids, err := u.t.e.undoable(tid)
	if err != nil {
		return err
	}
	for _, oid := range oids {
		_, stored := u.t.place[oid]
		if stored && u.t.told[oid] || u.stuck[oid] {
			continue // merged by the client, or soon to be, or in vain
		}
		if err := u.object(ctx, oid, tid); err != nil {
			return err
		}
	}
	return nil
}

// object takes back what transaction tid did to the object.
func (u *undo) object(ctx context.Context, oid zodb.Oid, tid zodb.Tid) error {
	e := u.t.e
	e.state.RLock()
	all := e.state.index.Revisions(oid)
	e.state.RUnlock()
	at, ok := slices.BinarySearchFunc(all, tid, func(r index.Revision, tid zodb.Tid) int { return cmp.Compare(r.Serial, tid) })
	if !ok {
		return &zodb.UndoError{Reason: fmt.Sprintf("transaction %s cannot be undone: its record of object %s is gone", tid, oid)}
	}
	undone, current := all[at], all[len(all)-1]
	var before *index.Revision
	if at > 0 {
		before = &all[at-1]
	}
	fail := func(reason string) error {
		u.stuck[oid] = true
		u.failed = append(u.failed, zodb.ObjectUndoError{Oid: oid, Reason: reason})
		return nil
	}

	// The current state, and the revision whose state it repeats: of this
	// transaction, if it changed the object before.
	place, own := u.made[oid]
	if !own {
		place, own = u.t.place[oid]
	}
	_, x, _ := e.revision(oid, current.Serial)
	state, source := current, x.source
	if own {
		rec := &u.t.txn.Records[place]
		state, source = index.Revision{}, rec.Source // deleted
		switch rec.Kind {
		case txlog.RecordShared:
			state, _, _ = e.revision(oid, rec.Source)
		case txlog.RecordDeletion:
		default:
			return fail("this transaction changes the object otherwise, too")
		}
	}
	same := source == tid || !own && current.Serial == tid // the current state is what is to be undone
	switch {
	case same:
	case state.Deleted() || undone.Deleted():
		return fail("the object was deleted, or created anew, by a later transaction")
	default:
		var err error
		if same, err = u.sameData(ctx, oid, state, undone); err != nil {
			return err
		}
	}

	rec := txlog.Record{Oid: oid, Prev: current.Serial, Kind: txlog.RecordDeletion}
	switch {
	case !same && before == nil:
		return fail("the transaction created the object, which was changed by a later transaction")
	case !same:
		// The client can merge once for each object.
		first, last := u.span(all, at)
		if own || first == 0 || all[first-1].Deleted() || all[last].Deleted() {
			return fail("some data were modified by a later transaction")
		}
		data, err := e.data(ctx, oid, all[first-1])
		if err == nil {
			u.stuck[oid] = true
			u.conflicts = append(u.conflicts, zodb.Conflict{Oid: oid, Committed: current.Serial, Read: all[last].Serial, Data: data})
		}
		return err
	case before != nil: // a deletion, perhaps
		_, x, _ := e.revision(oid, before.Serial)
		rec.Kind, rec.Source, rec.Size, rec.Blob = txlog.RecordShared, before.Serial, before.Data, x.blob
	}
	u.t.gone[oid] = before == nil || before.Deleted()
	if own {
		u.t.txn.Records[place] = rec
	} else {
		place = len(u.t.txn.Records)
		u.t.txn.Records = append(u.t.txn.Records, rec)
	}
	u.made[oid] = place
	return nil
}

// span returns the revisions around the one at a place that are to be undone
// too, without a gap: from first to last, places in all. If there are others
// beyond a gap, no one merge takes care of all, and first is 0.
func (u *undo) span(all []index.Revision, at int) (first, last int) {
	undone := func(i int) bool { return slices.Contains(u.t.undos, all[i].Serial) }
	first, last = at, at
	for first > 0 && undone(first-1) {
		first--
	}
	for last+1 < len(all) && undone(last+1) {
		last++
	}
	for i := range all {
		if undone(i) && (i < first || i > last) {
			return 0, last
		}
	}
	return first, last
}

// sameData tells whether two revisions that exist have the same data.
func (u *undo) sameData(ctx context.Context, oid zodb.Oid, a, b index.Revision) (bool, error) {
	if a.Object == b.Object && a.Offset == b.Offset {
		return true, nil
	}
	if a.Data != b.Data {
		return false, nil
	}
	da, err := u.t.e.data(ctx, oid, a)
	if err != nil {
		return false, err
	}
	db, err := u.t.e.data(ctx, oid, b)
	return err == nil && bytes.Equal(da, db), err
}
