package txlog

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/zodb"
)

var (
	simSeeds = flag.Int("sim.seeds", 100, "how many schedules the simulation of the log runs")
	simSeed  = flag.Uint64("sim.seed", 0, "run only the schedule of this seed")
)

// A world is a store, and nodes that fight over the log in it. Everything that
// happens is chosen by one generator: a seed is a schedule. Nodes run the real
// Leader, and the real code that takes over, writes checkpoints and trims; only
// the I/O is simulated: every put may be slow, be done twice, land after its node
// has died, or lose its reply. There is no grace period: what a checkpoint has
// made needless is deleted at once, bases too.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	db    DatabaseID
	store map[string][]byte
	nodes []*simNode
	calls []*simCall // under way
	made  int        // transactions
	steps int        // so far
	depth int        // of takeovers and the like that interrupt each other
	bases map[BaseID][]zodb.Tid

	checkpoints, trimmed int // how often

	acked  map[zodb.Tid]bool
	failed map[zodb.Tid]bool

	// trusting has nodes take a put without reply for one that succeeded: the
	// mistake that this simulation must be able to find.
	trusting bool
	// trimsSeals and blind are others: seals are deleted too; and a node that
	// takes over sees no newer checkpoint once it has put a seal.
	trimsSeals, blind bool

	problems []string
}

// A simCall is a call under way. One of a dead node still has its effect.
type simCall struct {
	node   *simNode
	action Action
	late   func() // if not nil, all that it does
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t:      t,
		rng:    rand.New(rand.NewPCG(seed, 0)),
		store:  map[string][]byte{},
		acked:  map[zodb.Tid]bool{},
		failed: map[zodb.Tid]bool{},
		bases:  map[BaseID][]zodb.Tid{},
	}
}

