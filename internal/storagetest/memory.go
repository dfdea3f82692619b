// Package storagetest holds what tests of storages, and of those who serve
// them, need: a storage in memory that keeps every promise of zodb.Storage in
// the plainest way, and Conformance, which tells whether another one does.
package storagetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"s3storage/internal/zodb"
)

// Memory is a zodb.Storage, and a zodb.CachedLoader, in memory. One mutex guards
// everything; commits happen, and observers hear of them, while it is held.
type Memory struct {
	name string
	now  func() time.Time

	mu struct {
		sync.Mutex
		readOnly  error
		last      zodb.Tid
		nextOid   zodb.Oid
		objects   map[zodb.Oid][]revision // oldest first
		commits   []*commit               // oldest first
		size      int64
		observers []zodb.Observer
		writers   map[zodb.Oid]*memoryTxn
		readers   map[zodb.Oid]map[*memoryTxn]struct{}
		released  chan struct{} // closed when locks are let go
		stats     zodb.Stats
	}
}

type revision struct {
	serial zodb.Tid
	data   []byte
	in     *commit
}

type commit struct {
	zodb.Commit
	meta zodb.TxnMeta
}

// NewMemory returns an empty storage that tells time by now.
func NewMemory(name string, now func() time.Time) *Memory {
	m := &Memory{name: name, now: now}
	m.mu.nextOid = 1 // 0 is the root's
	m.mu.objects = map[zodb.Oid][]revision{}
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
	i, _ := slices.BinarySearchFunc(revs, tid, func(r revision, t zodb.Tid) int { return cmpTid(r.serial, t) })
	if i == 0 {
		return rev, false, true, nil
	}
	rev = zodb.Revision{Data: revs[i-1].data, Serial: revs[i-1].serial}
	if i < len(revs) {
		rev.Next = revs[i].serial
	}
	return rev, true, true, nil
}

func cmpTid(a, b zodb.Tid) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// LoadSerial implements zodb.Storage.
func (m *Memory) LoadSerial(_ context.Context, oid zodb.Oid, serial zodb.Tid) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.mu.objects[oid] {
		if r.serial == serial {
			return r.data, nil
		}
	}
	return nil, &zodb.POSKeyError{Oid: oid}
}

// GetTid implements zodb.Storage.
func (m *Memory) GetTid(_ context.Context, oid zodb.Oid) (zodb.Tid, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if tid := m.currentLocked(oid); tid != zodb.NoTid {
		return tid, nil
	}
	return zodb.NoTid, &zodb.POSKeyError{Oid: oid}
}

func (m *Memory) currentLocked(oid zodb.Oid) zodb.Tid {
	if revs := m.mu.objects[oid]; len(revs) > 0 {
		return revs[len(revs)-1].serial
	}
	return zodb.NoTid
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
		entries = append(entries, zodb.TxnInfo{Tid: r.serial, Meta: r.in.meta, Size: int64(len(r.data))})
	}
	return entries, nil
}

// Invalidations implements zodb.Storage.
func (m *Memory) Invalidations(tid zodb.Tid) (zodb.Tid, []zodb.Oid, bool) {
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
func (m *Memory) Begin(meta zodb.TxnMeta, _ zodb.Tid, origin zodb.Observer) (zodb.Transaction, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.readOnly != nil {
		return nil, m.mu.readOnly
	}
	m.mu.stats.ActiveTxns++
	return &memoryTxn{
		m: m, meta: meta, origin: origin,
		stores: map[zodb.Oid]int{}, checks: map[zodb.Oid]zodb.Tid{},
		ended: make(chan struct{}),
	}, nil
}

// commitLocked makes the transaction part of the database and tells everybody.
func (m *Memory) commitLocked(t *memoryTxn) *commit {
	tid := max(zodb.TidAt(m.now()), m.mu.last+1)
	c := &commit{meta: t.meta}
	c.Tid = tid
	for _, w := range t.writes {
		m.mu.objects[w.oid] = append(m.mu.objects[w.oid], revision{serial: tid, data: w.data, in: c})
		m.mu.size += int64(len(w.data))
		m.mu.nextOid = max(m.mu.nextOid, w.oid+1)
		c.Oids = append(c.Oids, w.oid)
	}
	c.Info = m.infoLocked()
	m.mu.last = tid
	m.mu.commits = append(m.mu.commits, c)
	m.mu.stats.Commits++
	for _, obs := range m.mu.observers {
		if obs != t.origin {
			obs.Committed(&c.Commit)
		}
	}
	return c
}

func (m *Memory) String() string { return fmt.Sprintf("memory storage %q", m.name) }
