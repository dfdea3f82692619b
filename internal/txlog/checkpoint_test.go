package txlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

func sampleCheckpoint() *Checkpoint {
	return &Checkpoint{
		Number: 7, Database: DatabaseID{1}, Base: BaseID{2}, Adopted: 1 << 40, At: time.Unix(1e9, 0).UTC(),
		Position: Position{Epoch: 3, Slot: 99, Prev: Hash{4}, OidMark: 1000, LastTid: 55, Leader: Node{Name: "nöde", Address: "a:1"}},
	}
}

func TestCheckpointAndHintAreReadAsTheyWereWritten(t *testing.T) {
	for _, c := range []*Checkpoint{sampleCheckpoint(), {Number: 1, Position: Start(), At: time.Unix(0, 0).UTC()}} {
		if got, err := DecodeCheckpoint(c.Name(), c.Encode()); err != nil || *got != *c {
			t.Errorf("got %+v, %v\nwant %+v", got, err, c)
		}
	}
	h := &head{DatabaseID{1}, 2, 3, 1 << 40}
	if got, err := decodeHead(h.encode()); err != nil || *got != *h {
		t.Errorf("got %+v, %v\nwant %+v", got, err, h)
	}
}

// A shelf has what is in bases, as the buckets' objects of these would.
type shelf map[BaseID][]zodb.Tid

