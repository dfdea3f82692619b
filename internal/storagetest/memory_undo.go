package storagetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"s3storage/internal/zodb"
)

// UndoLog implements zodb.Storage.
func (m *Memory) UndoLog(_ context.Context, first, n int, match func(*zodb.TxnInfo) bool) ([]zodb.TxnInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var infos []zodb.TxnInfo
	for _, t := range slices.Backward(m.mu.txns) {
		if t.meta.Status == zodb.Packed || len(infos) >= n {
			break
		}
		info := t.info()
		if t.meta.Status != ' ' || match != nil && !match(&info) {
			continue
		}
		if first > 0 {
			first--
			continue
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (t *txn) info() zodb.TxnInfo {
	info := zodb.TxnInfo{Tid: t.tid, Meta: t.meta}
	for _, r := range t.records {
		info.Size += r.size()
	}
	return info
}

func (m *Memory) txnLocked(tid zodb.Tid) *txn {
	for _, t := range m.mu.txns {
		if t.tid == tid {
			return t
		}
	}
	return nil
}

// undoableLocked returns the transaction, if it can be undone.
func (m *Memory) undoableLocked(tid zodb.Tid) (*txn, error) {
	for _, t := range slices.Backward(m.mu.txns) {
		switch {
		case t.tid == tid && t.meta.Status == ' ':
			return t, nil
		case t.tid == tid:
			return nil, &zodb.UndoError{Reason: fmt.Sprintf("transaction %s can not be undone: a pack has gone over it", tid)}
		case t.meta.Status == zodb.Packed:
			return nil, &zodb.UndoError{Reason: fmt.Sprintf("there is no transaction %s after the last pack", tid)}
		}
	}
	return nil, &zodb.UndoError{Reason: fmt.Sprintf("there is no transaction %s", tid)}
}

// A plan is what the steps of a transaction come to, object by object.
type plan struct {
	m     *Memory
	order []*planned
	byOid map[zodb.Oid]*planned
}

// A planned is one record to be written.
type planned struct {
	rec      *record
	conflict *zodb.Conflict
	undo     bool // it is what undo makes of the object
}

func (p *plan) write(r *record) *planned {
	w := p.byOid[r.oid]
	if w == nil {
		w = &planned{}
		p.byOid[r.oid] = w
		p.order = append(p.order, w)
	}
	*w = planned{rec: r}
	return w
}

// undo takes back what the transaction did, but for the objects that the
// caller has merged.
func (p *plan) undo(tid zodb.Tid, merged map[zodb.Oid]bool) error {
	t, err := p.m.undoableLocked(tid)
	if err != nil {
		return err
	}
	var failed []zodb.ObjectUndoError
	for _, r := range t.records {
		if merged[r.oid] {
			continue
		}
		if reason := p.undoRecord(r); reason != "" {
			failed = append(failed, zodb.ObjectUndoError{Oid: r.oid, Reason: reason})
		}
	}
	if failed != nil {
		return &zodb.MultipleUndoErrors{Errs: failed}
	}
	return nil
}

// undoRecord takes back one change, or says why that is impossible.
func (p *plan) undoRecord(r *record) string {
	own := p.byOid[r.oid]
	if own != nil && own.conflict != nil && own.undo {
		return p.widen(own, r)
	}
	cur := p.m.currentLocked(r.oid)
	if own != nil {
		cur = own.rec
	}
	before := p.m.beforeLocked(r)
	if cur == r || cur.share == r.tid || (cur.data == nil) == (r.data == nil) && bytes.Equal(cur.data, r.data) {
		p.bringBack(r.oid, before)
		return ""
	}
	switch {
	case r.data == nil || cur.data == nil:
		return "it was deleted, and changed by a later transaction"
	case before == nil:
		return "it was created there, and changed by a later transaction"
	case before.data == nil:
		return "it did not exist before"
	case own != nil:
		return "the same transaction has changed it already"
	}
	w := p.bringBack(r.oid, before)
	w.conflict = &zodb.Conflict{Oid: r.oid, Committed: cur.tid, Read: r.tid, Data: before.data}
	return ""
}

// widen adds one more change to those that w is to undo. They can be merged
// with what came later in one go if they follow upon each other.
func (p *plan) widen(w *planned, r *record) string {
	before := p.m.beforeLocked(r)
	oldest := p.m.revisionLocked(r.oid, w.rec.share) // the state that w brings back
	switch {
	case oldest == r && before == nil:
		return "it was created there, and changed by a later transaction"
	case oldest == r && before.data == nil:
		return "it did not exist before"
	case oldest == r:
		read := w.conflict.Read
		w = p.bringBack(r.oid, before)
		w.conflict = &zodb.Conflict{Oid: r.oid, Committed: p.m.currentLocked(r.oid).tid, Read: read, Data: before.data}
	case before != nil && before.tid == w.conflict.Read && p.m.currentLocked(r.oid) == r:
		w.conflict = nil // nothing came later
	case before != nil && before.tid == w.conflict.Read && r.data != nil:
		w.conflict.Read = r.tid
	default:
		return "the same transaction undoes another change of it"
	}
	return ""
}

// bringBack plans to make the object what it was, nil for nothing.
func (p *plan) bringBack(oid zodb.Oid, before *record) *planned {
	r := &record{oid: oid}
	if before != nil {
		r.data, r.share, r.blob = before.data, before.tid, before.blob
	}
	w := p.write(r)
	w.undo = true
	return w
}

// beforeLocked returns the revision that r followed upon, or nil.
func (m *Memory) beforeLocked(r *record) *record {
	revs := m.mu.objects[r.oid]
	i := slices.Index(revs, r)
	if i <= 0 {
		return nil
	}
	return revs[i-1]
}
