package engine

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

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

const (
	// readAhead is how many bytes a recordIterator reads at once, if the records
	// are not longer.
	readAhead = 1 << 20

	// maxWindows is how many recordIterators hold what they have read ahead, at a
	// time. Nobody says when an iterator is not needed any more.
	maxWindows = 32
)

// A recordIterator is a zodb.RecordIterator. Records that lie one after the
// other are read together.
type recordIterator struct {
	it     *txnIterator
	tid    zodb.Tid
	oids   []zodb.Oid             // not yet returned
	window atomic.Pointer[window] // what was read ahead, or nil
	slot   int                    // in windows, guarded by them
}

// A window is a part of an object of the bucket.
type window struct {
	object, offset uint32
	data           []byte
}

// at returns the bytes of a revision, nil where they are not inside.
func (w *window) at(r index.Revision) []byte {
	if w == nil || w.object != r.Object || r.Offset < w.offset || r.Offset+r.Size > w.offset+uint32(len(w.data)) {
		return nil
	}
	return w.data[r.Offset-w.offset:][:r.Size]
}

// windows knows who holds a window.
type windows struct {
	mu struct {
		sync.Mutex
		held [maxWindows]*recordIterator
		next int // the one that has to let go next
	}
}

// give gives a window to an iterator, and takes another's if there are too many.
func (ws *windows) give(ri *recordIterator, w *window) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.mu.held[ri.slot] != ri {
		if old := ws.mu.held[ws.mu.next]; old != nil {
			old.window.Store(nil)
		}
		ws.mu.held[ws.mu.next], ri.slot = ri, ws.mu.next
		ws.mu.next = (ws.mu.next + 1) % maxWindows
	}
	ri.window.Store(w)
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
	ri.window.Store(nil)
	return rec, io.EOF
}

// end returns where the records end that follow r, the next one, without a gap.
func (ri *recordIterator) end(r index.Revision) uint32 {
	state := &ri.it.e.state
	state.RLock()
	defer state.RUnlock()
	end := r.Offset + r.Size
	for _, oid := range ri.oids[1:] {
		next, ok := ri.it.recordLocked(oid, ri.tid)
		if !ok || next.Deleted() {
			continue
		}
		if next.Object != r.Object || next.Offset != end || next.Offset+next.Size-r.Offset > readAhead {
			break
		}
		end += next.Size
	}
	return end
}

// read returns the data of a record, and reads ahead.
func (ri *recordIterator) read(ctx context.Context, name string, r index.Revision, oid zodb.Oid) ([]byte, error) {
	e := ri.it.e
	if data, ok := e.cache.Cached(cache.Key{Name: name, Offset: r.Offset}); ok {
		return data, nil
	}
	raw := ri.window.Load().at(r)
	if raw == nil {
		if end := ri.end(r); end > r.Offset+r.Size {
			data, err := e.bucket.GetRange(ctx, name, int64(r.Offset), int64(end-r.Offset))
			if err == nil {
				w := &window{object: r.Object, offset: r.Offset, data: data}
				e.windows.give(ri, w)
				raw = w.at(r)
			}
		}
	}
	if raw != nil {
		span := txlog.Span{Offset: r.Offset, Size: r.Size}
		if data, err := txlog.DecodeRecord(name, span, raw, oid); err == nil {
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
