package txlog

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

var (
	simSeeds = flag.Int("sim.seeds", 100, "how many schedules the simulation of the log runs")
	simSeed  = flag.Uint64("sim.seed", 0, "run only the schedule of this seed")
)

// A world is a store, and nodes that fight over the log in it. Everything that
// happens is chosen by one generator: a seed is a schedule. Nodes run the real
// Leader and the real takeOver; only the I/O is simulated: every put may be
// slow, be done twice, land after its node has died, or lose its reply.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	db    DatabaseID
	store map[string][]byte
	nodes []*simNode
	calls []*simCall // under way
	made  int        // transactions
	depth int        // of takeovers that interrupt each other

	acked  map[zodb.Tid]bool
	failed map[zodb.Tid]bool

	// trusting has nodes take a put without reply for one that succeeded: the
	// mistake that this simulation must be able to find.
	trusting bool

	problems []string
}

type simNode struct {
	leader  *Leader
	lastTid zodb.Tid
	dead    bool
}

type simCall struct {
	node   *simNode
	action Action
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t:      t,
		rng:    rand.New(rand.NewPCG(seed, 0)),
		store:  map[string][]byte{},
		acked:  map[zodb.Tid]bool{},
		failed: map[zodb.Tid]bool{},
	}
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// step lets one thing happen.
func (w *world) step() {
	time.Sleep(time.Duration(w.rng.IntN(30)) * time.Millisecond)
	if w.chance(2) {
		time.Sleep(watchEvery)
	}
	switch n := w.rng.IntN(100); {
	case n < 4 && w.depth < 2:
		w.takeOver()
	case n < 6 && len(w.nodes) > 0:
		w.nodes[w.rng.IntN(len(w.nodes))].dead = true
	case n < 40 && len(w.nodes) > 0:
		w.commit(w.nodes[w.rng.IntN(len(w.nodes))])
	case len(w.calls) > 0:
		w.perform(w.rng.IntN(len(w.calls)))
	}
	w.drive()
}

// drive lets all living nodes start what they want done.
func (w *world) drive() {
	for _, n := range w.nodes {
		if n.dead {
			continue
		}
		for _, o := range n.leader.Settled() {
			for _, e := range o.Entries {
				w.acked[e.Txn.Tid] = true
			}
		}
		if lost, entries := n.leader.Lost(); lost != nil {
			n.dead = true
			for _, e := range entries {
				w.failed[e.Txn.Tid] = true
			}
			continue
		}
		actions, _ := n.leader.Next(time.Now())
		for _, a := range actions {
			w.calls = append(w.calls, &simCall{n, a})
		}
	}
}

func (w *world) commit(n *simNode) {
	if n.dead {
		return
	}
	w.made++
	// No two nodes ever use one tid, so that each names one transaction.
	n.lastTid = max(n.lastTid+1, zodb.Tid(w.made)<<8) | zodb.Tid(slices.Index(w.nodes, n)&0xff)
	n.leader.Append(Entry{Txn: &Transaction{Tid: n.lastTid, Meta: zodb.TxnMeta{Status: ' '}, Records: []Record{
		{Oid: 1, Kind: RecordData, Data: []byte("x"), Size: 1}}}})
	if w.chance(10) {
		n.leader.RaiseOidMark(n.leader.mark + 10)
	}
}

// perform lets a call that is under way get on.
func (w *world) perform(i int) {
	c := w.calls[i]
	a := c.action
	forget := func() { w.calls = slices.Delete(w.calls, i, i+1) }
	now := time.Now()
	reply := func(outcome PutOutcome) {
		if !c.node.dead {
			c.node.leader.PutDone(now, a.Slot, outcome)
		}
	}
	if a.Kind == ActionWatch {
		forget()
		if !c.node.dead {
			_, there := w.store[a.Name]
			c.node.leader.WatchDone(now, a.Slot, there && !w.chance(20), "")
		}
		return
	}
	if a.Kind == ActionRead {
		forget()
		if c.node.dead {
			return
		}
		data, there := w.store[a.Name]
		if there && !w.chance(20) {
			id, err := decodePutID(a.Name, data)
			c.node.leader.ReadDone(now, a.Slot, id, err == nil, "")
		} else {
			c.node.leader.ReadDone(now, a.Slot, PutID{}, false, "")
		}
		return
	}
	unknown := PutUnknown
	if w.trusting {
		unknown = PutStands
	}
	switch n := w.rng.IntN(100); {
	case n < 60: // as it should be
		forget()
		if w.put(a.Name, a.Data) {
			reply(PutStands)
		} else {
			reply(PutTaken)
		}
	case n < 70: // the reply is lost
		forget()
		w.put(a.Name, a.Data)
		reply(unknown)
	case n < 80: // the request is lost
		forget()
		reply(unknown)
	case n < 90: // given up, but it will still happen
		reply(unknown)
		w.calls[i] = &simCall{&simNode{dead: true}, a}
	default: // happens, and again later
		w.put(a.Name, a.Data)
	}
}

