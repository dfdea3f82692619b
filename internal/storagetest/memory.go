// Package storagetest holds what tests of storages, and of those who serve
// them, need: a storage in memory that keeps every promise of zodb.Storage in
// the plainest way, and Conformance, which tells whether another one does.
package storagetest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"s3storage/internal/zodb"
)

// Memory is a zodb.Storage, and a zodb.CachedLoader, in memory. One mutex guards
// everything; commits happen, and observers hear of them, while it is held.
// Where the contract leaves room it does what FileStorage does. What a pack
// drops is gone at once: its grace period is zero.
type Memory struct {
	name       string
	now        func() time.Time
	references func(data []byte) ([]zodb.Oid, error)

	mu struct {
		sync.Mutex
		readOnly  error
		last      zodb.Tid
		nextOid   zodb.Oid
		objects   map[zodb.Oid][]*record // oldest first
		txns      []*txn                 // oldest first, as far as no pack has dropped them
		commits   []*zodb.Commit         // oldest first, all of them
		packed    zodb.Tid               // the latest time to which a pack has dropped something
		size      int64
		observers []zodb.Observer
		writers   map[zodb.Oid]*memoryTxn
		readers   map[zodb.Oid]map[*memoryTxn]struct{}
		voted     map[*memoryTxn]struct{}
		released  chan struct{} // closed when locks are let go
		stats     zodb.Stats
	}
}

// A txn is a committed transaction. It never changes: a pack makes new ones.
type txn struct {
	tid     zodb.Tid
	meta    zodb.TxnMeta
	records []*record
}

// A record is a revision of an object. It never changes.
type record struct {
	oid   zodb.Oid
	tid   zodb.Tid
	data  []byte   // nil where the object does not exist any more
	share zodb.Tid // the revision of which it is a copy, or NoTid
	blob  *memoryBlob
	meta  zodb.TxnMeta
}

// size is how many bytes of data the record has of its own.
func (r *record) size() int64 {
	if r.share != zodb.NoTid {
		return 0
	}
	return int64(len(r.data))
}

// NewMemory returns an empty storage that tells time by now. A pack asks
// references for the objects that a record refers to.
func NewMemory(name string, now func() time.Time, references func(data []byte) ([]zodb.Oid, error)) *Memory {
	m := &Memory{name: name, now: now, references: references}
	m.mu.nextOid = 1 // 0 is the root's
	m.mu.objects = map[zodb.Oid][]*record{}
	m.mu.voted = map[*memoryTxn]struct{}{}
	m.mu.writers = map[zodb.Oid]*memoryTxn{}
	m.mu.readers = map[zodb.Oid]map[*memoryTxn]struct{}{}
	m.mu.released = make(chan struct{})
	return m
}

// SetReadOnly makes ReadOnly, and every attempt to write, return err.
func (m *Memory) SetReadOnly(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.readOnly = err
}

// ReadOnly implements zodb.Storage.
func (m *Memory) ReadOnly() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.readOnly
}

// Info implements zodb.Storage.
func (m *Memory) Info() zodb.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.infoLocked()
}

func (m *Memory) infoLocked() zodb.Info {
	return zodb.Info{Name: m.name, Objects: int64(len(m.mu.objects)), Size: m.mu.size}
}

// Stats implements zodb.Storage.
func (m *Memory) Stats() zodb.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.stats
}

// LastTransaction implements zodb.Storage.
func (m *Memory) LastTransaction() zodb.Tid {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.last
}

// LoadBefore implements zodb.Storage.
func (m *Memory) LoadBefore(_ context.Context, oid zodb.Oid, tid zodb.Tid) (zodb.Revision, bool, error) {
	rev, ok, _, err := m.LoadBeforeCached(oid, tid)
	return rev, ok, err
}

// LoadBeforeCached implements zodb.CachedLoader. It always knows.
func (m *Memory) LoadBeforeCached(oid zodb.Oid, tid zodb.Tid) (rev zodb.Revision, ok, hit bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.stats.Loads++
	revs := m.mu.objects[oid]
	if len(revs) == 0 {
		return rev, false, true, &zodb.POSKeyError{Oid: oid}
	}
	i, _ := slices.BinarySearchFunc(revs, tid, func(r *record, t zodb.Tid) int { return cmp.Compare(r.tid, t) })
	if i == 0 {
		return rev, false, true, nil
	}
	if revs[i-1].data == nil {
		return rev, false, true, &zodb.POSKeyError{Oid: oid}
	}
	rev = zodb.Revision{Data: revs[i-1].data, Serial: revs[i-1].tid}
	if i < len(revs) {
		rev.Next = revs[i].tid
	}
	return rev, true, true, nil
}

