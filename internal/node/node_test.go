package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/buckettest/weakstore"
	"s3storage/internal/engine"
	"s3storage/internal/storagetest"
	"s3storage/internal/txlog"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// A mutex is the lease of nodes in one process.
type mutex struct{ c chan struct{} }

func newMutex() *mutex { return &mutex{make(chan struct{}, 1)} }

// of returns one node's end of it.
func (m *mutex) of() *heldMutex { return &heldMutex{m: m} }

type heldMutex struct {
	m    *mutex
	mu   sync.Mutex
	held bool
}

func (h *heldMutex) Acquire(ctx context.Context) error {
	select {
	case h.m.c <- struct{}{}:
		h.mu.Lock()
		h.held = true
		h.mu.Unlock()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *heldMutex) Release(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held {
		h.held = false
		<-h.m.c
	}
	return nil
}

func (h *heldMutex) Close() error { return nil }

func (h *heldMutex) String() string { return "a mutex" }

// A served node is one with a server on loopback.
type served struct {
	*Node
	t       testing.TB
	server  *zeo.Server
	address string
	once    sync.Once
}

func serve(t testing.TB, b bucket.Bucket, l Lease, name string, change ...func(*Options)) *served {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := io.Discard
	if testing.Verbose() {
		out = t.Output()
	}
	logger := slog.New(slog.NewTextHandler(out, nil)).With("node", name)
	opts := Options{
		Engine:  engine.Options{Node: name, Address: listener.Addr().String(), Creator: "test", Logger: logger},
		Storage: "1", Wait: 10 * time.Second,
		OpenLease: func(txlog.DatabaseID) (Lease, error) { return l, nil },
	}
	for _, c := range change {
		c(&opts)
	}
	n, err := Open(t.Context(), b, opts)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{Node: n, t: t, address: listener.Addr().String()}
	s.server = zeo.NewServer(map[string]zodb.Storage{"1": n}, zeo.Options{Logger: logger})
	done := make(chan error, 1)
	go func() { done <- s.server.Serve(listener, zeo.Access{}) }()
	t.Cleanup(func() {
		s.stop()
		<-done
	})
	return s
}

// stop stops the node in order.
func (s *served) stop() {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.HandOver(ctx)
		if err := s.server.Shutdown(ctx); err != nil {
			s.t.Error(err)
		}
		if err := s.Close(ctx); err != nil {
			s.t.Error(err)
		}
	})
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// cluster serves a bucket with some nodes; the first one leads.
func cluster(t testing.TB, b bucket.Bucket, count int) []*served {
	t.Helper()
	return clusterOn(t, func() bucket.Bucket { return b }, count)
}

// clusterOn is a cluster in which each node opens the bucket for itself.
func clusterOn(t testing.TB, open func() bucket.Bucket, count int) []*served {
	t.Helper()
	m := newMutex()
	var nodes []*served
	for i := range count {
		n := serve(t, open(), m.of(), fmt.Sprintf("node%d", i))
		nodes = append(nodes, n)
		eventually(t, "it leads or follows", func() bool { s := n.Status(); return s.Leads == (i == 0) && s.Linked == (i > 0) })
	}
	return nodes
}

func TestFollowerIsAStorage(t *testing.T) {
	storagetest.Conformance(t, func(t *testing.T) zodb.Storage {
		return cluster(t, bucket.NewMemory(), 2)[1].Node
	},
		// With a grace period of zero, a base may be gone before the follower reads it.
		// It begins anew from a checkpoint then, and cuts its clients off.
		"pack while commits go on")
}

func TestLeaderIsAStorage(t *testing.T) {
	storagetest.Conformance(t, func(t *testing.T) zodb.Storage {
		return cluster(t, bucket.NewMemory(), 2)[0].Node
	})
}