// open opens a log whose observer finds the bases of a shelf.
func (s shelf) open(t *testing.T, b bucket.Bucket, node string) (*Log, *recorder) {
	t.Helper()
	f, err := ReadFormat(t.Context(), b)
	if errors.Is(err, ErrNoDatabase) {
		f, err = Create(t.Context(), b, Format{Creator: "test", Created: time.Now()})
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{bases: s}
	l, err := Open(t.Context(), b, f, r, Options{Node: Node{Name: node}, Logger: silent()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, r
}

// flushBase has the log adopt a base of all that the observer was told so far.
func (s shelf) flushBase(t *testing.T, l *Log, r *recorder) (BaseID, Position) {
	t.Helper()
	flush(t, l)
	id, p := BaseID{byte(len(s) + 1)}, r.end
	s[id] = r.tids()
	l.AppendBase(BaseChange{ID: id, Why: BaseFlush})
	flush(t, l)
	return id, p
}

// checkpointed is flushBase with a checkpoint. If nothing was committed
// meanwhile, the base accounts for its own entry, too.
func (s shelf) checkpointed(t *testing.T, l *Log, r *recorder) (BaseID, Position) {
	t.Helper()
	id, p := s.flushBase(t, l, r)
	if len(r.tids()) == len(s[id]) {
		p = r.end
	}
	if err := l.WriteCheckpoint(t.Context(), id, p); err != nil {
		t.Fatal(err)
	}
	return id, p
}

func names(t *testing.T, b bucket.Bucket, prefix string) (names []string) {
	t.Helper()
	err := b.List(t.Context(), prefix, "", func(i bucket.Info) error { names = append(names, i.Name); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func (r *recorder) want(t *testing.T, last zodb.Tid) {
	t.Helper()
	if got := r.tids(); !slices.Equal(got, count(1, last)) {
		t.Errorf("%v, not 1 to %s", got, last)
	}
}

func TestOpeningBeginsAtTheNewestCheckpoint(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	l, r := s.open(t, b, "first")
	appendMany(l, 1, 20)
	s.checkpointed(t, l, r)
	appendMany(l, 21, 30)
	_, p := s.checkpointed(t, l, r)
	appendMany(l, 31, 35)
	flush(t, l)
	l.Close()
	l2, r2 := s.open(t, b, "second")
	r2.want(t, 35)
	if want := int(l2.mu.leader.End().Slot - p.Slot); r2.objects != want || r2.resets != 1 {
		t.Errorf("%d objects read, not %d; %d resets", r2.objects, want, r2.resets)
	}
	// What it writes says so.
	appendMany(l2, 36, 36)
	flush(t, l2)
	o, err := l2.readObject(t.Context(), Name(2, l2.mu.leader.End().Slot-1))
	if err != nil || o.Checkpoint != 2 || o.LogStart != p.Slot {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestOpeningTakesNineRequestsAndNoListing(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	for round := zodb.Tid(1); round <= 20; round++ {
		l, r := s.open(t, b, "before")
		for tid := round*10 - 9; tid <= round*10; tid++ {
			appendMany(l, tid, tid)
			flush(t, l)
		}
		s.checkpointed(t, l, r)
		l.Close()
	}
	o := bucket.Observe(b)
	_, r := s.open(t, o, "after")
	r.want(t, 200)
	stats := o.Snapshot()
	total := uint64(0)
	for _, k := range stats.Kinds {
		total += k.Count
	}
	if total > 9 || stats.Kinds[bucket.KindList].Count > 0 {
		t.Errorf("%d requests:\n%s", total, stats)
	}
}

func TestNewestCheckpointIsFoundWhateverTheHintSays(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	l, r := s.open(t, b, "first")
	stale := map[int][]byte{}
	for n := 1; n <= 21; n++ {
		appendMany(l, zodb.Tid(n), zodb.Tid(n))
		s.checkpointed(t, l, r)
		data, err := b.Get(t.Context(), HeadName, 1<<10)
		if err != nil {
			t.Fatal(err)
		}
		stale[n] = data
	}
	l.Close()
	hints := map[string][]byte{
		"another database's": (&head{DatabaseID{66}, 3, 1, 5}).encode(),
		"too new":            (&head{l.db, 1000, 1, 5000}).encode(),
		"damaged":            []byte("what is this"),
		"large":              make([]byte, 1<<20),
		"absent":             nil,
	}
	for n := range stale {
		hints[fmt.Sprintf("stale at %d", n)] = stale[n]
	}
	last := zodb.Tid(21)
	for name, hint := range hints {
		if err := b.Delete(t.Context(), HeadName); err != nil {
			t.Fatal(err)
		}
		if hint != nil {
			if err := b.Put(t.Context(), HeadName, hint); err != nil {
				t.Fatal(err)
			}
		}
		o := bucket.Observe(b)
		f := &Format{Database: l.db}
		reader := &recorder{bases: s}
		_, err := Walk(t.Context(), o, f, func(c *Checkpoint) error { return reader.Reset(t.Context(), c) },
			func(o *Object, end Position) error { reader.Settled(Settled{Object: o, End: end}); return nil })
		if err != nil || !slices.Equal(reader.tids(), count(1, last)) {
			t.Errorf("%s: read %v, %v", name, reader.tids(), err)
		}
		l, r := s.open(t, o, "next")
		r.want(t, last)
		if l.mu.newest == nil || l.mu.newest.Number != 21 {
			t.Errorf("%s: found %+v", name, l.mu.newest)
		}
		l.Close()
		if data, err := b.Get(t.Context(), HeadName, 1<<10); err != nil || !bytes.Equal(data[:40], stale[21][:40]) {
			t.Errorf("%s: the hint was not mended: %x, %v", name, data, err)
		}
	}
}

func TestDamagedNewestCheckpointIsNamedAndAnOlderOneDoesNoHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // waits between attempts
		b, s := bucket.NewMemory(), shelf{}
		l, r := s.open(t, b, "first")
		for n := zodb.Tid(1); n <= 5; n++ {
			appendMany(l, n, n)
			s.checkpointed(t, l, r)
		}
		l.Close()
		if err := b.Delete(t.Context(), HeadName); err != nil {
			t.Fatal(err)
		}
		for _, n := range []uint64{2, 3, 4, 5} {
			if err := b.Put(t.Context(), CheckpointName(n), []byte("damaged")); err != nil {
				t.Fatal(err)
			}
			c, err := l.newestAfter(t.Context(), 0)
			if n < 5 && (err != nil || c.Number != 5) {
				t.Errorf("%d damaged: %+v, %v", n, c, err)
			}
			if n == 5 && (!errors.Is(err, zodb.ErrCorrupt) || !strings.Contains(err.Error(), CheckpointName(5))) {
				t.Errorf("%d damaged: %v", n, err)
			}
		}
	})
}

func TestCheckpointOfAnOlderBaseIsNotWritten(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	l, r := s.open(t, b, "first")
	appendMany(l, 1, 5)
	older, at := s.flushBase(t, l, r)
	// A merge accounts for no more of the log than the base before.
	newer := BaseID{99}
	s[newer] = s[older]
	l.AppendBase(BaseChange{ID: newer, Why: BaseMerge})
	flush(t, l)
	for range 2 { // again is nothing new
		if err := l.WriteCheckpoint(t.Context(), newer, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.WriteCheckpoint(t.Context(), older, at); err != nil {
		t.Fatal(err)
	}
	if err := l.WriteCheckpoint(t.Context(), BaseID{77}, at); err == nil {
		t.Error("a checkpoint was written of a base that the log does not know")
	}
	l.Close()
	if got := names(t, b, CheckpointPrefix); !slices.Equal(got, []string{CheckpointName(1)}) {
		t.Errorf("%v", got)
	}
	// The older base, whose entry lies behind the position, is not asked for.
	delete(s, older)
	l2, r2 := s.open(t, b, "second")
	r2.want(t, 5)
	if len(r2.fetched) > 0 || l2.mu.newest.Base != newer {
		t.Errorf("fetched %v, began at %+v", r2.fetched, l2.mu.newest)
	}
}

func TestOfTwoWhoWriteACheckpointTheNewerBaseWins(t *testing.T) {
	b := bucket.NewMemory()
	h := home{b, DatabaseID{1}, parallel}
	at := func(slot Slot) Position { return Position{Epoch: 1, Slot: slot} }
	one, err := h.putCheckpoint(t.Context(), nil, BaseID{1}, 10, at(5))
	if err != nil || one.Number != 1 {
		t.Fatal(one, err)
	}
	two, err := h.putCheckpoint(t.Context(), one, BaseID{2}, 20, at(15))
	if err != nil || two.Number != 2 {
		t.Fatal(two, err)
	}
	// They know only of the first.
	if c, err := h.putCheckpoint(t.Context(), one, BaseID{3}, 30, at(15)); err != nil || c.Number != 3 {
		t.Error(c, err)
	}
	if c, err := h.putCheckpoint(t.Context(), one, BaseID{9}, 12, at(7)); err != nil || *c != *two {
		t.Error(c, err)
	}
	if c, err := h.putCheckpoint(t.Context(), one, BaseID{2}, 20, at(15)); err != nil || *c != *two {
		t.Error(c, err)
	}
	if _, err := h.putCheckpoint(t.Context(), one, BaseID{4}, 40, at(14)); err == nil {
		t.Error("a base that accounts for less than the one before")
	}
}

func TestChangesOfTheBaseAreFetchedWhenTheyAreRead(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	l, r := s.open(t, b, "first")
	appendMany(l, 1, 5)
	s.flushBase(t, l, r)
	if len(r.fetched) != 0 {
		t.Errorf("it fetched its own: %v", r.fetched)
	}
	l.Close()
	if _, r2 := s.open(t, b, "second"); !slices.Equal(r2.fetched, []BaseID{{1}}) {
		t.Errorf("fetched %v", r2.fetched)
	}
}

func TestBaseThatIsMissingIsAnErrorUnlessThereIsANewerCheckpoint(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	l, r := s.open(t, b, "first")
	appendMany(l, 1, 5)
	first, _ := s.checkpointed(t, l, r)
	stale, err := b.Get(t.Context(), HeadName, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	appendMany(l, 6, 10)
	second, at := s.flushBase(t, l, r)
	appendMany(l, 11, 12)
	flush(t, l)
	content := s[first]
	delete(s, first)
	f := &Format{Database: l.db}
	opened := func() (*recorder, error) {
		reader := &recorder{bases: s}
		l, err := Open(t.Context(), b, f, reader, Options{Logger: silent()})
		if err == nil {
			l.Close()
		}
		return reader, err
	}
	if _, err := opened(); !errors.Is(err, zodb.ErrCorrupt) || errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("the first base is missing: %v", err)
	}
	s[first] = content
	content = s[second]
	delete(s, second)
	if _, err := opened(); !errors.Is(err, zodb.ErrCorrupt) || errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("the second base is missing: %v", err)
	}
	s[second] = content
	delete(s, first)
	if err := l.WriteCheckpoint(t.Context(), second, at); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), HeadName, stale); err != nil {
		t.Fatal(err)
	}
	r2, err := opened()
	if err != nil {
		t.Fatal(err)
	}
	r2.want(t, 12)
}

func TestTrimDeletesTheLogBeforeACheckpointButForSeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := bucket.NewMemory(), shelf{}
		for round := zodb.Tid(0); round < 3; round++ {
			l, _ := s.open(t, b, "node")
			for tid := round*50 + 1; tid <= round*50+50; tid++ {
				appendMany(l, tid, tid)
				flush(t, l)
			}
			l.Close()
		}
		l, r := s.open(t, b, "last")
		if n, err := l.Trim(t.Context(), 0); n != 0 || err != nil {
			t.Errorf("without a checkpoint: %d, %v", n, err)
		}
		l.Append(&Transaction{Tid: 151, Records: []Record{{Kind: RecordData, Data: make([]byte, 2*maxSealSize), Size: 2 * maxSealSize}}}, 0)
		_, p := s.checkpointed(t, l, r)
		all := names(t, b, Prefix)
		time.Sleep(time.Hour)
		appendMany(l, 152, 160)
		s.checkpointed(t, l, r) // too young to count
		if n, err := l.Trim(t.Context(), 2*time.Hour); n != 0 || err != nil {
			t.Errorf("after an hour: %d, %v", n, err)
		}
		n, err := l.Trim(t.Context(), time.Hour)
		if err != nil || n != int(p.Slot-1-4) {
			t.Errorf("%d deleted, %v", n, err)
		}
		left := names(t, b, Prefix)
		for _, name := range all {
			e, slot, _ := parseName(name)
			seal := false
			for i := range Slot(4) {
				seal = seal || e == Epoch(i) && slot == i*51+1
			}
			if want := seal || slot >= p.Slot; slices.Contains(left, name) != want {
				t.Errorf("%s left: %v", name, !want)
			}
		}
		// Seals are not read again.
		o := bucket.Observe(b)
		l.bucket = o
		if n, err := l.Trim(t.Context(), time.Hour); n != 0 || err != nil || o.Snapshot().Kinds[bucket.KindGet].Count > 1 {
			t.Errorf("%d deleted again, %v\n%s", n, err, o.Snapshot())
		}
		l.Close()
		l2, r2 := s.open(t, b, "next")
		r2.want(t, 160)
		l2.Close()
	})
}

func TestDamagedObjectIsNotTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // waits between attempts
		b, s := bucket.NewMemory(), shelf{}
		l, _ := s.open(t, b, "first")
		appendMany(l, 1, 3)
		flush(t, l)
		l.Close()
		if err := b.Put(t.Context(), Name(0, 1), []byte("this was a seal")); err != nil {
			t.Fatal(err)
		}
		h := home{b, l.db, parallel}
		n, err := h.trim(t.Context(), Position{Epoch: 1, Slot: 100}, func(Epoch, Slot) bool { return false }, map[string]bool{})
		if left := names(t, b, Prefix); err != nil || n == 0 || !slices.Equal(left, []string{Name(0, 1)}) {
			t.Errorf("%d deleted, %v; left: %v", n, err, left)
		}
	})
}

