package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// UndoLog implements zodb.Storage.
func (e *Engine) UndoLog(ctx context.Context, first, n int, match func(*zodb.TxnInfo) bool) (found []zodb.TxnInfo, err error) {
	h := e.history(e.packedTo()+1, zodb.MaxTid, true)
	for len(found) < n {
		t, err := h.next(ctx)
		if err != nil {
			return nil, err
		}
		if t == nil || t.meta.Status == zodb.Packed {
			break
		}
		info := zodb.TxnInfo{Tid: t.tid, Meta: t.meta, Size: t.size}
		if t.meta.Status != ' ' || match != nil && !match(&info) {
			continue
		}
		if first--; first < 0 {
			found = append(found, info)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// undoable returns a transaction that can be undone.
func (e *Engine) undoable(ctx context.Context, tid zodb.Tid) (*settledTxn, error) {
	t, err := e.transaction(ctx, tid)
	switch {
	case err != nil:
		return nil, err
	case tid <= e.packedTo() || t != nil && t.meta.Status == zodb.Packed:
		return nil, &zodb.UndoError{Reason: fmt.Sprintf("transaction %s was packed, it can no longer be undone", tid)}
	case t == nil:
		return nil, &zodb.UndoError{Reason: fmt.Sprintf("there is no transaction %s", tid)}
	case t.meta.Status != ' ':
		return nil, &zodb.UndoError{Reason: fmt.Sprintf("transaction %s cannot be undone: its status is %q", tid, t.meta.Status)}
	}
	return t, nil
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
	u = &undo{t: t, made: make(map[zodb.Oid]int), stuck: make(map[zodb.Oid]bool)}
	for _, tid := range t.undos {
		if err := u.transaction(ctx, tid); err != nil {
			return nil, packs, err
		}
	}
	return u, packs, nil
}

// A pin keeps a revision from being dropped.
type pin struct {
	oid    zodb.Oid
	serial zodb.Tid
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
			p := pin{rec.Oid, rec.Source}
			t.e.seq.pins[p]++
			t.pins = append(t.pins, p)
		}
	}
	return true
}

// unpinLocked lets go of the revisions that the transaction shares data with.
func (t *transaction) unpinLocked() {
	for _, p := range t.pins {
		if t.e.seq.pins[p]--; t.e.seq.pins[p] == 0 {
			delete(t.e.seq.pins, p)
		}
	}
	t.pins = nil
}

// shareRestored turns a restored record with a source into one that shares the
// source's data, if they are the same.
func (t *transaction) shareRestored(ctx context.Context, rec *txlog.Record) error {
	r, ok, err := t.e.at(ctx, rec.Oid, rec.Source, false)
	if err != nil {
		return err
	}
	if ok && !r.deleted {
		h, err := t.e.header(ctx, r)
		if err != nil {
			return err
		}
		if h.size == rec.Size {
			data, err := t.e.data(ctx, r)
			if err != nil {
				return err
			}
			if bytes.Equal(data, rec.Data) {
				rec.Kind, rec.Data = txlog.RecordShared, nil
				if rec.Blob == nil {
					rec.Blob = h.blob
				}
				return nil
			}
		}
	}
	rec.Source = zodb.NoTid // it was only a hint
	return nil
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
	txn, err := u.t.e.undoable(ctx, tid)
	if err != nil {
		return err
	}
	for _, r := range txn.records {
		oid := r.oid
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
	all, err := e.revisions(ctx, oid)
	if err != nil {
		return err
	}
	at, ok := slices.BinarySearchFunc(all, tid, func(r revision, tid zodb.Tid) int { return cmp.Compare(r.serial, tid) })
	if !ok {
		return &zodb.UndoError{Reason: fmt.Sprintf("transaction %s cannot be undone: its record of object %s is gone", tid, oid)}
	}
	undone, current := all[at], all[len(all)-1]
	var before *revision
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
	state, source := current, zodb.NoTid
	if own {
		rec := &u.t.txn.Records[place]
		state, source = revision{oid: oid, deleted: true}, rec.Source
		switch rec.Kind {
		case txlog.RecordShared:
			if state, _, err = e.at(ctx, oid, rec.Source, false); err != nil {
				return err
			}
		case txlog.RecordDeletion:
		default:
			return fail("this transaction changes the object otherwise, too")
		}
	} else if !current.deleted {
		h, err := e.header(ctx, current)
		if err != nil {
			return err
		}
		source = h.source
	}
	// The current state is what is to be undone. Not to exist is one state, whatever
	// led there: a deletion does not say which one undo went back to.
	same := source == tid || !own && current.serial == tid || state.deleted && undone.deleted
	switch {
	case same:
	case state.deleted || undone.deleted:
		return fail("the object was deleted, or created anew, by a later transaction")
	default:
		var err error
		if same, err = u.sameData(ctx, state, undone); err != nil {
			return err
		}
	}

	rec := txlog.Record{Oid: oid, Prev: current.serial, Existed: !current.deleted, Kind: txlog.RecordDeletion}
	switch {
	case !same && before == nil:
		return fail("the transaction created the object, which was changed by a later transaction")
	case !same:
		// The client can merge once for each object.
		first, last := u.span(all, at)
		if own || first == 0 || all[first-1].deleted || all[last].deleted {
			return fail("some data were modified by a later transaction")
		}
		data, err := e.data(ctx, all[first-1])
		if err == nil {
			u.stuck[oid] = true
			u.conflicts = append(u.conflicts, zodb.Conflict{Oid: oid, Committed: current.serial, Read: all[last].serial, Data: data})
		}
		return err
	case before != nil && !before.deleted:
		h, err := e.header(ctx, *before)
		if err != nil {
			return err
		}
		rec.Kind, rec.Source, rec.Size, rec.Blob = txlog.RecordShared, before.serial, h.size, h.blob
	}
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
func (u *undo) span(all []revision, at int) (first, last int) {
	undone := func(i int) bool { return slices.Contains(u.t.undos, all[i].serial) }
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
func (u *undo) sameData(ctx context.Context, a, b revision) (bool, error) {
	if a.serial == b.serial {
		return true, nil
	}
	da, err := u.t.e.data(ctx, a)
	if err != nil {
		return false, err
	}
	db, err := u.t.e.data(ctx, b)
	return err == nil && bytes.Equal(da, db), err
}