func TestFollowerOnAnEventuallyConsistentStoreIsAStorage(t *testing.T) {
	catalog := weakstore.Start(t)
	storagetest.Conformance(t, func(t *testing.T) zodb.Storage {
		return clusterOn(t, catalog.Buckets(t), 2)[1].Node
	},
		"pack while commits go on") // as above
}

// commit stores an object, over the serial, and returns the new one.
func commit(n zodb.Storage, oid zodb.Oid, serial zodb.Tid, data string) (zodb.Tid, error) {
	t, err := n.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, nil)
	if err != nil {
		return 0, err
	}
	defer t.Abort()
	if err := t.Store(oid, serial, []byte(data)); err != nil {
		return 0, err
	}
	ballot, err := t.Vote(context.Background())
	if err == nil && len(ballot.Conflicts) > 0 {
		c := ballot.Conflicts[0]
		err = &zodb.ConflictError{Oid: c.Oid, Committed: c.Committed, Read: c.Read}
	}
	if err != nil {
		return 0, err
	}
	type result struct {
		tid zodb.Tid
		err error
	}
	done := make(chan result, 1)
	t.Finish(func(c *zodb.Commit, err error) {
		if err != nil {
			done <- result{0, err}
			return
		}
		done <- result{c.Tid, nil}
	})
	r := <-done
	return r.tid, r.err
}