func TestSlotThatWasTrimmedIsNotTakenForTheEndOfTheLog(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	l, r := s.open(t, b, "first")
	appendMany(l, 1, 5)
	s.checkpointed(t, l, r)
	stale, err := b.Get(t.Context(), HeadName, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	for tid := zodb.Tid(6); tid <= 20; tid++ {
		appendMany(l, tid, tid)
		flush(t, l)
	}
	s.checkpointed(t, l, r)
	if n, err := l.Trim(t.Context(), 0); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	appendMany(l, 21, 22)
	flush(t, l)
	if err := b.Put(t.Context(), HeadName, stale); err != nil {
		t.Fatal(err)
	}
	second, r2 := s.open(t, b, "second")
	r2.want(t, 22)
	appendMany(second, 23, 24)
	flush(t, second)
	r2.want(t, 24)
	if err := b.Put(t.Context(), HeadName, stale); err != nil {
		t.Fatal(err)
	}
	_, r3 := s.open(t, b, "third")
	r3.want(t, 24)
}

func TestHintShowsAHole(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{}
	l, r := s.open(t, b, "first")
	appendMany(l, 1, 5)
	base, p := s.flushBase(t, l, r)
	if err := l.WriteCheckpoint(t.Context(), base, p); err != nil {
		t.Fatal(err)
	}
	l.Close()
	// The only object behind the position: nothing behind it can tell.
	if err := b.Delete(t.Context(), Name(p.Epoch, p.Slot)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), b, &Format{Database: l.db}, &recorder{bases: s}, Options{Logger: silent()})
	if !errors.Is(err, zodb.ErrCorrupt) || !strings.Contains(err.Error(), Name(p.Epoch, p.Slot)) {
		t.Error(err)
	}
}