func (w *world) put(name string, data []byte) bool {
	if _, taken := w.store[name]; taken {
		return false
	}
	w.store[name] = data
	return true
}

// takeOver starts a node. Whatever it does with the store, others may be
// faster: between any two calls the world goes on.
func (w *world) takeOver() {
	w.depth++
	defer func() { w.depth-- }()
	p := Start()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	b := &simBucket{world: w, dies: 1 + w.rng.IntN(60), cancel: cancel}
	see := func(*Object) error { return nil }
	err := walk(ctx, b, w.db, &p, false, see)
	if err == nil {
		err = takeOver(ctx, b, w.db, &p, "node", false, see)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.problems = append(w.problems, err.Error())
		}
		return
	}
	w.nodes = append(w.nodes, &simNode{leader: NewLeader(Config{MaxFlight: 4}, w.db, p), lastTid: p.LastTid})
}

// A simBucket is the store as a candidate sees it.
type simBucket struct {
	bucket.Bucket
	world  *world
	dies   int                // after so many calls
	cancel context.CancelFunc // nil for one who only looks
}

var errLost = errors.New("no reply")

func (b *simBucket) call() error {
	if b.cancel == nil {
		return nil // the end of the world
	}
	for range b.world.rng.IntN(6) {
		b.world.step()
	}
	if b.dies--; b.dies == 0 {
		b.cancel()
	}
	if b.dies <= 0 {
		return context.Canceled
	}
	return nil
}

func (b *simBucket) Properties() bucket.Properties { return bucket.Properties{Location: "world"} }

func (b *simBucket) PutIfAbsent(_ context.Context, name string, data []byte) error {
	err := b.call()
	switch n := b.world.rng.IntN(100); {
	case n < 10:
		return errors.Join(errLost, err)
	case n < 20:
		b.world.put(name, data)
		return errors.Join(errLost, err)
	case n < 30:
		b.world.calls = append(b.world.calls, &simCall{&simNode{dead: true}, Action{Kind: ActionPut, Name: name, Data: data}})
		return errors.Join(errLost, err)
	}
	if err != nil {
		return err
	}
	if !b.world.put(name, data) {
		return bucket.ErrExist
	}
	return nil
}

func (b *simBucket) Get(_ context.Context, name string, _ int64) ([]byte, error) {
	if err := b.call(); err != nil {
		return nil, err
	}
	data, there := b.world.store[name]
	if !there {
		return nil, bucket.ErrNotExist
	}
	return data, nil
}

func (b *simBucket) List(_ context.Context, prefix, after string, fn func(bucket.Info) error) error {
	if err := b.call(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(b.world.store)) {
		if strings.HasPrefix(name, prefix) && name > after {
			if err := fn(bucket.Info{Name: name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// run runs a schedule and returns what went wrong in the end.
func (w *world) run(steps int) []string {
	for range steps {
		w.step()
	}
	// Every node dies; what is under way may yet land.
	for _, n := range w.nodes {
		n.dead = true
	}
	for len(w.calls) > 0 {
		if i := w.rng.IntN(len(w.calls)); w.chance(50) {
			w.perform(i)
		} else {
			w.calls = slices.Delete(w.calls, i, i+1)
		}
	}
	w.nodes = nil
	found := map[zodb.Tid]bool{}
	p := Start()
	err := walk(w.t.Context(), &simBucket{world: w}, w.db, &p, false, func(o *Object) error {
		for _, e := range o.Entries {
			if e.Txn != nil {
				found[e.Txn.Tid] = true
			}
		}
		return nil
	})
	if err != nil {
		w.problems = append(w.problems, err.Error())
	}
	for tid := range w.acked {
		if !found[tid] {
			w.problems = append(w.problems, fmt.Sprintf("%s was acknowledged and is lost", tid))
		}
	}
	for tid := range w.failed {
		if found[tid] {
			w.problems = append(w.problems, fmt.Sprintf("%s was reported to have failed and is there", tid))
		}
	}
	return w.problems
}

func TestLogLosesNoAcknowledgedTransactionInAnySchedule(t *testing.T) {
	first, last := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	acked, failed, takeovers := 0, 0, 0
	for seed := first; seed <= last; seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			for _, p := range w.run(400) {
				t.Errorf("-sim.seed=%d: %s", seed, p)
			}
			acked += len(w.acked)
			failed += len(w.failed)
			for name := range w.store {
				if o, err := Decode(name, w.store[name]); err == nil && o.Seal() != nil {
					takeovers++
				}
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d schedules: %d takeovers, %d transactions acknowledged, %d failed", last-first+1, takeovers, acked, failed)
	if *simSeed == 0 && (acked == 0 || failed == 0 || takeovers == 0) {
		t.Error("the schedules do not show what they are for")
	}
}

func TestSimulationFindsThatUnknownOutcomesWereTrusted(t *testing.T) {
	for seed := uint64(1); seed <= 100; seed++ {
		found := false
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			w.trusting = true
			found = len(w.run(400)) > 0
		})
		if found {
			return
		}
	}
	t.Error("a leader that trusts puts without reply lost nothing in 100 schedules")
}
