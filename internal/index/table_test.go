package index

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"s3storage/internal/zodb"
)

var update = flag.Bool("update", false, "rewrite the golden file")

var (
	testDB = [16]byte{1, 2, 3}
	testID = ID{4, 5, 6}
)

// write writes a table.
func write(t fataler, entries []Entry) ([]byte, Info) {
	var b bytes.Buffer
	w := NewWriter(&b, testDB, testID)
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			t.Fatalf("%v", err)
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b.Bytes(), info
}

type fataler interface{ Fatalf(string, ...any) }

// tail returns the bytes that ReadDirectory needs.
func tail(file []byte, info Info) []byte { return file[info.Size-int64(info.Tail):] }

// fetchFrom reads from a file in memory.
func fetchFrom(file []byte) Fetch {
	return func(_ context.Context, offset, n int64) ([]byte, error) {
		if offset < 0 || n < 0 || offset > int64(len(file)) || n > int64(len(file))-offset {
			return nil, errors.New("there are no such bytes")
		}
		return file[offset:][:n:n], nil
	}
}

// open opens a table and all its leaves.
func open(file []byte, info Info) (*Directory, []*Leaf, error) {
	if int64(len(file)) != info.Size {
		return nil, nil, errors.New("the file has another size than Info says")
	}
	d, err := ReadDirectory(testDB, info, tail(file, info))
	if err != nil {
		return nil, nil, err
	}
	leaves := make([]*Leaf, d.Leaves())
	for i := range leaves {
		where := d.Leaf(i)
		if leaves[i], err = d.Open(i, file[where.Offset:][:where.Size]); err != nil {
			return d, nil, err
		}
	}
	return d, leaves, nil
}

// before looks a revision up as a user of the table does.
func before(d *Directory, leaves []*Leaf, oid zodb.Oid, tid zodb.Tid) (e Entry, ok bool, next zodb.Tid) {
	i, there := d.Find(oid, max(tid, 1)-1)
	if !there {
		return e, false, zodb.NoTid
	}
	e, ok, next, more := leaves[i].Before(oid, tid)
	if more {
		_, _, next, _ = leaves[i+1].Before(oid, tid)
	}
	return e, ok, next
}

// order is how entries come in a table.
func order(a, b Entry) int { return cmp.Or(cmp.Compare(a.Oid, b.Oid), cmp.Compare(a.Tid, b.Tid)) }

// search returns the first of the entries that does not come before (oid, tid).
func search(all []Entry, oid zodb.Oid, tid zodb.Tid) int {
	return sort.Search(len(all), func(i int) bool { return !all[i].before(oid, tid) })
}

// modelBefore is before, on all entries.
func modelBefore(all []Entry, oid zodb.Oid, tid zodb.Tid) (e Entry, ok bool, next zodb.Tid) {
	i := search(all, oid, tid)
	if i < len(all) && all[i].Oid == oid {
		next = all[i].Tid
	}
	if i == 0 || all[i-1].Oid != oid {
		return e, false, next
	}
	return all[i-1], true, next
}

// drawEntries makes up a table: a few objects, with few revisions or so many
// that they span leaves.
func drawEntries(t *rapid.T) []Entry {
	all := []Entry{}
	oid := zodb.Oid(0)
	steps := []uint64{0, 1, 1, 6, 7, 8, 300, 1 << 20, 1 << 62}
	for range rapid.IntRange(0, 40).Draw(t, "objects") {
		step := zodb.Oid(rapid.SampledFrom(steps).Draw(t, "step"))
		if oid+step > zodb.MaxOid {
			break
		}
		oid += step
		tid := zodb.Tid(rapid.Uint64Range(1, 1<<61).Draw(t, "tid"))
		n := rapid.SampledFrom([]int{1, 1, 2, 3, 10, 100, 5000}).Draw(t, "revisions")
		between := rapid.SampledFrom([]uint64{0, 1, 1000, 1 << 40, 1 << 49}).Draw(t, "between")
		k := uint32(rapid.SampledFrom([]uint64{0, 100, 1 << 10, 1 << 20, 1<<32 - 3}).Draw(t, "k"))
		for j := range n {
			all = append(all, Entry{oid, tid, k, (uint64(j)*7+uint64(tid))%5 == 0})
			k += uint32(j % 3)
			tid += zodb.Tid(1 + between)
		}
		if rapid.Bool().Draw(t, "extreme") {
			all = append(all, Entry{oid, zodb.MaxTid, 0, true})
		}
		// More objects with the same tids and the next k.
		for range rapid.SampledFrom([]int{0, 0, 3, 200}).Draw(t, "alike") {
			for j := range min(n, 12) {
				e := all[len(all)-1-j%len(all)]
				e.Oid, e.K = oid+1, e.K+1
				all = append(all, e)
			}
			oid++
		}
	}
	slices.SortFunc(all, order)
	return slices.CompactFunc(all, func(a, b Entry) bool { return order(a, b) == 0 })
}