func TestDeposedNodeGoesOnFromACheckpointWhenWhatItNeedsIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := bucket.NewMemory(), shelf{}
		first, r1 := s.open(t, b, "first")
		appendMany(first, 1, 5)
		flush(t, first)
		// All that the second writes is gone before the first sees it.
		second, r2 := s.open(t, b, "second")
		appendMany(second, 6, 10)
		s.checkpointed(t, second, r2)
		if n, err := second.Trim(t.Context(), 0); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		appendMany(second, 11, 12)
		flush(t, second)
		time.Sleep(watchEvery + (lookEvery+3)*followEvery)
		r1.want(t, 12)
		if r1.resets != 2 {
			t.Errorf("%d resets", r1.resets)
		}
		first.Close()
		second.Close()
	})
}

// The model of the protocol has found this. The first reads a checkpoint of the second
// before it knows that it was taken over; that must not be the one from which it looks
// for newer ones when it leads again.
func TestDeposedNodeThatHasReadACheckpointOfItsSuccessorLeadsWithAllThatItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := bucket.NewMemory(), shelf{}
		first, r1 := s.open(t, b, "first")
		appendMany(first, 1, 5)
		base, p := s.flushBase(t, first, r1)
		second, r2 := s.open(t, b, "second")
		appendMany(second, 6, 10)
		s.checkpointed(t, second, r2)
		if n, err := second.Trim(t.Context(), 0); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		second.Close()
		if err := first.WriteCheckpoint(t.Context(), base, p); err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), HeadName); err != nil { // it is a hint only
			t.Fatal(err)
		}
		time.Sleep(watchEvery) // it finds out, and follows
		synctest.Wait()
		if err := first.Lead(t.Context()); err != nil {
			t.Fatal(err)
		}
		r1.want(t, 10)
		first.Close()
	})
}

