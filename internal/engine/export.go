package engine

import (
	"context"
	"iter"
	"slices"

	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Export calls fn for all transactions with tids from one to another, both
// included, in order, with the data of their records. Large ones come in portions:
// see [segment.Directory.Scan]. Transactions that are packed have that status, and
// are left out if nothing is left of them. It reads the segments as streams, past
// the caches.
func (e *Engine) Export(ctx context.Context, from, to zodb.Tid, fn func(*segment.Txn) error) error {
	e.state.RLock()
	v, tail := e.state.view, slices.Concat(e.txnsLocked()...)
	e.state.RUnlock()
	wanted := func(t *segment.Txn) error {
		if t.Tid < from || t.Tid > to {
			return nil
		}
		if t.Tid <= v.Packed {
			if len(t.Records) == 0 {
				return nil
			}
			t.Meta.Status = zodb.Packed
		}
		return fn(t)
	}
	for i := range v.Segments {
		if s := &v.Segments[i]; s.End() < from || s.First > to {
			continue
		}
		if err := v.Scan(ctx, i, segment.WithData, wanted); err != nil {
			return err
		}
	}
	for t, err := range e.inSegments(ctx, tail) {
		if err == nil {
			err = wanted(t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inSegments returns transactions of the tail as segments will have them, less what
// describe adds.
func (e *Engine) inSegments(ctx context.Context, txns []*txlog.Transaction) iter.Seq2[*segment.Txn, error] {
	return func(yield func(*segment.Txn, error) bool) {
		payloads := payloadReader{e: e}
		for _, txn := range txns {
			if t, err := e.fromTail(ctx, &payloads, txn); !yield(t, err) || err != nil {
				return
			}
		}
	}
}

func (e *Engine) fromTail(ctx context.Context, payloads *payloadReader, txn *txlog.Transaction) (*segment.Txn, error) {
	t := &segment.Txn{Tid: txn.Tid, Meta: txn.Meta, Committed: uint32(len(txn.Records))}
	for k := range txn.Records {
		rec, err := e.recordOf(ctx, payloads, txn, k)
		if err != nil {
			return nil, err
		}
		t.Records = append(t.Records, rec)
	}
	return t, nil
}

// recordOf returns a record of the tail with its data.
func (e *Engine) recordOf(ctx context.Context, payloads *payloadReader, txn *txlog.Transaction, k int) (out segment.Record, err error) {
	rec := &txn.Records[k]
	out = segment.Record{K: uint32(k), Oid: rec.Oid, Prev: rec.Prev, Deleted: rec.Kind == txlog.RecordDeletion,
		Source: rec.Source, Blob: rec.Blob}
	switch rec.Kind {
	case txlog.RecordDeletion:
	case txlog.RecordPayload:
		out.Data, err = payloads.read(ctx, txn, rec)
	default:
		out.Data, err = e.data(ctx, revision{oid: rec.Oid, serial: txn.Tid, k: uint32(k), txn: txn})
	}
	return out, err
}
