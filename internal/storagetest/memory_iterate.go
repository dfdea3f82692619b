package storagetest

import (
	"context"
	"io"
	"maps"
	"slices"

	"s3storage/internal/zodb"
)

// Iterate implements zodb.Storage.
func (m *Memory) Iterate(start, stop zodb.Tid) zodb.TxnIterator {
	m.mu.Lock()
	defer m.mu.Unlock()
	it := &txnIterator{m: m}
	for _, t := range m.mu.txns {
		if t.tid >= start && t.tid <= stop {
			it.rest = append(it.rest, t)
		}
	}
	return it
}

type txnIterator struct {
	m    *Memory
	rest []*txn
	at   *txn
}

func (it *txnIterator) Next(ctx context.Context) (zodb.TxnInfo, error) {
	if err := ctx.Err(); err != nil {
		return zodb.TxnInfo{}, err
	}
	if len(it.rest) == 0 {
		return zodb.TxnInfo{}, io.EOF
	}
	it.at, it.rest = it.rest[0], it.rest[1:]
	return it.at.info(), nil
}

func (it *txnIterator) Records() zodb.RecordIterator {
	return &recordIterator{it.m, it.at.records}
}

type recordIterator struct {
	m    *Memory
	rest []*record
}

func (it *recordIterator) Next(ctx context.Context) (zodb.Record, error) {
	if err := ctx.Err(); err != nil {
		return zodb.Record{}, err
	}
	if len(it.rest) == 0 {
		return zodb.Record{}, io.EOF
	}
	r := it.rest[0]
	it.rest = it.rest[1:]
	rec := zodb.Record{Oid: r.oid, Tid: r.tid, Data: r.data}
	if r.share != zodb.NoTid && it.m.hasRecord(r.oid, r.share) {
		rec.DataTxn = r.share
	}
	return rec, nil
}

// hasRecord reports whether there still is what the transaction did to the
// object.
func (m *Memory) hasRecord(oid zodb.Oid, tid zodb.Tid) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recordLocked(oid, tid) != nil
}

// NextObject implements zodb.Storage.
func (m *Memory) NextObject(_ context.Context, oid zodb.Oid) (o zodb.Object, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, found := range slices.Sorted(maps.Keys(m.mu.objects)) {
		switch cur := m.currentLocked(found); {
		case found < oid || cur.data == nil:
		case ok:
			o.Next = found
			return o, true, nil
		default:
			o, ok = zodb.Object{Oid: found, Data: cur.data, Serial: cur.tid}, true
		}
	}
	return o, ok, nil
}