func TestCatchUpTakesWhatWasTrimmedNotForTheEndOfTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := bucket.NewMemory(), shelf{}
		leader, r1 := s.open(t, b, "leader")
		appendMany(leader, 1, 5)
		flush(t, leader)
		f, err := ReadFormat(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{bases: s}
		follower, err := Follow(t.Context(), b, f, r, Options{Logger: silent()})
		if err != nil {
			t.Fatal(err)
		}
		follower.Poll(0) // it is told of nothing, as one that stands still
		synctest.Wait()
		appendMany(leader, 6, 10)
		s.checkpointed(t, leader, r1)
		if n, err := leader.Trim(t.Context(), 0); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		appendMany(leader, 11, 12)
		flush(t, leader)
		if err := follower.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.want(t, 12)
		leader.Close()
		follower.Close()
	})
}

// The simulation of nodes has found this: transactions that were part of an epoch were said
// not to be.
func TestTheEndOfAnEpochIsNotToldOfASealThatMeansNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := bucket.NewMemory(), shelf{}
		leader, r := s.open(t, b, "leader")
		appendMany(leader, 1, 5)
		flush(t, leader)
		f, err := ReadFormat(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		var logs []*Log
		var recorders []*recorder
		for range 2 {
			r := &recorder{bases: s}
			l, err := Follow(t.Context(), b, f, r, Options{Logger: silent()})
			if err != nil {
				t.Fatal(err)
			}
			l.Poll(0) // it is told of nothing, as one that stands still
			logs, recorders = append(logs, l), append(recorders, r)
		}
		synctest.Wait()
		appendMany(leader, 6, 10)
		s.checkpointed(t, leader, r)
		if n, err := leader.Trim(t.Context(), 0); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		appendMany(leader, 11, 12)
		flush(t, leader)
		// Its first seal goes where an object was deleted, and there the other one finds it.
		if err := logs[0].Lead(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := logs[1].CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, r := range recorders {
			r.want(t, 12)
			if !slices.Equal(r.ended, []int{12}) {
				t.Errorf("log %d was told of ends of epochs when it had %v transactions", i, r.ended)
			}
			logs[i].Close()
		}
		leader.Close()
	})
}

