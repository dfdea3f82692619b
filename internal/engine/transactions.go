package engine

import (
	"context"
	"slices"

	"s3storage/internal/base"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A settledTxn is a transaction that was found.
type settledTxn struct {
	tid     zodb.Tid
	meta    zodb.TxnMeta
	size    int64      // bytes of its records' data
	records []revision // in the order in which they were committed
	sources []zodb.Tid // of these: whose data they shared when they were committed
}

func tailTxn(t *txlog.Transaction) *settledTxn {
	s := &settledTxn{tid: t.Tid, meta: t.Meta}
	for k := range t.Records {
		rec := &t.Records[k]
		s.size += int64(rec.Size)
		s.records = append(s.records, revision{oid: rec.Oid, serial: t.Tid, deleted: rec.Kind == txlog.RecordDeletion, k: uint32(k), txn: t})
		s.sources = append(s.sources, rec.Source)
	}
	return s
}

// A history goes over transactions, in one direction. It is for one goroutine at a
// time. It shows the database as it was when it was made, for as long as what packs
// dropped since can be read.
type history struct {
	e        *Engine
	from, to zodb.Tid // what was not yet returned
	back     bool

	view   *base.View
	cursor *base.Cursor         // over the base
	tail   []*txlog.Transaction // and over the tail, in the order of tids
}

// history returns the transactions with tids from one to another, both included,
// as they are now.
func (e *Engine) history(from, to zodb.Tid, back bool) *history {
	h := &history{e: e, from: from, back: back}
	e.state.RLock()
	defer e.state.RUnlock()
	h.to = min(to, e.state.last)
	h.lookLocked()
	return h
}

// lookLocked takes what is to come from the present base and tail.
func (h *history) lookLocked() {
	h.view = h.e.state.view
	recent := slices.Concat(h.e.txnsLocked()...)
	first, _ := slices.BinarySearchFunc(recent, h.from, byTid)
	last, _ := slices.BinarySearchFunc(recent, h.to+1, byTid)
	h.tail = recent[first:max(first, last)]
	if h.back {
		h.cursor = h.view.Backward(h.from, h.to)
	} else {
		h.cursor = h.view.Forward(h.from, h.to)
	}
}

// next returns the next transaction, or nil when there are no more.
func (h *history) next(ctx context.Context) (*settledTxn, error) {
	for {
		h.e.state.RLock()
		if !h.e.keptLocked(h.view) {
			h.lookLocked()
		}
		h.e.state.RUnlock()
		s, err := h.step(ctx)
		if err != nil {
			if err = h.e.unlessOutdated(ctx, err, h.view); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case s == nil:
			return nil, nil
		case h.back:
			h.to = s.tid - 1
		default:
			h.from = s.tid + 1
		}
		if len(s.records) > 0 || s.tid > h.view.Packed {
			return s, nil
		}
	}
}

func (h *history) step(ctx context.Context) (*settledTxn, error) {
	if n := len(h.tail); h.back && n > 0 {
		t := h.tail[n-1]
		h.tail = h.tail[:n-1]
		return tailTxn(t), nil
	}
	t, err := h.cursor.Next(ctx)
	switch {
	case err != nil:
		return nil, err
	case t != nil:
		s := &settledTxn{tid: t.Tid, meta: t.Meta}
		for i := range t.Records {
			rec := &t.Records[i]
			s.size += int64(rec.Size)
			s.records = append(s.records, revision{oid: rec.Oid, serial: t.Tid, deleted: rec.Deleted, k: rec.K, view: h.view})
			s.sources = append(s.sources, rec.Source)
		}
		return s, nil
	case !h.back && len(h.tail) > 0:
		t := h.tail[0]
		h.tail = h.tail[1:]
		return tailTxn(t), nil
	}
	return nil, nil
}

// keptLocked tells whether the files of a base are still there for sure.
func (e *Engine) keptLocked(v *base.View) bool {
	return v == e.state.view || slices.ContainsFunc(e.state.retired, func(r *retired) bool { return r.view == v })
}

// transaction returns the one of that tid, or nil.
func (e *Engine) transaction(ctx context.Context, tid zodb.Tid) (*settledTxn, error) {
	return e.history(tid, tid, true).next(ctx)
}
