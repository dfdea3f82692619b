package index

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"s3storage/internal/zodb"
)

// The index answers as one would that looks at every revision.
func TestIndexAnswersAsASearchOfAllRevisionsWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory()
		var all []Revision
		oid := zodb.Oid(1)
		serial := zodb.Tid(0)
		for range rapid.IntRange(0, 20).Draw(t, "revisions") {
			serial += zodb.Tid(rapid.IntRange(1, 5).Draw(t, "gap"))
			r := Revision{Serial: serial, Offset: uint32(len(all)), Size: uint32(rapid.IntRange(0, 2).Draw(t, "size"))}
			m.Add(oid, r)
			all = append(all, r)
		}
		tid := zodb.Tid(rapid.IntRange(0, int(serial)+2).Draw(t, "tid"))
		r, next, ok, known := m.Before(oid, tid)
		i := len(all)
		for i > 0 && all[i-1].Serial >= tid {
			i--
		}
		if ok != (i > 0) || known != (len(all) > 0) || ok && r != all[i-1] {
			t.Fatalf("before %s of %v: %v %v %v", tid, all, r, ok, known)
		}
		if want := (i < len(all)); want != (next != zodb.NoTid) || want && next != all[i].Serial {
			t.Fatalf("next of %s in %v: %s", tid, all, next)
		}
		at, ok := m.At(oid, tid)
		j := slices.IndexFunc(all, func(r Revision) bool { return r.Serial == tid })
		if ok != (j >= 0) || ok && at != all[j] {
			t.Fatalf("at %s of %v: %v %v", tid, all, at, ok)
		}
		n := rapid.IntRange(0, 25).Draw(t, "n")
		newest := slices.Clone(all)
		slices.Reverse(newest)
		if got := m.Newest(oid, n); !slices.Equal(got, newest[:min(n, len(newest))]) {
			t.Fatalf("newest %d of %v: %v", n, all, got)
		}
		live := int64(0)
		if c, ok := m.Current(oid); ok != (len(all) > 0) || ok && c != all[len(all)-1] {
			t.Fatalf("current of %v: %v", all, c)
		} else if ok && !c.Deleted() {
			live = 1
		}
		if m.Live() != live {
			t.Fatalf("%d live in %v", m.Live(), all)
		}
	})
}

// Objects come in any order, and go.
func TestIndexFindsTheNextObjectAsASearchOfAllWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory()
		all := map[zodb.Oid][]Revision{}
		serial := zodb.Tid(0)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			oid := zodb.Oid(rapid.IntRange(0, 30).Draw(t, "oid"))
			switch old := all[oid]; rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				if len(old) > 0 {
					i := rapid.IntRange(0, len(old)-1).Draw(t, "which")
					if r, ok := m.Remove(oid, old[i].Serial); !ok || r != old[i] {
						t.Fatalf("removed %v %v of %v", r, ok, old[i])
					}
					all[oid] = slices.Concat(old[:i], old[i+1:])
				}
				if _, ok := m.Remove(oid, serial+1); ok {
					t.Fatal("removed what is not there")
				}
			case 1:
				var want []zodb.Oid
				for oid, revisions := range all {
					if len(revisions) > 0 {
						want = append(want, oid)
					}
				}
				slices.Sort(want)
				got := slices.DeleteFunc(slices.Clone(m.Oids()), func(oid zodb.Oid) bool { return len(all[oid]) == 0 })
				if !slices.Equal(got, want) || !slices.IsSorted(m.Oids()) {
					t.Fatalf("oids %v, want %v", m.Oids(), want)
				}
			default:
				serial++
				r := Revision{Serial: serial, Size: uint32(rapid.IntRange(0, 2).Draw(t, "size"))}
				m.Add(oid, r)
				all[oid] = append(slices.Clone(old), r)
			}
			from := zodb.Oid(rapid.IntRange(0, 31).Draw(t, "from"))
			want, exists := zodb.Oid(0), false
			for oid, revisions := range all {
				if n := len(revisions); n > 0 && !revisions[n-1].Deleted() && oid >= from && (!exists || oid < want) {
					want, exists = oid, true
				}
			}
			found, r, ok := m.Next(from)
			if ok != exists || found != want || ok && r != all[want][len(all[want])-1] {
				t.Fatalf("next from %s: %s %v %v, want %s %v", from, found, r, ok, want, exists)
			}
		}
	})
}