func TestNodesSeeOneDatabase(t *testing.T) {
	nodes := cluster(t, bucket.NewMemory(), 3)
	serial := zodb.NoTid
	for i := range 60 {
		n := nodes[i%3]
		var err error
		if serial, err = commit(n, 1, serial, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		rev, _, err := n.LoadBefore(t.Context(), 1, zodb.MaxTid)
		if err != nil || string(rev.Data) != fmt.Sprint(i) || rev.Serial != serial {
			t.Fatalf("the node that committed %d sees %q of %s, %v", i, rev.Data, rev.Serial, err)
		}
		// A client that goes to another node has it wait for what it has seen.
		other := nodes[(i+1)%3]
		if err := other.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if last := other.LastTransaction(); last < serial {
			t.Fatalf("after %d, %s, the next node is at %s", i, serial, last)
		}
	}
}

// A leader whose put has no answer is the last to know that it stands.
func TestWhatAFollowerHasReadInTheBucketIsSeenAtTheLeaderToo(t *testing.T) {
	memory, m := bucket.NewMemory(), newMutex()
	b := faults.New(memory, faults.Config{})
	leader := serve(t, b, m.of(), "leader")
	follower := serve(t, memory, m.of(), "follower")
	third := serve(t, memory, m.of(), "third")
	for _, n := range []*served{follower, third} {
		eventually(t, "it follows", func() bool { return n.Status().Linked })
	}
	b.Script(
		faults.Rule{Kind: bucket.KindPutIfAbsent, Prefix: txlog.Prefix, Fault: faults.Fault{Action: faults.Lost}},
		faults.Rule{Kind: bucket.KindPutIfAbsent, Prefix: txlog.Prefix, Times: -1, Fault: faults.Fault{Action: faults.Never}},
	)
	committed := make(chan error, 1)
	go func() {
		_, err := commit(leader, 1, zodb.NoTid, "state")
		committed <- err
	}()
	eventually(t, "the follower sees it", func() bool {
		follower.Log().Look()
		return follower.LastTransaction() > 0
	})
	seen := follower.LastTransaction()
	var wg sync.WaitGroup
	for _, n := range []*served{leader, third} {
		wg.Go(func() {
			if err := n.Sync(t.Context()); err != nil {
				t.Error(err)
			}
			if last := n.LastTransaction(); last < seen {
				t.Errorf("a client that comes from the follower, at %s, finds %s", seen, last)
			}
		})
	}
	time.AfterFunc(100*time.Millisecond, b.ClearScript) // were it sooner, the mistake might not be seen
	wg.Wait()
	if err := <-committed; err != nil {
		t.Error(err)
	}
}

func TestAFollowerLeavesALeaderThatDoesNotKnowOfItsSuccessor(t *testing.T) {
	memory := bucket.NewMemory()
	b := faults.New(memory, faults.Config{})
	first, honest := serve(t, b, newMutex().of(), "first"), newMutex()
	defer b.ClearScript()
	follower := serve(t, memory, honest.of(), "follower", func(o *Options) { o.Reluctance = func() time.Duration { return time.Hour } })
	eventually(t, "it follows", func() bool { return follower.Status().Linked })
	for _, kind := range []bucket.Kind{bucket.KindGet, bucket.KindGetRange} {
		b.Script(faults.Rule{Kind: kind, Prefix: txlog.Prefix, Times: -1, Fault: faults.Fault{Action: faults.Error500}})
	}
	second := serve(t, memory, honest.of(), "second", func(o *Options) {
		o.Dial = func(context.Context, string, zeo.ClientOptions) (*zeo.Client, error) { return nil, io.ErrUnexpectedEOF }
	})
	eventually(t, "there is another leader", func() bool { return second.Status().Leads })
	eventually(t, "it is followed", func() bool {
		follower.Log().Look()
		s := follower.Status()
		return s.Linked && s.Leader.Name == "second" && len(second.server.Followers("1")) == 1
	})
	if !first.Status().Leads {
		t.Error("the first one knows")
	}
}

func TestALeaderThatCannotWriteIsReplaced(t *testing.T) {
	memory, m := bucket.NewMemory(), newMutex()
	b := faults.New(memory, faults.Config{})
	first := serve(t, b, m.of(), "first")
	follower := serve(t, memory, m.of(), "follower")
	eventually(t, "it follows", func() bool { return follower.Status().Linked })
	serial, err := commit(follower, 1, zodb.NoTid, "state")
	if err != nil {
		t.Fatal(err)
	}
	defer b.ClearScript()
	b.Script(faults.Rule{Kind: bucket.KindPutIfAbsent, Prefix: txlog.Prefix, Times: -1, Fault: faults.Fault{Action: faults.Never}})
	// Nobody knows of it before the first one is known to lead no more.
	if _, err := commit(follower, 1, serial, "lost"); !errors.Is(err, zodb.ErrNotCommitted) {
		t.Errorf("what the first one could not write: %v", err)
	}
	if _, err := commit(follower, 1, serial, "next"); err != nil {
		t.Errorf("at the next one: %v", err)
	}
	if !follower.Status().Leads {
		t.Error("it does not lead")
	}
	b.ClearScript()
	eventually(t, "the first one follows", func() bool { return first.Status().Linked })
}

func TestALeaderThatCanWriteAgainHasTheLeaseAgain(t *testing.T) {
	b := faults.New(bucket.NewMemory(), faults.Config{})
	l := newMutex().of()
	n := serve(t, b, l, "alone")
	serial, err := commit(n, 1, zodb.NoTid, "state")
	if err != nil {
		t.Fatal(err)
	}
	held := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.held
	}
	b.Script(faults.Rule{Kind: bucket.KindPutIfAbsent, Prefix: txlog.Prefix, Times: -1, Fault: faults.Fault{Action: faults.Error500}})
	committed := make(chan error, 1)
	go func() {
		_, err := commit(n, 1, serial, "next")
		committed <- err
	}()
	eventually(t, "it lets go of the lease", func() bool { return !held() })
	b.ClearScript()
	if err := <-committed; err != nil {
		t.Error(err)
	}
	eventually(t, "it has the lease", held)
}

func TestConflictOnAFollowerIsToldWhenItCanBeSeenThere(t *testing.T) {
	nodes := cluster(t, bucket.NewMemory(), 3)
	serial, err := commit(nodes[0], 1, zodb.NoTid, "first")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		next, err := commit(nodes[1], 1, serial, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		var conflict *zodb.ConflictError
		if _, err := commit(nodes[2], 1, serial, "stale"); !errors.As(err, &conflict) || conflict.Committed != next {
			t.Fatalf("%v", err)
		}
		if _, err := nodes[2].LoadSerial(t.Context(), 1, next); err != nil {
			t.Fatalf("what it conflicts with is not there: %v", err)
		}
		serial = next
	}
}

