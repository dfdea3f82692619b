package txlog

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/buckettest/weakstore"
	"s3storage/internal/zodb"
)

// A recorder remembers what an observer is told.
type recorder struct {
	mu      sync.Mutex
	bases   map[BaseID][]zodb.Tid // what there is: the transactions in each
	resets  int
	fetched []BaseID
	settled []zodb.Tid
	end     Position
	mark    zodb.Oid
	objects int
	lost    *Lost
	failed  []zodb.Tid
	reigns  int
	ended   []int              // how many were settled when it was told that an epoch is at its end
	tell    func(Slot, []byte) // of what this node has written, if not nil
	leads   func()             // called when this node leads, if not nil
}

func (r *recorder) Reset(_ context.Context, c *Checkpoint) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c != nil && r.bases[c.Base] == nil {
		return bucket.ErrNotExist
	}
	r.resets, r.settled, r.fetched = r.resets+1, nil, nil
	if c != nil {
		r.settled = slices.Clone(r.bases[c.Base])
	}
	return nil
}

func (r *recorder) Fetch(_ context.Context, o *Object) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range o.Entries {
		if e.Base != nil {
			if r.bases[e.Base.ID] == nil {
				return bucket.ErrNotExist
			}
			r.fetched = append(r.fetched, e.Base.ID)
		}
	}
	return nil
}

func (r *recorder) Settled(s Settled) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := s.Object
	r.objects++
	r.end = s.End
	if r.tell != nil && s.Data != nil {
		r.tell(o.Slot, s.Data)
	}
	r.mark = max(r.mark, o.OidMark)
	for _, e := range o.Entries {
		if e.Txn != nil {
			r.settled = append(r.settled, e.Txn.Tid)
		}
	}
}

func (r *recorder) Leads(Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = nil
	r.reigns++
	if r.leads != nil {
		r.leads()
	}
}

func (r *recorder) Ended(e Epoch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e > 1 {
		r.ended = append(r.ended, len(r.settled))
	}
}

func (r *recorder) Deposed(by Lost, failed []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = &by
	for _, e := range failed {
		r.failed = append(r.failed, e.Txn.Tid)
	}
}

func (r *recorder) tids() []zodb.Tid {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.settled)
}

func (r *recorder) deposed() (*Lost, []zodb.Tid) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost, slices.Clone(r.failed)
}

func silent() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func openLog(t *testing.T, b bucket.Bucket, node string) (*Log, *recorder) {
	t.Helper()
	return shelf{}.open(t, b, node)
}

func txnOf(tid zodb.Tid) *Transaction {
	return &Transaction{Tid: tid, Meta: zodb.TxnMeta{Status: ' '},
		Records: []Record{{Oid: 1, Kind: RecordData, Data: []byte("data"), Size: 4}}}
}

func appendMany(l *Log, first, last zodb.Tid) {
	for tid := first; tid <= last; tid++ {
		l.Append(txnOf(tid), 0)
	}
}

func count(first, last zodb.Tid) (tids []zodb.Tid) {
	for tid := first; tid <= last; tid++ {
		tids = append(tids, tid)
	}
	return tids
}

func flush(t *testing.T, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within a minute")
		}
	}
}

func TestTransactionsSettleInOrderAndAreFoundAgain(t *testing.T) {
	b := bucket.NewMemory()
	l, r := openLog(t, b, "first")
	appendMany(l, 1, 500)
	flush(t, l)
	if got := r.tids(); !slices.Equal(got, count(1, 500)) {
		t.Fatalf("settled %v", got)
	}
	if r.objects >= 500 {
		t.Errorf("%d objects for 500 transactions: they do not share", r.objects)
	}
	l.Close()
	l2, r2 := openLog(t, b, "second")
	appendMany(l2, 501, 510)
	flush(t, l2)
	if got := r2.tids(); !slices.Equal(got, count(1, 510)) {
		t.Errorf("read again: %v", got)
	}
}

func TestCommitsGoOnThroughEveryFaultOfTheBucket(t *testing.T) {
	t.Run("memory", func(t *testing.T) { goOnThroughFaults(t, bucket.NewMemory()) })
	t.Run("eventually consistent store", func(t *testing.T) { goOnThroughFaults(t, weakstore.Start(t).Buckets(t)()) })
}

func goOnThroughFaults(t *testing.T, whole bucket.Bucket) {
	config, err := faults.Parse("seed=7,delay=0.2:1ms..5ms,lost=0.1,late=0.1:1ms..50ms,never=0.05,409=0.05,500=0.05,503=0.05,truncate=0.05,flip=0.05")
	if err != nil {
		t.Fatal(err)
	}
	b := faults.New(whole, config)
	defer b.Close()
	s := shelf{}
	for round := zodb.Tid(0); round < 5; round++ {
		l, r := s.open(t, b, "node")
		for tid := round*100 + 1; tid <= round*100+100; tid++ {
			l.Append(txnOf(tid), zodb.Oid(tid))
			if tid%7 == 0 {
				flush(t, l)
			}
		}
		flush(t, l)
		if got := r.tids(); !slices.Equal(got, count(1, round*100+100)) {
			t.Fatalf("round %d: %v", round, got)
		}
		s.checkpointed(t, l, r)
		if _, err := l.Trim(t.Context(), 0); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		l.Close()
	}
	b.Wait()
	b.Enable(false)
	l, r := s.open(t, whole, "last")
	if got := r.tids(); !slices.Equal(got, count(1, 500)) || l.mu.leader.End().OidMark < 500 {
		t.Errorf("at last: %v, mark %s", got, l.mu.leader.End().OidMark)
	}
}

