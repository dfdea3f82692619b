package txlog

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// follow opens a log that follows.
func follow(t *testing.T, b bucket.Bucket, node string) (*Log, *recorder) {
	t.Helper()
	f, err := ReadFormat(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	l, err := Follow(t.Context(), b, f, r, Options{Node: Node{Name: node}, Logger: silent()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, r
}

func TestFollowerReadsWhatThereIsAndWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		leader, r1 := openLog(t, b, "leader")
		appendMany(leader, 1, 10)
		flush(t, leader)
		follower, r := follow(t, b, "follower")
		if got := r.tids(); !slices.Equal(got, count(1, 10)) {
			t.Errorf("at first: %v", got)
		}
		appendMany(leader, 11, 20)
		flush(t, leader)
		time.Sleep(2 * followEvery)
		if got := r.tids(); !slices.Equal(got, count(1, 20)) || follower.End() != leader.End() {
			t.Errorf("later: %v, at %+v, the leader at %+v", got, follower.End(), leader.End())
		}
		if lost, _ := r1.deposed(); lost != nil {
			t.Error("a follower has deposed the leader")
		}
		leader.Close()
		follower.Close()
	})
}

func TestFollowerThatIsToldAsksTheBucketForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		leader, r1 := openLog(t, b, "leader")
		appendMany(leader, 1, 10)
		flush(t, leader)
		o := bucket.Observe(b)
		follower, r := follow(t, o, "follower")
		follower.Poll(0)
		r1.mu.Lock()
		r1.tell = follower.Offer
		r1.mu.Unlock()
		synctest.Wait()
		before := o.Snapshot()
		for tid := zodb.Tid(11); tid <= 100; tid++ {
			appendMany(leader, tid, tid)
			flush(t, leader)
		}
		synctest.Wait()
		if got := r.tids(); !slices.Equal(got, count(1, 100)) {
			t.Errorf("follower: %v", got)
		}
		time.Sleep(time.Hour)
		for k, s := range o.Snapshot().Kinds {
			if n := s.Count - before.Kinds[k].Count; n != 0 {
				t.Errorf("%d calls of kind %s", n, bucket.Kind(k))
			}
		}
		leader.Close()
		follower.Close()
	})
}

func TestFollowerAsksTheBucketForWhatItWasNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		leader, r1 := openLog(t, b, "leader")
		follower, r := follow(t, b, "follower")
		follower.Poll(0)
		n := 0
		r1.mu.Lock()
		r1.tell = func(s Slot, data []byte) {
			switch n++; n % 5 {
			case 0: // lost on the way
			case 1: // damaged
				bad := slices.Clone(data)
				bad[len(bad)/2] ^= 1
				follower.Offer(s, bad)
			case 2: // twice
				follower.Offer(s, data)
				follower.Offer(s, data)
			case 3: // for another slot
				follower.Offer(s+1, data)
				follower.Offer(s, data)
			default:
				follower.Offer(s, data)
			}
		}
		r1.mu.Unlock()
		for tid := zodb.Tid(1); tid <= 52; tid++ {
			appendMany(leader, tid, tid)
			flush(t, leader)
		}
		synctest.Wait()
		if got := r.tids(); !slices.Equal(got, count(1, 52)) {
			t.Errorf("follower: %v", got)
		}
		appendMany(leader, 53, 53)
		r1.mu.Lock()
		r1.tell = nil
		r1.mu.Unlock()
		flush(t, leader)
		follower.Look()
		synctest.Wait()
		if got := r.tids(); !slices.Equal(got, count(1, 53)) {
			t.Errorf("after Look: %v", got)
		}
		leader.Close()
		follower.Close()
	})
}

func TestLeadGoesBackAndForth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		one, r1 := openLog(t, b, "one")
		two, r2 := follow(t, b, "two")
		logs, recorders := []*Log{one, two}, []*recorder{r1, r2}
		tid := zodb.Tid(0)
		for round := range 20 {
			leader, other := logs[round%2], logs[(round+1)%2]
			if round > 0 {
				if err := leader.Lead(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range 5 {
				tid++
				appendMany(leader, tid, tid)
			}
			flush(t, leader)
			// The other one still thinks that it leads: what it appends fails, and
			// no answer to a put of an earlier reign counts in a later one.
			if round > 0 {
				appendMany(other, zodb.Tid(1000+round), zodb.Tid(1000+round))
				flush(t, other)
				if lost, failed := recorders[(round+1)%2].deposed(); lost == nil || failed[len(failed)-1] != zodb.Tid(1000+round) {
					t.Fatalf("round %d: lost %+v, failed %v", round, lost, failed)
				}
			}
		}
		time.Sleep(2 * followEvery)
		for i, r := range recorders {
			if got := r.tids(); !slices.Equal(got, count(1, tid)) {
				t.Errorf("log %d: %v", i, got)
			}
			if r.reigns != 10 {
				t.Errorf("log %d led %d times", i, r.reigns)
			}
		}
		one.Close()
		two.Close()
	})
}

func TestFollowerThatHasComeThroughACheckpointLeadsWithoutBeginningAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, bases := bucket.NewMemory(), shelf{}
		leader, r1 := bases.open(t, b, "leader")
		follower, r := follow(t, b, "follower")
		r.mu.Lock()
		r.bases = bases
		r.mu.Unlock()
		appendMany(leader, 1, 10)
		id, p := bases.flushBase(t, leader, r1)
		appendMany(leader, 11, 20)
		flush(t, leader)
		time.Sleep(2 * followEvery)
		r.want(t, 20)
		if err := leader.WriteCheckpoint(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
		leader.Close()
		if err := follower.Lead(t.Context()); err != nil {
			t.Fatal(err)
		}
		appendMany(follower, 21, 30)
		flush(t, follower)
		r.want(t, 30)
		if r.resets != 1 {
			t.Errorf("it began anew %d times: clients of a node that follows have seen what it forgot", r.resets-1)
		}
		if h, err := follower.readHead(t.Context()); err != nil || h.Checkpoint != 1 {
			t.Errorf("the hint: %+v, %v", h, err)
		}
		follower.Close()
		_, r3 := bases.open(t, b, "third")
		r3.want(t, 30)
	})
}

func TestWhatIsAppendedAsSoonAsANodeLeadsIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		one, _ := openLog(t, b, "one")
		two, r := follow(t, b, "two")
		tid := zodb.Tid(0)
		r.leads = func() {
			tid++
			appendMany(two, tid, tid)
		}
		for range 2 { // for the first time, and after a reign that was lost
			if err := two.Lead(t.Context()); err != nil {
				t.Fatal(err)
			}
			flush(t, two)
			if err := one.Lead(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.tids(); !slices.Equal(got, count(1, 2)) {
			t.Errorf("%v", got)
		}
		one.Close()
		two.Close()
	})
}

func TestLeadEndsWithItsContextOrTheLog(t *testing.T) {
	b := bucket.NewMemory()
	leader, _ := openLog(t, b, "leader")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := leader.Lead(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("one that leads already: %v", err)
	}
	follower, _ := follow(t, b, "follower")
	follower.Close()
	if err := follower.Lead(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("one that was closed: %v", err)
	}
}
