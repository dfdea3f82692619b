// Package index finds revisions: it maps an oid and a tid to the place of the
// record in the bucket.
package index

import (
	"slices"
	"sort"

	"s3storage/internal/zodb"
)

// A Revision is one revision of an object and where its record lies.
type Revision struct {
	Serial zodb.Tid
	Object uint32 // number of the object in the bucket, the owner's to interpret
	Offset uint32 // of the record there
	Size   uint32 // bytes of the record; 0 for a deletion
	Data   uint32 // bytes of data in the record
}

// Deleted tells whether the revision is the deletion of the object.
func (r Revision) Deleted() bool { return r.Size == 0 }

// A Memory is an index in memory. It is not for use from several goroutines
// while Add, Remove, Oids or Next is called.
type Memory struct {
	revisions map[zodb.Oid][]Revision // in the order of serials; none is empty
	live      int64

	// All oids of revisions, and perhaps some that were removed.
	oids   []zodb.Oid // in order, each once
	recent []zodb.Oid // not yet among oids, in any order
}

// maxRecent is how many oids are looked through rather than sorted in.
const maxRecent = 1024

// NewMemory returns an empty index.
func NewMemory() *Memory {
	return &Memory{revisions: make(map[zodb.Oid][]Revision)}
}

// Live returns the number of objects whose newest revision is not a deletion.
func (m *Memory) Live() int64 { return m.live }

// Add adds a revision. Its serial must lie above those of the object's others.
func (m *Memory) Add(oid zodb.Oid, r Revision) {
	old := m.revisions[oid]
	switch n := len(m.oids); {
	case len(old) > 0:
	case n == 0 || m.oids[n-1] < oid:
		m.oids = append(m.oids, oid)
	default:
		m.recent = append(m.recent, oid)
	}
	m.revisions[oid] = append(old, r)
	m.live += lives(m.revisions[oid]) - lives(old)
}

// lives returns 1 for the revisions of an object that exists, else 0.
func lives(all []Revision) int64 {
	if len(all) == 0 || all[len(all)-1].Deleted() {
		return 0
	}
	return 1
}

// Remove takes out the revision of exactly that serial. ok is false where there
// is none.
func (m *Memory) Remove(oid zodb.Oid, serial zodb.Tid) (r Revision, ok bool) {
	old := m.revisions[oid]
	i := sort.Search(len(old), func(i int) bool { return old[i].Serial >= serial })
	if i == len(old) || old[i].Serial != serial {
		return r, false
	}
	r = old[i]
	rest := slices.Concat(old[:i], old[i+1:]) // what Revisions returned stays
	m.live += lives(rest) - lives(old)
	if len(rest) == 0 {
		delete(m.revisions, oid)
	} else {
		m.revisions[oid] = rest
	}
	return r, true
}

// Revisions returns all revisions of the object, the oldest first. They must not
// be changed.
func (m *Memory) Revisions(oid zodb.Oid) []Revision { return m.revisions[oid] }

// Oids returns the oids of all objects, also of those that were deleted, in
// order. They must not be changed.
func (m *Memory) Oids() []zodb.Oid {
	if len(m.recent) > 0 || len(m.oids) > 2*len(m.revisions) {
		m.oids = slices.DeleteFunc(slices.Concat(m.oids, m.recent), func(oid zodb.Oid) bool { return len(m.revisions[oid]) == 0 })
		m.recent = nil
		slices.Sort(m.oids)
		m.oids = slices.Compact(m.oids)
	}
	return m.oids[:len(m.oids):len(m.oids)]
}

// Next returns the first object at or after oid that exists, and its current
// revision.
func (m *Memory) Next(oid zodb.Oid) (found zodb.Oid, r Revision, ok bool) {
	if len(m.recent) > maxRecent {
		m.Oids()
	}
	i, _ := slices.BinarySearch(m.oids, oid)
	for ; i < len(m.oids) && !ok; i++ {
		found, ok = m.oids[i], lives(m.revisions[m.oids[i]]) == 1
	}
	for _, other := range m.recent {
		if other >= oid && (!ok || other < found) && lives(m.revisions[other]) == 1 {
			found, ok = other, true
		}
	}
	if !ok {
		return 0, r, false
	}
	r, ok = m.Current(found)
	return found, r, ok
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
