package engine

import (
	"context"
	"fmt"
	"io"
	"slices"

	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A txnIterator is a zodb.TxnIterator. It sees the database as it was when it
// was made, for as long as the grace period lets it: packs that came later
// are overlooked until what they dropped is gone.
type txnIterator struct {
	e     *Engine
	packs int      // how many packs there were
	next  zodb.Tid // the first that was not looked at
	stop  zodb.Tid
	txn   *settledTxn // the one that Next returned last
}

// Iterate implements zodb.Storage.
func (e *Engine) Iterate(start, stop zodb.Tid) zodb.TxnIterator {
	e.state.RLock()
	defer e.state.RUnlock()
	return &txnIterator{e: e, packs: e.state.packs, next: start, stop: min(stop, e.state.last)}
}

// Next implements zodb.TxnIterator.
func (it *txnIterator) Next(ctx context.Context) (info zodb.TxnInfo, err error) {
	e := it.e
	for it.next <= it.stop {
		if err := ctx.Err(); err != nil {
			return info, err
		}
		e.state.RLock()
		i, _ := slices.BinarySearchFunc(e.state.txns, it.next, byTid)
		if i == len(e.state.txns) || e.state.txns[i].tid > it.stop {
			e.state.RUnlock()
			break
		}
		it.txn = &e.state.txns[i]
		it.next = it.txn.tid + 1
		info = zodb.TxnInfo{Tid: it.txn.tid, Meta: it.txn.meta(), Size: e.sizeLocked(it.txn)}
		if it.txn.tid <= e.state.packed {
			info.Meta.Status = zodb.Packed
		}
		there := len(it.txn.oids) == 0 && it.txn.tid > e.state.packed || slices.ContainsFunc(it.txn.oids, func(oid zodb.Oid) bool {
			_, ok := it.recordLocked(oid, it.txn.tid)
			return ok
		})
		e.state.RUnlock()
		if there {
			return info, nil
		}
	}
	return info, io.EOF
}

// recordLocked finds a revision that the iterator is to see.
func (it *txnIterator) recordLocked(oid zodb.Oid, tid zodb.Tid) (r index.Revision, ok bool) {
	r, ok = it.e.state.index.At(oid, tid)
	for _, old := range it.e.state.retired {
		if !ok && old.packs > it.packs {
			r, ok = old.index.At(oid, tid)
		}
	}
	return r, ok
}

// Records implements zodb.TxnIterator.
func (it *txnIterator) Records() zodb.RecordIterator {
	return &recordIterator{it: it, tid: it.txn.tid, oids: it.txn.oids}
}

// readAhead is how many bytes a recordIterator reads at once, if the records are
// not longer.
const readAhead = 1 << 20

// A recordIterator is a zodb.RecordIterator. Records that lie one after the
// other are read together.
type recordIterator struct {
	it   *txnIterator
	tid  zodb.Tid
	oids []zodb.Oid // not yet returned

	// What was read ahead.
	object uint32
	offset uint32
	window []byte
}

// Next implements zodb.RecordIterator.
func (ri *recordIterator) Next(ctx context.Context) (rec zodb.Record, err error) {
	for len(ri.oids) > 0 {
		oid := ri.oids[0]
		e := ri.it.e
		e.state.RLock()
		r, ok := ri.it.recordLocked(oid, ri.tid)
		if !ok {
			e.state.RUnlock()
			ri.oids = ri.oids[1:]
			continue
		}
		rec = zodb.Record{Oid: oid, Tid: ri.tid}
		rec.DataTxn = e.sourceLocked(oid, ri.tid)
		name := e.state.objects[r.Object].name
		e.state.RUnlock()
		if !r.Deleted() {
			if rec.Data, err = ri.read(ctx, name, r, oid); err != nil {
				return rec, err
			}
		}
		ri.oids = ri.oids[1:]
		return rec, nil
	}
	return rec, io.EOF
}

// read returns the data of the record that is next, and reads ahead on the way.
func (ri *recordIterator) read(ctx context.Context, name string, r index.Revision, oid zodb.Oid) ([]byte, error) {
	e := ri.it.e
	if data, ok := e.cache.Cached(cache.Key{Name: name, Offset: r.Offset}); ok {
		return data, nil
	}
	inside := func() bool {
		return ri.window != nil && ri.object == r.Object && r.Offset >= ri.offset &&
			r.Offset+r.Size <= ri.offset+uint32(len(ri.window))
	}
	if !inside() {
		if end := ri.ahead(r); end > r.Offset+r.Size {
			window, err := e.bucket.GetRange(ctx, name, int64(r.Offset), int64(end-r.Offset))
			if err == nil {
				ri.object, ri.offset, ri.window = r.Object, r.Offset, window
			}
		}
	}
	if inside() {
		span := txlog.Span{Offset: r.Offset, Size: r.Size}
		if data, err := txlog.DecodeRecord(name, span, ri.window[r.Offset-ri.offset:][:r.Size], oid); err == nil {
			return data, nil
		}
	}
	// Alone, and again if it was damaged on the way.
	data, err := txlog.ReadRecord(ctx, e.bucket, name, txlog.Span{Offset: r.Offset, Size: r.Size}, oid)
	if err != nil {
		return nil, fmt.Errorf("reading object %s of transaction %s: %w", oid, ri.tid, err)
	}
	return data, nil
}

// ahead returns where the records end that lie behind r, the next one, without
// a gap.
func (ri *recordIterator) ahead(r index.Revision) (end uint32) {
	e := ri.it.e
	end = r.Offset + r.Size
	e.state.RLock()
	defer e.state.RUnlock()
	for _, oid := range ri.oids[1:] {
		r2, ok := ri.it.recordLocked(oid, ri.tid)
		if !ok || r2.Deleted() {
			continue
		}
		if r2.Object != r.Object || r2.Offset != end || r2.Offset+r2.Size-r.Offset > readAhead {
			break
		}
		end += r2.Size
	}
	return end
}