func TestBranchBeginsWithACheckpoint(t *testing.T) {
	b, s := bucket.NewMemory(), shelf{BaseID{1}: count(1, 3)}
	f := sampleFormat()
	p := Start()
	p.OidMark, p.LastTid = 500, 3
	c := &Checkpoint{Number: 1, Database: f.Database, Base: BaseID{1}, Position: p}
	err := CreateFilled(t.Context(), b, f, nothing, func() error { return b.Put(t.Context(), c.Name(), c.Encode()) })
	if err != nil {
		t.Fatal(err)
	}
	l, r := s.open(t, b, "node")
	appendMany(l, 4, 6)
	flush(t, l)
	r.want(t, 6)
	if end := l.mu.leader.End(); end.OidMark != 500 {
		t.Errorf("%+v", end)
	}
	s.checkpointed(t, l, r)
	if got := names(t, b, CheckpointPrefix); len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func FuzzCheckpoint(f *testing.F) {
	f.Add(sampleCheckpoint().Encode())
	f.Add((&Checkpoint{Number: 1, Position: Start()}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		reseal(b)
		c, err := DecodeCheckpoint("checkpoint", b)
		if err == nil && !bytes.Equal(c.Encode(), b) {
			t.Errorf("decoded and encoded:\n%x\n%x", b, c.Encode())
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add((&head{DatabaseID{1}, 2, 3, 4}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		reseal(b)
		h, err := decodeHead(b)
		if err == nil && !bytes.Equal(h.encode(), b) {
			t.Errorf("decoded and encoded:\n%x\n%x", b, h.encode())
		}
	})
}

// A widthBucket knows how many reads of log objects were under way at once.
type widthBucket struct {
	bucket.Bucket
	mu   sync.Mutex
	now  int
	most int
}

func (b *widthBucket) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	b.mu.Lock()
	b.now++
	b.most = max(b.most, b.now)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.now--
		b.mu.Unlock()
	}()
	if err := bucket.Sleep(ctx, time.Second); err != nil {
		return nil, err
	}
	return b.Bucket.Get(ctx, name, limit)
}

func TestLongTailIsReadWithManyRequestsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, s := bucket.NewMemory(), shelf{}
		l, _ := s.open(t, memory, "first")
		for tid := zodb.Tid(1); tid <= 200; tid++ {
			appendMany(l, tid, tid)
			flush(t, l)
		}
		l.Close()
		b := &widthBucket{Bucket: memory}
		l, r := s.open(t, b, "second")
		r.want(t, 200)
		if b.most != parallel {
			t.Errorf("%d at a time, not %d", b.most, parallel)
		}
		l.Close()
	})
}