func TestALinkIsClosedAlsoWhenTheLeaderDoesNotAnswerAFinish(t *testing.T) {
	nodes := cluster(t, bucket.NewMemory(), 2)
	link := func() *link {
		nodes[1].mu.Lock()
		defer nodes[1].mu.Unlock()
		return nodes[1].mu.link
	}
	l := link()
	c, err := l.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end := l.beginFinish() // as the call does, until its connection is at its end
	var wg sync.WaitGroup
	wg.Go(func() {
		for c.Err() == nil && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		end()
	})
	if _, err := commit(nodes[0], 1, zodb.NoTid, "state"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the silence is heard, and there is another link", func() bool { now := link(); return now != nil && now != l })
	wg.Wait()
}

func TestNoUpdateIsLostWhileLeadersChange(t *testing.T) {
	b := bucket.NewMemory()
	m := newMutex()
	nodes := make([]*served, 3)
	var mu sync.Mutex
	at := func(i int) *served {
		mu.Lock()
		defer mu.Unlock()
		return nodes[i]
	}
	for i := range nodes {
		nodes[i] = serve(t, b, m.of(), fmt.Sprintf("node%d", i))
	}
	if _, err := commit(nodes[0], 1, zodb.NoTid, ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	acknowledged := make([]int, 6)
	for w := range acknowledged {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := at(w % 3)
				rev, _, err := n.LoadBefore(ctx, 1, zodb.MaxTid)
				if err != nil {
					continue
				}
				_, err = commit(n, 1, rev.Serial, string(rev.Data)+string(rune('a'+w)))
				switch {
				case err == nil:
					acknowledged[w]++
				case errors.Is(err, zodb.ErrOutcomeUnknown):
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	for round := range 6 {
		leads := -1
		eventually(t, "somebody leads", func() bool {
			leads = slices.IndexFunc(nodes, func(s *served) bool { return s.Status().Leads })
			return leads >= 0
		})
		before := at((leads + 1) % 3).LastTransaction()
		eventually(t, "commits go on", func() bool { return at((leads+1)%3).LastTransaction() > before })
		if round == 5 {
			break
		}
		nodes[leads].stop()
		again := serve(t, b, m.of(), fmt.Sprintf("node%d", leads))
		mu.Lock()
		nodes[leads] = again
		mu.Unlock()
	}
	cancel()
	wg.Wait()
	last := nodes[0]
	if err := last.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	rev, _, err := last.LoadBefore(t.Context(), 1, zodb.MaxTid)
	if err != nil {
		t.Fatal(err)
	}
	counts := make([]int, len(acknowledged))
	for _, c := range rev.Data {
		counts[c-'a']++
	}
	t.Logf("acknowledged %v, found %v", acknowledged, counts)
	for w := range counts {
		if counts[w] != acknowledged[w] {
			t.Errorf("writer %d: %d acknowledged, %d found", w, acknowledged[w], counts[w])
		}
	}
}

func TestTheReluctantLeadLater(t *testing.T) {
	b, m := bucket.NewMemory(), newMutex()
	leader := serve(t, b, m.of(), "leader")
	reluctant := serve(t, b, m.of(), "reluctant", func(o *Options) { o.Reluctance = func() time.Duration { return time.Minute } })
	other := serve(t, b, m.of(), "other")
	for _, n := range []*served{reluctant, other} {
		eventually(t, "it follows", func() bool { return n.Status().Linked })
	}
	leader.stop()
	eventually(t, "the other one leads", func() bool { return other.Status().Leads })
	eventually(t, "the reluctant one follows it", func() bool { return reluctant.Status().Linked })
}