// LoadSerial implements zodb.Storage.
func (m *Memory) LoadSerial(_ context.Context, oid zodb.Oid, serial zodb.Tid) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.revisionLocked(oid, serial); r != nil && r.data != nil {
		return r.data, nil
	}
	return nil, &zodb.POSKeyError{Oid: oid}
}

func (m *Memory) revisionLocked(oid zodb.Oid, serial zodb.Tid) *record {
	for _, r := range m.mu.objects[oid] {
		if r.tid == serial {
			return r
		}
	}
	return nil
}

// GetTid implements zodb.Storage.
func (m *Memory) GetTid(_ context.Context, oid zodb.Oid) (zodb.Tid, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.currentLocked(oid); r != nil && r.data != nil {
		return r.tid, nil
	}
	return zodb.NoTid, &zodb.POSKeyError{Oid: oid}
}

// currentLocked returns the newest revision, which may be a deletion, or nil.
func (m *Memory) currentLocked(oid zodb.Oid) *record {
	if revs := m.mu.objects[oid]; len(revs) > 0 {
		return revs[len(revs)-1]
	}
	return nil
}

// History implements zodb.Storage.
func (m *Memory) History(_ context.Context, oid zodb.Oid, size int) ([]zodb.TxnInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	revs := m.mu.objects[oid]
	if len(revs) == 0 {
		return nil, &zodb.POSKeyError{Oid: oid}
	}
	var entries []zodb.TxnInfo
	for _, r := range slices.Backward(revs) {
		if len(entries) >= size {
			break
		}
		entries = append(entries, zodb.TxnInfo{Tid: r.tid, Meta: r.meta, Size: r.size()})
	}
	return entries, nil
}

// Invalidations implements zodb.Storage.
func (m *Memory) Invalidations(_ context.Context, tid zodb.Tid) (zodb.Tid, []zodb.Oid, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if tid > m.mu.last {
		return zodb.NoTid, nil, false
	}
	var oids []zodb.Oid
	seen := map[zodb.Oid]bool{}
	for _, c := range slices.Backward(m.mu.commits) {
		if c.Tid <= tid {
			break
		}
		for _, oid := range c.Oids {
			if !seen[oid] {
				seen[oid] = true
				oids = append(oids, oid)
			}
		}
	}
	return m.mu.last, oids, true
}

// NewOids implements zodb.Storage.
func (m *Memory) NewOids(_ context.Context, n int) ([]zodb.Oid, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.readOnly != nil {
		return nil, m.mu.readOnly
	}
	oids := make([]zodb.Oid, n)
	for i := range oids {
		oids[i] = m.mu.nextOid
		m.mu.nextOid++
	}
	return oids, nil
}

// Subscribe implements zodb.Storage.
func (m *Memory) Subscribe(obs zodb.Observer) zodb.Tid {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.observers = append(m.mu.observers, obs)
	return m.mu.last
}

// Unsubscribe implements zodb.Storage.
func (m *Memory) Unsubscribe(obs zodb.Observer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.observers = slices.DeleteFunc(m.mu.observers, func(o zodb.Observer) bool { return o == obs })
}

// Begin implements zodb.Storage.
func (m *Memory) Begin(meta zodb.TxnMeta, tid zodb.Tid, origin zodb.Observer) (zodb.Transaction, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.readOnly != nil {
		return nil, m.mu.readOnly
	}
	m.mu.stats.ActiveTxns++
	return &memoryTxn{
		m: m, meta: meta, tid: tid, origin: origin,
		last: map[zodb.Oid]int{}, checks: map[zodb.Oid]zodb.Tid{}, unmerged: map[zodb.Oid]bool{},
		ended: make(chan struct{}),
	}, nil
}

// commitLocked makes the transaction part of the database and tells everybody.
func (m *Memory) commitLocked(t *memoryTxn) *zodb.Commit {
	tid := t.tid
	if tid == zodb.NoTid {
		tid = max(zodb.TidAt(m.now()), m.mu.last+1)
	}
	done := &txn{tid: tid, meta: t.meta}
	c := &zodb.Commit{Tid: tid}
	for _, r := range t.records {
		r.tid, r.meta = tid, t.meta
		done.records = append(done.records, r)
		m.mu.objects[r.oid] = append(m.mu.objects[r.oid], r)
		m.mu.size += r.size()
		m.mu.nextOid = max(m.mu.nextOid, r.oid+1)
		c.Oids = append(c.Oids, r.oid)
	}
	c.Info = m.infoLocked()
	m.mu.last = tid
	m.mu.txns = append(m.mu.txns, done)
	m.mu.commits = append(m.mu.commits, c)
	m.mu.stats.Commits++
	for _, obs := range m.mu.observers {
		if obs != t.origin {
			obs.Committed(c)
		}
	}
	return c
}

func (m *Memory) String() string { return fmt.Sprintf("memory storage %q", m.name) }
