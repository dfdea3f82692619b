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
