package engine

import (
	"context"
	"io"

	"s3storage/internal/zodb"
)

// A txnIterator is a zodb.TxnIterator.
type txnIterator struct {
	h   *history
	txn *settledTxn // the one that Next returned last
}

// Iterate implements zodb.Storage.
func (e *Engine) Iterate(start, stop zodb.Tid) zodb.TxnIterator {
	return &txnIterator{h: e.history(start, stop, false)}
}

// Next implements zodb.TxnIterator.
func (it *txnIterator) Next(ctx context.Context) (info zodb.TxnInfo, err error) {
	t, err := it.h.next(ctx)
	if err != nil {
		return info, err
	}
	if t == nil {
		return info, io.EOF
	}
	it.txn = t
	info = zodb.TxnInfo{Tid: t.tid, Meta: t.meta, Size: t.size}
	if t.tid <= it.h.e.packedTo() {
		info.Meta.Status = zodb.Packed
	}
	return info, nil
}

// packedTo returns the tid up to which transactions are packed.
func (e *Engine) packedTo() zodb.Tid {
	e.state.RLock()
	defer e.state.RUnlock()
	return e.state.view.Packed
}

// Records implements zodb.TxnIterator.
func (it *txnIterator) Records() zodb.RecordIterator {
	return &recordIterator{e: it.h.e, records: it.txn.records, sources: it.txn.sources}
}

// A recordIterator is a zodb.RecordIterator.
type recordIterator struct {
	e       *Engine
	records []revision // not yet returned
	sources []zodb.Tid // of these
}

// Next implements zodb.RecordIterator.
func (ri *recordIterator) Next(ctx context.Context) (rec zodb.Record, err error) {
	if len(ri.records) == 0 {
		return rec, io.EOF
	}
	r := ri.records[0]
	rec = zodb.Record{Oid: r.oid, Tid: r.serial}
	if rec.DataTxn, err = ri.e.source(ctx, r.oid, r.serial, ri.sources[0]); err != nil {
		return rec, err
	}
	if !r.deleted {
		if rec.Data, err = ri.e.data(ctx, r); err != nil {
			return rec, err
		}
	}
	ri.records, ri.sources = ri.records[1:], ri.sources[1:]
	return rec, nil
}
