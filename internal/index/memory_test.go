package index

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"s3storage/internal/zodb"
)

// The index answers as one would that looks at every revision.
func TestIndexAnswersAsASearchOfAllRevisionsWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory[int]()
		var all []Revision[int]
		oid := zodb.Oid(1)
		serial := zodb.Tid(0)
		for range rapid.IntRange(0, 20).Draw(t, "revisions") {
			serial += zodb.Tid(rapid.IntRange(1, 5).Draw(t, "gap"))
			r := Revision[int]{Serial: serial, Value: len(all), Deleted: rapid.Bool().Draw(t, "deleted")}
			m.Add(oid, r)
			all = append(all, r)
		}
		tid := zodb.Tid(rapid.IntRange(0, int(serial)+2).Draw(t, "tid"))
		r, next, ok := m.Before(oid, tid)
		i := len(all)
		for i > 0 && all[i-1].Serial >= tid {
			i--
		}
		if ok != (i > 0) || ok && r != all[i-1] {
			t.Fatalf("before %s of %v: %v %v", tid, all, r, ok)
		}
		if want := (i < len(all)); want != (next != zodb.NoTid) || want && next != all[i].Serial {
			t.Fatalf("next of %s in %v: %s", tid, all, next)
		}
		at, ok := m.At(oid, tid)
		j := slices.IndexFunc(all, func(r Revision[int]) bool { return r.Serial == tid })
		if ok != (j >= 0) || ok && at != all[j] {
			t.Fatalf("at %s of %v: %v %v", tid, all, at, ok)
		}
		if c, ok := m.Current(oid); ok != (len(all) > 0) || ok && c != all[len(all)-1] {
			t.Fatalf("current of %v: %v", all, c)
		}
	})
}

// Objects come in any order.
func TestIndexFindsTheNextObjectAsASearchOfAllWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory[int]()
		all := map[zodb.Oid]Revision[int]{}
		serial := zodb.Tid(0)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			if oid := zodb.Oid(rapid.IntRange(0, 30).Draw(t, "oid")); rapid.IntRange(0, 3).Draw(t, "what") == 0 {
				if want := slices.Sorted(maps.Keys(all)); !slices.Equal(m.Oids(), want) {
					t.Fatalf("oids %v, want %v", m.Oids(), want)
				}
			} else {
				serial++
				all[oid] = Revision[int]{Serial: serial}
				m.Add(oid, all[oid])
			}
			from := zodb.Oid(rapid.IntRange(0, 31).Draw(t, "from"))
			want, exists := zodb.Oid(0), false
			for oid := range all {
				if oid >= from && (!exists || oid < want) {
					want, exists = oid, true
				}
			}
			found, r, ok := m.Next(from)
			if ok != exists || found != want || ok && r != all[want] {
				t.Fatalf("next from %s: %s %v %v, want %s %v", from, found, r, ok, want, exists)
			}
		}
	})
}