func TestTableAnswersAsASearchOfAllEntriesWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawEntries(t)
		file, info := write(t, all)
		d, leaves, err := open(file, info)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Check(t.Context(), fetchFrom(file)); err != nil {
			t.Fatal(err)
		}
		oids := []zodb.Oid{0, 1, zodb.MaxOid}
		tids := []zodb.Tid{zodb.NoTid, 1, zodb.MaxTid}
		for _, l := range leaves {
			oid, tid, _ := l.group(0)
			oids, tids = append(oids, oid, oid, oid), append(tids, tid-1, tid, tid+1)
		}
		for range 50 {
			if len(all) > 0 {
				e := all[rapid.IntRange(0, len(all)-1).Draw(t, "entry")]
				oids = append(oids, e.Oid+zodb.Oid(rapid.IntRange(-1, 1).Draw(t, "oid")))
				tids = append(tids, e.Tid+zodb.Tid(rapid.IntRange(-1, 1).Draw(t, "tid")))
			}
		}
		for i, oid := range oids {
			for _, tid := range []zodb.Tid{tids[i], zodb.NoTid, zodb.MaxTid, zodb.MaxTid + 1} {
				e, ok, next := before(d, leaves, oid, tid)
				wantE, wantOK, wantNext := modelBefore(all, oid, tid)
				if e != wantE || ok != wantOK || next != wantNext {
					t.Fatalf("before %s of %s: %v %v %s, want %v %v %s", tid, oid, e, ok, next, wantE, wantOK, wantNext)
				}
			}
			tid := tids[i]
			leaf, ok := d.Find(oid, tid)
			if !ok {
				continue
			}
			got := slices.Collect(leaves[leaf].From(oid, tid))
			if want := all[search(all, oid, tid):]; len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
				t.Fatalf("from %s, %s: %d entries", oid, tid, len(got))
			}
		}
		from := rapid.SampledFrom(oids).Draw(t, "from")
		if got := collect(t, d.Scan(t.Context(), fetchFrom(file), from)); !slices.Equal(got, all[search(all, from, 0):]) {
			t.Fatalf("%d entries from %s on", len(got), from)
		}
	})
}

func collect(t fataler, s iter.Seq2[Entry, error]) (all []Entry) {
	for e, err := range s {
		if err != nil {
			t.Fatalf("%v", err)
		}
		all = append(all, e)
	}
	return all
}

func TestInfoSaysWhatIsInTheTable(t *testing.T) {
	file, info := write(t, []Entry{{1, 30, 0, false}, {1, 50, 0, false}, {5, 20, 7, true}})
	want := Info{ID: testID, Size: int64(len(file)), Tail: info.Tail, Entries: 3, First: 20, Last: 50, MaxOid: 5}
	if info != want {
		t.Errorf("%+v, want %+v", info, want)
	}
	if _, info := write(t, nil); info.Entries != 0 || info.Last != zodb.NoTid || info.Size != headerSize+footerSize {
		t.Errorf("an empty table: %+v", info)
	}
}

func TestWriterRefusesWhatIsNotInOrder(t *testing.T) {
	for _, bad := range []Entry{{5, 9, 0, false}, {5, 10, 1, true}, {4, 11, 0, false}, {6, 0, 0, false}, {6, 1 << 63, 0, false}, {1 << 63, 1, 0, false}} {
		w := NewWriter(&bytes.Buffer{}, testDB, testID)
		if err := w.Add(Entry{5, 10, 0, false}); err != nil {
			t.Fatal(err)
		}
		err := w.Add(bad)
		if err == nil {
			t.Errorf("%v was taken", bad)
		}
		if _, again := w.Close(); again != err {
			t.Errorf("the failure did not stay: %v", again)
		}
	}
}

