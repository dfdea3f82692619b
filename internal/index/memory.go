// Package index finds revisions: it maps an oid and a tid to the place of the
// record in the bucket.
package index

import (
	"sort"

	"s3storage/internal/zodb"
)

// A Revision is one revision of an object and where its record lies.
type Revision struct {
	Serial zodb.Tid
	Object uint32 // number of the object in the bucket, the owner's to interpret
	Offset uint32 // of the record there
	Size   uint32 // bytes of the record; 0 for a deletion
}

// Deleted tells whether the revision is the deletion of the object.
func (r Revision) Deleted() bool { return r.Size == 0 }

// A Memory is an index in memory. It is not for use from several goroutines
// while Add is called.
type Memory struct {
	revisions map[zodb.Oid][]Revision // in the order of serials
	live      int64
}

// NewMemory returns an empty index.
func NewMemory() *Memory { return &Memory{revisions: make(map[zodb.Oid][]Revision)} }

// Live returns the number of objects whose newest revision is not a deletion.
func (m *Memory) Live() int64 { return m.live }

// Add adds a revision. Its serial must lie above those of the object's others.
func (m *Memory) Add(oid zodb.Oid, r Revision) {
	old := m.revisions[oid]
	if len(old) > 0 && !old[len(old)-1].Deleted() {
		m.live--
	}
	if !r.Deleted() {
		m.live++
	}
	m.revisions[oid] = append(old, r)
}

// Current returns the newest revision; ok is false for an unknown object.
func (m *Memory) Current(oid zodb.Oid) (r Revision, ok bool) {
	all := m.revisions[oid]
	if len(all) == 0 {
		return r, false
	}
	return all[len(all)-1], true
}

// Before returns the newest revision with a serial below tid, and the serial
// of the one that follows, NoTid if none does. ok is false where there is none;
// known tells whether there is any revision of the object.
func (m *Memory) Before(oid zodb.Oid, tid zodb.Tid) (r Revision, next zodb.Tid, ok, known bool) {
	all := m.revisions[oid]
	// Almost always the newest one is wanted.
	i := len(all)
	if i > 0 && all[i-1].Serial >= tid {
		i = sort.Search(len(all), func(i int) bool { return all[i].Serial >= tid })
	}
	if i < len(all) {
		next = all[i].Serial
	}
	if i == 0 {
		return r, next, false, len(all) > 0
	}
	return all[i-1], next, true, true
}

// At returns the revision of exactly that serial.
func (m *Memory) At(oid zodb.Oid, serial zodb.Tid) (r Revision, ok bool) {
	r, _, ok, _ = m.Before(oid, serial+1)
	return r, ok && r.Serial == serial
}

// Newest returns the newest n revisions, the newest first.
func (m *Memory) Newest(oid zodb.Oid, n int) []Revision {
	all := m.revisions[oid]
	out := make([]Revision, 0, max(0, min(n, len(all))))
	for i := len(all) - 1; i >= 0 && len(out) < n; i-- {
		out = append(out, all[i])
	}
	return out
}