// someNode returns a node, rather one that began to lead of late.
func (w *world) someNode() *simNode {
	if w.chance(50) {
		return w.nodes[len(w.nodes)-1]
	}
	return w.nodes[w.rng.IntN(len(w.nodes))]
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// step lets one thing happen.
func (w *world) step() {
	w.steps++
	time.Sleep(time.Duration(w.rng.IntN(30)) * time.Millisecond)
	if w.chance(2) {
		time.Sleep(watchEvery)
	}
	switch n := w.rng.IntN(100); {
	case n < 4 && w.depth < 2:
		w.takeOver()
	case n < 6 && len(w.nodes) > 0:
		w.someNode().dead = true
	case n < 7 && len(w.nodes) > 0:
		w.someNode().asleep = w.steps + w.rng.IntN(200)
	case n < 11 && len(w.nodes) > 0:
		w.flush(w.someNode())
	case n < 20 && w.depth < 2 && len(w.nodes) > 0:
		w.checkpoint(w.someNode())
	case n < 24 && w.depth < 2 && len(w.nodes) > 0:
		w.trim(w.someNode())
	case n < 45 && len(w.nodes) > 0:
		w.commit(w.someNode())
	case n < 80 && len(w.calls) > 0:
		w.perform(len(w.calls) - 1) // so that some take very long
	case len(w.calls) > 0:
		w.perform(w.rng.IntN(len(w.calls)))
	}
	w.drive()
}

// drive lets all living nodes start what they want done.
func (w *world) drive() {
	for _, n := range w.nodes {
		if n.dead || n.deposed || w.steps < n.asleep {
			continue
		}
		for _, s := range n.leader.Settled() {
			n.Settled(s)
			s.Object.adopt(n.adopted)
			for _, e := range s.Object.Entries {
				if e.Txn != nil {
					w.acked[e.Txn.Tid] = true
				} else {
					n.todo = append(n.todo, e.Base.ID)
				}
			}
		}
		if lost, entries := n.leader.Lost(); lost != nil {
			n.deposed = true
			for _, e := range entries {
				if e.Txn != nil {
					w.failed[e.Txn.Tid] = true
				}
			}
			continue
		}
		actions, _ := n.leader.Next(time.Now())
		for _, a := range actions {
			w.calls = append(w.calls, &simCall{node: n, action: a})
		}
	}
}

func (w *world) commit(n *simNode) {
	if n.dead || n.deposed {
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

// flush has a node make a base of what it knows, or of what it knew a while ago.
func (w *world) flush(n *simNode) {
	if n.dead || n.deposed {
		return
	}
	at := n.places[len(n.places)-1-w.rng.IntN(min(3, len(n.places)))]
	for _, p := range n.bases {
		if p.Slot > at.p.Slot {
			return // each accounts for at least as much as the one before
		}
	}
	if n.newest != nil && n.newest.Position.Slot > at.p.Slot {
		return
	}
	w.made++
	var id BaseID
	binary.BigEndian.PutUint64(id[:], uint64(w.made))
	w.bases[id] = slices.Clone(n.tids[:at.tids])
	n.bases[id] = at.p
	n.leader.Append(Entry{Base: &BaseChange{ID: id, Why: BaseFlush}})
}

// checkpoint has a node write a checkpoint. A deposed one may still do so.
func (w *world) checkpoint(n *simNode) {
	if n.dead || len(n.todo) == 0 {
		return
	}
	base := n.todo[0]
	n.todo = n.todo[1:]
	ctx, b, done := w.enter(100)
	defer done()
	h := home{b, w.db, 1}
	end := n.leader.End()
	c, err := h.putCheckpoint(ctx, n.newest, base, n.adopted[base], n.bases[base])
	if err != nil {
		if ctx.Err() == nil {
			w.problems = append(w.problems, err.Error())
		}
		n.dead = true // it died over it
		return
	}
	w.checkpoints++
	if n.newest == nil || n.newest.Number < c.Number {
		n.newest = c
		n.leader.Checkpointed(c)
	}
	for id, adopted := range n.adopted {
		if adopted < c.Adopted {
			delete(w.bases, id)
		}
	}
	if err := h.writeHead(ctx, c, end); err != nil && ctx.Err() != nil {
		n.dead = true
	}
}

// trim has a node delete what its newest checkpoint has made needless.
func (w *world) trim(n *simNode) {
	if n.dead || n.newest == nil {
		return
	}
	ctx, b, done := w.enter(200)
	defer done()
	upTo := n.newest.Position
	if _, err := (home{b, w.db, 1}).trim(ctx, upTo, func(Epoch, Slot) bool { return false }, map[string]bool{}); err != nil {
		n.dead = ctx.Err() != nil
		return
	}
	w.trimmed++
	if w.trimsSeals {
		maps.DeleteFunc(w.store, func(name string, _ []byte) bool {
			e, s, ok := parseName(name)
			return ok && e <= upTo.Epoch && s < upTo.Slot
		})
	}
}

// enter returns the store as one node sees it that does several calls, others
// coming in between, and that dies after at most that many.
func (w *world) enter(calls int) (context.Context, *simBucket, func()) {
	w.depth++
	ctx, cancel := context.WithCancel(w.t.Context())
	return ctx, &simBucket{world: w, dies: 1 + w.rng.IntN(calls), cancel: cancel}, func() { w.depth--; cancel() }
}

// perform lets a call that is under way get on.
func (w *world) perform(i int) {
	c := w.calls[i]
	a := c.action
	forget := func() { w.calls = slices.Delete(w.calls, i, i+1) }
	if c.late != nil {
		forget()
		c.late()
		return
	}
	if w.steps < c.node.asleep && !c.node.dead {
		return
	}
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
			c.node.leader.WatchDone(now, a.Slot, there && !w.chance(20), Node{})
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
			c.node.leader.ReadDone(now, a.Slot, id, err == nil, Node{})
		} else {
			c.node.leader.ReadDone(now, a.Slot, PutID{}, false, Node{})
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
		w.calls[i] = &simCall{node: &simNode{dead: true}, action: a}
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
	ctx, b, done := w.enter(60)
	defer done()
	b.blind = w.blind
	acked := maps.Clone(w.acked) // before; later ones may lie behind its seal
	n := &simNode{world: w, bases: map[BaseID]Position{}}
	walker := newWalker(home{b, w.db, 1}, n)
	err := walker.begin(ctx)
	if err == nil {
		err = walker.takeOver(ctx, Node{Name: "node"})
	}
	if err != nil {
		if ctx.Err() == nil {
			w.problems = append(w.problems, err.Error())
		}
		return
	}
	w.knows("a node that took over", n, acked)
	n.newest, n.adopted = walker.checkpoint, walker.adopted
	n.leader, n.lastTid = NewLeader(Config{MaxFlight: 4}, w.db, walker.p), walker.p.LastTid
	if n.newest != nil {
		n.leader.Checkpointed(n.newest)
	}
	w.nodes = append(w.nodes, n)
}

// knows looks whether a node knows transactions that were acknowledged.
func (w *world) knows(who string, n *simNode, acked map[zodb.Tid]bool) {
	for tid := range acked {
		if !slices.Contains(n.tids, tid) {
			w.problems = append(w.problems, fmt.Sprintf("%s was acknowledged, and is lost to %s", tid, who))
		}
	}
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
	for len(w.calls) > 0 { // their nodes being dead, nothing waits
		if i := w.rng.IntN(len(w.calls)); w.chance(50) {
			w.perform(i)
		} else {
			w.calls = slices.Delete(w.calls, i, i+1)
		}
	}
	w.nodes = nil
	n := &simNode{world: w}
	_, err := Walk(w.t.Context(), &simBucket{world: w}, &Format{Database: w.db},
		func(c *Checkpoint) error { return n.Reset(w.t.Context(), c) },
		func(o *Object, end Position) error {
			n.Settled(Settled{Object: o, End: end})
			return nil
		})
	if err != nil {
		w.problems = append(w.problems, err.Error())
	}
	w.knows("a reader in the end", n, w.acked)
	for tid := range w.failed {
		if slices.Contains(n.tids, tid) {
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
	acked, failed, takeovers, checkpoints, trimmed := 0, 0, 0, 0, 0
	for seed := first; seed <= last; seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			for _, p := range w.run(400) {
				t.Errorf("-sim.seed=%d: %s", seed, p)
			}
			acked += len(w.acked)
			failed += len(w.failed)
			checkpoints += w.checkpoints
			trimmed += w.trimmed
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
	t.Logf("%d schedules: %d takeovers, %d checkpoints, %d times trimmed, %d transactions acknowledged, %d failed",
		last-first+1, takeovers, checkpoints, trimmed, acked, failed)
	if *simSeed == 0 && (acked == 0 || failed == 0 || takeovers == 0 || checkpoints == 0 || trimmed == 0) {
		t.Error("the schedules do not show what they are for")
	}
}

func TestSimulationFindsTheMistakesThatTheRulesAreThereToPrevent(t *testing.T) {
	for mistake, make := range map[string]func(*world){
		"unknown outcomes are trusted": func(w *world) { w.trusting = true },
		"seals are deleted":            func(w *world) { w.trimsSeals = true },
		"no second look":               func(w *world) { w.blind = true },
	} {
		found := ""
		for seed := uint64(1); seed <= 1000 && found == ""; seed++ {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, seed)
				make(w)
				for _, p := range w.run(400) {
					if strings.Contains(p, "acknowledged") {
						found = fmt.Sprintf("seed %d: %s", seed, p)
					}
				}
			})
		}
		if found == "" {
			t.Errorf("%s: nothing was lost in 1000 schedules", mistake)
		}
		t.Logf("%s: %s", mistake, found)
	}
}