func TestWriterThatCannotWriteSaysWhy(t *testing.T) {
	broken := errors.New("broken")
	w := NewWriter(failing{broken}, testDB, testID)
	if err := w.Add(Entry{1, 1, 0, false}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := w.Close(); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// small is a table in which all ways occur to write an entry.
func small() []Entry {
	all := []Entry{{0, 100, 0, false}, {0, 250, 7, false}, {0, 1 << 40, 300, true}}
	for oid := zodb.Oid(1); oid < 150; oid++ {
		all = append(all, Entry{oid, 100 + zodb.Tid(oid/40), uint32(oid % 40), false},
			Entry{oid, 1000 + zodb.Tid(oid*7919%131), uint32(oid * 31 % 100), oid%9 == 0})
	}
	return append(all, Entry{156, 5, 1 << 20, false}, Entry{163, 5, 1<<20 + 1, false}, Entry{1 << 50, 6, 0, false})
}

// large is a table of several leaves, one of which begins within an object.
func large() []Entry {
	var all []Entry
	for oid := range zodb.Oid(3000) {
		all = append(all, Entry{oid, 1 + zodb.Tid(oid/100), uint32(oid % 100), false}, Entry{oid, 1000 + zodb.Tid(oid)*7919%4001, 5, false})
	}
	for tid := range zodb.Tid(6000) {
		all = append(all, Entry{5000, 1 + tid<<30, 0, false})
	}
	return all
}

func TestEveryFlippedBitIsFoundOrChangesNoAnswer(t *testing.T) {
	for _, test := range []struct {
		all    []Entry
		every  int // bit before the directory, and all behind
		leaves int // at least
	}{{small(), 1, 1}, {large(), 1009, 3}} {
		file, info := write(t, test.all)
		good, leaves, err := open(file, info)
		if err != nil || len(leaves) < test.leaves {
			t.Fatal(len(leaves), err)
		}
		for bit := range 8 * len(file) {
			if int64(bit/8) < info.Size-int64(info.Tail) && bit%test.every != 0 {
				continue
			}
			damaged := slices.Clone(file)
			damaged[bit/8] ^= 1 << (bit % 8)
			if err := good.Check(t.Context(), fetchFrom(damaged)); !namesPlace(err) {
				t.Fatalf("bit %d was not found: %v", bit, err)
			}
			d, leaves, err := open(damaged, info)
			if err != nil {
				if !namesPlace(err) {
					t.Fatalf("bit %d: %v", bit, err)
				}
				continue
			}
			for _, e := range test.all {
				if got, ok, _ := before(d, leaves, e.Oid, e.Tid+1); !ok || got != e {
					t.Fatalf("bit %d: %v instead of %v", bit, got, e)
				}
			}
		}
	}
}

// namesPlace tells whether an error is about damage, and says where.
func namesPlace(err error) bool {
	return errors.Is(err, zodb.ErrCorrupt) && strings.HasPrefix(err.Error(), testID.Name()+" is damaged at offset ")
}

func TestTableOfAnotherNameOrDatabaseIsRefused(t *testing.T) {
	file, info := write(t, small())
	if _, err := ReadDirectory([16]byte{9}, info, tail(file, info)); !errors.Is(err, zodb.ErrCorrupt) {
		t.Errorf("another database: %v", err)
	}
	other := info
	other.ID = ID{9}
	if _, err := ReadDirectory(testDB, other, tail(file, info)); !errors.Is(err, zodb.ErrCorrupt) {
		t.Errorf("another table: %v", err)
	}
	for i, change := range []func(*Info){
		func(i *Info) { i.Entries++ }, func(i *Info) { i.First++ }, func(i *Info) { i.Last++ }, func(i *Info) { i.MaxOid++ },
		func(i *Info) { i.Size++ }, func(i *Info) { i.Tail++ }, func(i *Info) { i.Tail = 0 }, func(i *Info) { i.Size = -1 },
	} {
		other := info
		change(&other)
		if _, err := ReadDirectory(testDB, other, tail(file, info)); !errors.Is(err, zodb.ErrCorrupt) {
			t.Errorf("change %d of info: %v", i, err)
		}
	}
}

// A leaf is known by its place, so that two cannot be exchanged.
func TestLeavesDoNotPassForEachOther(t *testing.T) {
	var all []Entry
	for oid := range zodb.Oid(2 * leafEntries) {
		all = append(all, Entry{oid, 1, 0, false})
	}
	file, info := write(t, all)
	d, _, err := open(file, info)
	if err != nil || d.Leaves() != 2 || d.Leaf(0).Size != d.Leaf(1).Size {
		t.Fatal(d.Leaves(), err)
	}
	where := d.Leaf(1)
	if _, err := d.Open(0, file[where.Offset:][:where.Size]); !errors.Is(err, zodb.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// An object that fits into a leaf is in one, so that one read finds it.
func TestLeafEndsWithAnObject(t *testing.T) {
	var all []Entry
	for oid := range zodb.Oid(5000) {
		for tid := range zodb.Tid(3) {
			all = append(all, Entry{oid, tid + 1, 0, false})
		}
	}
	file, info := write(t, all)
	d, leaves, err := open(file, info)
	if err != nil || d.Leaves() < 3 {
		t.Fatal(d.Leaves(), err)
	}
	for i, l := range leaves {
		got := slices.Collect(l.From(0, 0))
		if got[0].Tid != 1 || got[len(got)-1].Tid != 3 {
			t.Errorf("leaf %d begins with %v and ends with %v", i, got[0], got[len(got)-1])
		}
	}
}

func TestGoldenTableIsWrittenAsEver(t *testing.T) {
	path := filepath.Join("testdata", "table")
	file, info := write(t, small())
	if *update {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, golden) {
		t.Error("the bytes of a table have changed: raise the format version, or undo it; -update writes the file anew")
	}
	if _, _, err := open(golden, info); err != nil {
		t.Error(err)
	}
}
