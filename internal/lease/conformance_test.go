package lease

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// A system is one that grants leases, for the tests of what a Lease promises.
type system struct {
	open func(t *testing.T, o Options) Lease
	down func(t *testing.T) // nobody can reach it
	up   func(t *testing.T) // it is back, perhaps without what it knew
	lose func(t *testing.T) // it forgets all leases
	life time.Duration      // until a silent holder has lost the lease, at most
}

// timeout of the leases under test. What runs in real time has to live with a
// machine that stands still for a moment.
const timeout = 4 * time.Second

func (s *system) node(t *testing.T, node string) *keeper {
	return s.with(t, Options{Database: databaseOf(t), Node: node, Timeout: timeout})
}

// databaseOf returns a database that no other test has.
func databaseOf(t *testing.T) [16]byte {
	sum := sha256.Sum256([]byte(t.Name()))
	return [16]byte(sum[:16])
}

func (s *system) with(t *testing.T, o Options) *keeper {
	t.Helper()
	o.Address, o.Logger = o.Node+":9999", slog.New(slog.DiscardHandler)
	l := s.open(t, o).(*keeper)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func acquire(t *testing.T, l *keeper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	if !l.Held() {
		t.Fatal("acquired, and yet not held")
	}
}

// refused checks that the lease is not acquired for longer than a silent holder
// keeps it.
func (s *system) refused(t *testing.T, l *keeper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.life+timeout/2)
	defer cancel()
	if err := l.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) || l.Held() {
		t.Fatalf("Acquire: %v, held %v; it should have waited until its context ended", err, l.Held())
	}
}

// until waits until that node, or nobody, is said to hold the lease.
func until(t *testing.T, l *keeper, node string) (h Holder) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		h, err := l.Holder(ctx)
		if err == nil && h.Node == node {
			return h
		}
		if ctx.Err() != nil {
			t.Fatalf("held by %+v, %v; it should be %q", h, err, node)
		}
		pause(ctx, timeout/30)
	}
}

func release(t *testing.T, l *keeper) {
	t.Helper()
	if err := l.Release(t.Context()); err != nil || l.Held() {
		t.Fatalf("Release: %v, held %v", err, l.Held())
	}
}

// A promise is one of those that a Lease makes, tested on a system.
type promise struct {
	name  string
	test  func(t *testing.T, s *system)
	alone bool // it disturbs other tests
}

var promises = []promise{
	{name: "one of many candidates holds it", test: oneOfMany},
	{name: "a live holder keeps it and is known", test: liveHolder},
	{name: "release hands it over at once", test: handsOver},
	{name: "a silent holder loses it and learns that", test: silentHolder},
	{name: "while the system is down the holder keeps it and nobody takes it", test: systemDown, alone: true},
	{name: "what the system forgot the holder takes again", test: forgotten, alone: true},
	{name: "what the system forgot a candidate takes if it comes first", test: forgottenAndTaken, alone: true},
}

// What not all systems can do.
var (
	knowsDatabases = promise{name: "databases are apart", test: databasesApart}
	knowsNodes     = promise{name: "a node that is started again takes its own", test: ownTaken}
)

// conform tests all promises, and those that this system makes besides, in real
// time. Tests that are not alone run side by side when the caller has ended.
func conform(t *testing.T, s *system, besides ...promise) {
	for _, p := range append(besides, promises...) {
		t.Run(p.name, func(t *testing.T) {
			if !p.alone {
				t.Parallel()
			}
			p.test(t, s)
		})
	}
}

func oneOfMany(t *testing.T, s *system) {
	var all []*keeper
	got := make(chan error)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 4 {
		l := s.node(t, fmt.Sprint(i))
		all = append(all, l)
		go func() { got <- l.Acquire(ctx) }()
	}
	for range all {
		if err := <-got; err != nil {
			t.Error(err)
			continue
		}
		var holders []*keeper
		for _, l := range all {
			if l.Held() {
				holders = append(holders, l)
			}
		}
		if len(holders) != 1 {
			t.Errorf("%d nodes hold the lease", len(holders))
		}
		for _, l := range holders {
			if err := l.Release(ctx); err != nil {
				t.Error(err)
			}
		}
	}
}

func liveHolder(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.node(t, "two")
	if h, err := two.Holder(t.Context()); err != nil || h != (Holder{}) {
		t.Fatalf("Holder of a free lease: %+v, %v", h, err)
	}
	acquire(t, one)
	acquire(t, one) // does nothing
	s.refused(t, two)
	if h, err := two.Holder(t.Context()); err != nil || h.Node != "one" || h.Address != "one:9999" || h.Since.IsZero() {
		t.Fatalf("Holder: %+v, %v", h, err)
	}
	if !one.Held() {
		t.Fatal("the holder lost the lease to a candidate")
	}
	release(t, two) // does nothing
	until(t, two, "one")
}

func handsOver(t *testing.T, s *system) {
	o := Options{Database: databaseOf(t), Timeout: 5 * time.Minute} // much longer than acquire waits
	o.Node = "one"
	one := s.with(t, o)
	o.Node = "two"
	two := s.with(t, o)
	acquire(t, one)
	release(t, one)
	until(t, one, "")
	acquire(t, two)
	if one.Held() {
		t.Error("the lease is held by the node that released it")
	}
	release(t, two)
}

func silentHolder(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.node(t, "two")
	acquire(t, one)
	one.end() // as if it were paused: nothing is sent, connections stay open
	acquire(t, two)
	one.start() // it goes on
	<-one.done
	if one.Held() || !two.Held() {
		t.Errorf("held by the old holder: %v, by the new one: %v", one.Held(), two.Held())
	}
	release(t, two)
	acquire(t, one)
}

func systemDown(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.node(t, "two")
	acquire(t, one)
	s.down(t)
	s.refused(t, two)
	if _, err := two.Holder(t.Context()); err == nil {
		t.Error("Holder knows an answer while the system is down")
	}
	if !one.Held() {
		t.Fatal("the holder lost the lease because the system was down")
	}
	s.up(t)
	until(t, two, "one")
	s.refused(t, two)
	if !one.Held() {
		t.Fatal("the holder lost the lease when the system was back")
	}
}

func forgotten(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.node(t, "two")
	acquire(t, one)
	s.lose(t)
	until(t, two, "one")
	s.refused(t, two)
	if !one.Held() {
		t.Error("the holder lost the lease")
	}
}

func forgottenAndTaken(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.node(t, "two")
	acquire(t, one)
	one.end()
	s.lose(t)
	acquire(t, two)
	one.start()
	<-one.done
	if one.Held() || !two.Held() {
		t.Errorf("held by the old holder: %v, by the new one: %v", one.Held(), two.Held())
	}
}

func databasesApart(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.with(t, Options{Database: [16]byte{9}, Node: "two", Timeout: timeout})
	acquire(t, one)
	acquire(t, two)
	if !one.Held() {
		t.Error("the lease of one database was lost to another database")
	}
}

func ownTaken(t *testing.T, s *system) {
	o := Options{Database: databaseOf(t), Timeout: 5 * time.Minute, Node: "one"}
	before := s.with(t, o)
	acquire(t, before)
	before.end()
	acquire(t, s.with(t, o))
}