func TestSecondServerTakesOverAndTheFirstIsTold(t *testing.T) {
	b := bucket.NewMemory()
	first, r1 := openLog(t, b, "first")
	appendMany(first, 1, 50)
	flush(t, first)
	second, r2 := openLog(t, b, "second")
	appendMany(first, 51, 60)
	appendMany(second, 101, 110)
	flush(t, first)
	flush(t, second)
	lost, failed := r1.deposed()
	if lost == nil || lost.By.Name != "second" {
		t.Errorf("the first was told %+v", lost)
	}
	if !slices.Equal(failed, count(51, 60)) {
		t.Errorf("the first: failed %v", failed)
	}
	want := append(count(1, 50), count(101, 110)...)
	if lost, _ := r2.deposed(); !slices.Equal(r2.tids(), want) || lost != nil {
		t.Errorf("the second: settled %v, lost %v", r2.tids(), lost)
	}
	// Whatever the first tries now fails at once.
	appendMany(first, 61, 62)
	flush(t, first)
	if _, failed := r1.deposed(); !slices.Equal(failed, count(51, 62)) {
		t.Errorf("failed later: %v", failed)
	}
	// And it follows.
	eventually(t, func() bool { return slices.Equal(r1.tids(), want) })
}

func TestIdleLeaderFindsOutThatItWasTakenOverAndFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		first, r1 := openLog(t, b, "first")
		appendMany(first, 1, 5)
		flush(t, first)
		second, _ := openLog(t, b, "second")
		appendMany(second, 6, 10)
		flush(t, second)
		if lost, _ := r1.deposed(); lost != nil {
			t.Fatal("told before it could know")
		}
		time.Sleep(watchEvery + 2*followEvery)
		if lost, _ := r1.deposed(); lost == nil || lost.By.Name != "second" || !slices.Equal(r1.tids(), count(1, 10)) {
			t.Errorf("lost %+v, settled %v", lost, r1.tids())
		}
		third, _ := openLog(t, b, "third")
		appendMany(third, 11, 12)
		flush(t, third)
		time.Sleep(2 * followEvery)
		if !slices.Equal(r1.tids(), count(1, 12)) {
			t.Errorf("settled %v", r1.tids())
		}
		first.Close()
		second.Close()
		third.Close()
	})
}

func TestSlowPutIsHedged(t *testing.T) {
	memory := bucket.NewMemory()
	b := faults.New(memory, faults.Config{})
	defer b.Close()
	l, r := openLog(t, b, "node")
	for tid := zodb.Tid(1); tid <= 10; tid++ { // learns what is usual
		l.Append(txnOf(tid), 0)
		flush(t, l)
	}
	// One put gets no answer before the end of time; a second one does.
	stuck := &stuckBucket{Bucket: b, stick: Name(1, Slot(12)), stuck: make(chan struct{})}
	l.bucket = stuck
	l.Append(txnOf(11), 0)
	flush(t, l)
	if !slices.Equal(r.tids(), count(1, 11)) {
		t.Errorf("%v", r.tids())
	}
	close(stuck.stuck)
}

// A stuckBucket does not answer the first put of a name.
type stuckBucket struct {
	bucket.Bucket
	stick string
	once  sync.Once
	stuck chan struct{}
}

func (b *stuckBucket) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	wait := false
	if name == b.stick {
		b.once.Do(func() { wait = true })
	}
	if wait {
		<-b.stuck
		return errors.New("no answer")
	}
	return b.Bucket.PutIfAbsent(ctx, name, data)
}

func TestOidMarkIsRaisedWithoutATransaction(t *testing.T) {
	b := bucket.NewMemory()
	l, r := openLog(t, b, "node")
	l.RaiseOidMark(1000)
	flush(t, l)
	l.RaiseOidMark(10) // lower: nothing to do
	flush(t, l)
	if r.mark != 1000 || r.objects != 2 {
		t.Errorf("mark %s, %d objects", r.mark, r.objects)
	}
	l.Close()
	if _, r := openLog(t, b, "again"); r.mark != 1000 {
		t.Errorf("mark %s after opening", r.mark)
	}
}

func TestServerWithAWrongClockRefusesToLead(t *testing.T) {
	b := bucket.NewMemory()
	f, err := Create(t.Context(), b, Format{Creator: "test", Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []time.Duration{-time.Minute, time.Minute} {
		_, err := Open(t.Context(), &wrongClock{b, off}, f, &recorder{}, Options{Logger: silent()})
		if err == nil || !strings.Contains(err.Error(), "clock") {
			t.Errorf("%s off: %v", off, err)
		}
	}
}

type wrongClock struct {
	bucket.Bucket
	off time.Duration
}

func (b *wrongClock) Now(context.Context) (time.Time, error) { return time.Now().Add(b.off), nil }

func TestLeaderThatCommitsWithoutPauseIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delays, err := bucket.ParseDelays("all=20ms..40ms")
		if err != nil {
			t.Fatal(err)
		}
		b := bucket.Slow(bucket.NewMemory(), delays, 1)
		first, r1 := openLog(t, b, "first")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			for tid := zodb.Tid(1); ctx.Err() == nil; tid++ {
				first.Append(txnOf(tid), 0)
				time.Sleep(time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		start := time.Now()
		second, r2 := openLog(t, b, "second")
		t.Logf("took over after %s, %d objects", time.Since(start), r2.objects)
		cancel()
		wg.Wait()
		flush(t, first)
		if lost, _ := r1.deposed(); lost == nil || lost.By.Name != "second" {
			t.Errorf("the first lost to %+v", lost)
		}
		if got := r2.tids(); !slices.Equal(got, r1.tids()[:len(got)]) || len(r1.tids()) != len(got) {
			t.Errorf("%d transactions acknowledged by the first, %d found by the second", len(r1.tids()), len(got))
		}
		first.Close()
		second.Close()
	})
}
