package index

import (
	"slices"
	"sort"

	"s3storage/internal/zodb"
)

// A Revision is one revision of an object in a Memory.
type Revision[V any] struct {
	Serial  zodb.Tid
	Deleted bool // it is the deletion of the object
	Value   V    // what else the owner knows of it
}

// A Memory is an index in memory. It is not for use from several goroutines
// while Add or Next is called.
type Memory[V any] struct {
	revisions map[zodb.Oid][]Revision[V] // in the order of serials; none is empty

	oids   []zodb.Oid // in order, each once
	recent []zodb.Oid // not yet among oids, in any order
}

// maxRecent is how many oids are looked through rather than sorted in.
const maxRecent = 1024

// NewMemory returns an empty index.
func NewMemory[V any]() *Memory[V] {
	return &Memory[V]{revisions: make(map[zodb.Oid][]Revision[V])}
}

// Add adds a revision. Its serial must lie above those of the object's others.
func (m *Memory[V]) Add(oid zodb.Oid, r Revision[V]) {
	old := m.revisions[oid]
	switch n := len(m.oids); {
	case len(old) > 0:
	case n == 0 || m.oids[n-1] < oid:
		m.oids = append(m.oids, oid)
	default:
		m.recent = append(m.recent, oid)
	}
	m.revisions[oid] = append(old, r)
}

// Revisions returns all revisions of the object, the oldest first. They must not
// be changed.
func (m *Memory[V]) Revisions(oid zodb.Oid) []Revision[V] { return m.revisions[oid] }

// Oids returns the oids of all objects, in order. They must not be changed.
func (m *Memory[V]) Oids() []zodb.Oid {
	if len(m.recent) > 0 {
		m.oids = slices.Concat(m.oids, m.recent)
		m.recent = nil
		slices.Sort(m.oids)
	}
	return m.oids[:len(m.oids):len(m.oids)]
}

// Next returns the first object at or after oid, and its newest revision.
func (m *Memory[V]) Next(oid zodb.Oid) (found zodb.Oid, r Revision[V], ok bool) {
	if len(m.recent) > maxRecent {
		m.Oids()
	}
	if i, _ := slices.BinarySearch(m.oids, oid); i < len(m.oids) {
		found, ok = m.oids[i], true
	}
	for _, other := range m.recent {
		if other >= oid && (!ok || other < found) {
			found, ok = other, true
		}
	}
	if ok {
		r, _ = m.Current(found)
	}
	return found, r, ok
}

// Current returns the newest revision; ok is false for an unknown object.
func (m *Memory[V]) Current(oid zodb.Oid) (r Revision[V], ok bool) {
	all := m.revisions[oid]
	if len(all) == 0 {
		return r, false
	}
	return all[len(all)-1], true
}

// Before returns the newest revision with a serial below tid, and the serial of
// the one that follows, NoTid if none does. ok is false where there is none; then
// next is that of the first, if there is any.
func (m *Memory[V]) Before(oid zodb.Oid, tid zodb.Tid) (r Revision[V], next zodb.Tid, ok bool) {
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
		return r, next, false
	}
	return all[i-1], next, true
}

// At returns the revision of exactly that serial.
func (m *Memory[V]) At(oid zodb.Oid, serial zodb.Tid) (r Revision[V], ok bool) {
	r, _, ok = m.Before(oid, serial+1)
	return r, ok && r.Serial == serial
}
