package simulation

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/engine"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A world is what one schedule happens in. What happens by chance is drawn from its
// seed, and from who is to do something, or from which object of the store for the how
// manieth time: never from the order in which goroutines run.
type world struct {
	seed       uint64
	plan       plan
	weak       weakness
	log        io.Writer // of the nodes
	started    time.Time
	memory     *bucket.Memory
	reigns     *reigns
	net        *network
	leases     leases
	hosts      []*host
	clients    []*client
	history    *history
	background sync.WaitGroup // writes that nobody waits for, and hosts that start
	quiet      chan struct{}  // closed when clients are to stop
	ended      chan struct{}  // closed when hosts are
}

// A plan is what a seed says before anything happens.
type plan struct {
	hosts, clients int  // of each host
	empty          bool // the nodes have to make the database
	length         time.Duration
	think          time.Duration // at most, between transactions
	size           int           // of data, at most
	rates          string        // of faults
	latency        time.Duration // at most, of the network
	flushObjects   int
	maxInline      int
	grace          time.Duration
	sweepAfter     time.Duration
	events         []event
}

// An event is something that goes wrong, and for how long.
type event struct {
	at, lasts time.Duration
	what      string
	host      int // -1: the one that leads
	other     int
	ahead     time.Duration
}

func (w *world) random(of ...any) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, of...)
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func (w *world) makePlan() {
	rng := w.random("plan")
	p := plan{
		hosts: pick(rng, 2, 2, 3), clients: pick(rng, 1, 1, 2),
		length:       time.Duration(2+rng.IntN(10)) * time.Second,
		empty:        rng.IntN(10) == 0,
		think:        pick(rng, 100*time.Millisecond, 300*time.Millisecond, time.Second),
		size:         pick(rng, 10, 300, 3000),
		latency:      pick(rng, time.Millisecond, 5*time.Millisecond, 50*time.Millisecond),
		flushObjects: pick(rng, 5, 20, 1000),
		maxInline:    pick(rng, 100, 4<<20),
		grace:        pick(rng, 2*time.Second, 30*time.Second),
		sweepAfter:   pick(rng, 2*time.Second, time.Hour),
	}
	slow := pick(rng, "1ms..5ms", "5ms..50ms", "20ms..300ms")
	p.rates = "delay=1:" + slow + pick(rng, "",
		",lost=0.02,late=0.02:100ms..8s,never=0.01,409=0.01,500=0.01,503=0.01",
		",lost=0.1,late=0.1:100ms..30s,never=0.05,409=0.02,500=0.05,503=0.05,truncate=0.01,flip=0.01")
	for range rng.IntN(6) {
		e := event{
			at:    time.Duration(rng.Int64N(int64(p.length))),
			lasts: pick(rng, time.Second, 4*time.Second, 12*time.Second)/2 + time.Duration(rng.Int64N(int64(2*time.Second))),
			what:  pick(rng, "kill", "kill silently", "stop", "freeze", "freeze", "cut", "cut from the store", "isolate", "everybody leads", "everybody leads", "nobody leads", "forget the lease", "clock"),
			host:  rng.IntN(p.hosts+1) - 1, other: rng.IntN(p.hosts),
			ahead: pick(rng, time.Duration(rng.Int64N(int64(25*time.Second))), time.Duration(rng.Int64N(int64(time.Hour)))),
		}
		if rng.IntN(2) == 0 {
			e.ahead = -e.ahead
		}
		p.events = append(p.events, e)
	}
	w.plan = p
}

// alias is what an object of the store goes by: most have random names.
func alias(name string) string {
	dir, _, _ := strings.Cut(name, "/")
	if dir+"/" == txlog.Prefix || dir+"/" == txlog.CheckpointPrefix {
		return name
	}
	return dir
}

func (w *world) elapsed() time.Duration { return time.Since(w.started).Round(time.Microsecond) }

// isClosed tells whether something that a channel stands for has come.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// latency is how long something takes from one host to another.
func (w *world) latency(from, to string) time.Duration {
	return 50*time.Microsecond + time.Duration(w.random("latency", from, to).Int64N(int64(w.plan.latency)))
}

// simulate runs the schedule of a seed and returns what went wrong.
func simulate(t *testing.T, seed uint64, weak weakness, log io.Writer) *world {
	w := &world{seed: seed, weak: weak, log: log, started: time.Now(), memory: bucket.NewMemory(), quiet: make(chan struct{}), ended: make(chan struct{})}
	w.history = newHistory(w)
	w.reigns = newReigns(w)
	late := time.AfterFunc(time.Hour, func() { panic(fmt.Sprintf("the schedule of seed %d does not come to its end", seed)) })
	defer late.Stop()
	w.net = &network{w: w}
	w.net.mu.cuts = map[path]chan struct{}{}
	w.net.mu.listeners = map[string]*listener{}
	if w.makePlan(); !w.plan.empty {
		if err := w.memory.Put(t.Context(), txlog.FormatName, format()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range w.plan.hosts {
		config, err := faults.Parse(w.plan.rates)
		if err != nil {
			t.Fatal(err)
		}
		config.Seed, config.Alias = w.random("faults", i).Uint64(), alias
		h := &host{w: w, name: fmt.Sprintf("node%d", i), faults: faults.New(w.reigns, config)}
		w.hosts = append(w.hosts, h)
		h.start()
	}
	for i := range w.plan.hosts * w.plan.clients {
		name := fmt.Sprintf("client%d", i)
		w.clients = append(w.clients, &client{w: w, name: name, rng: w.random(name), at: w.hosts[i%len(w.hosts)]})
	}
	if w.begins() {
		w.goes()
		w.recovers()
	}
	close(w.ended)
	for _, h := range w.hosts {
		h.stop()
	}
	w.background.Wait()
	for _, h := range w.hosts {
		h.faults.Close()
	}
	w.history.judge(w.read(t))
	return w
}

// format is that of an empty database. To make one takes longer than many schedules do,
// for the store is tried first.
var format = sync.OnceValue(func() []byte {
	b, ctx := bucket.NewMemory(), context.Background()
	if _, err := txlog.Create(ctx, b, txlog.Format{Creator: "simulation"}); err != nil {
		panic(err)
	}
	data, err := b.Get(ctx, txlog.FormatName, 1<<20)
	if err != nil {
		panic(err)
	}
	return data
})

// goes has the clients work while things go wrong.
func (w *world) goes() {
	var clients, trouble sync.WaitGroup
	for _, c := range w.clients {
		clients.Go(c.work)
	}
	for _, e := range w.plan.events {
		trouble.Go(func() {
			time.Sleep(e.at)
			w.happens(e)
		})
	}
	time.Sleep(w.plan.length)
	trouble.Wait()
	w.leases.tell(honest)
	for _, h := range w.hosts {
		h.setClock(0)
		h.start()
	}
	time.Sleep(time.Second)
	close(w.quiet)
	clients.Wait()
}

// begins makes the objects that clients work with.
func (w *world) begins() bool {
	c := w.clients[0]
	for time.Since(w.started) < 10*time.Minute {
		if c.connected() {
			if oids, err := c.zeo.NewOids(6); err == nil {
				w.history.given(c, oids)
				t := w.history.begins(c)
				for _, oid := range oids {
					t.writes[oid] = write{zodb.NoTid, c.data(t, oid)}
				}
				if c.commit(t); t.outcome == acknowledged {
					return true
				}
			}
		}
		c.pause(time.Second)
	}
	c.leave()
	w.history.problem("nothing could be committed for ten minutes")
	return false
}

// leader returns the host of a node that takes itself for the leader, or the first one.
func (w *world) leader() *host {
	for _, h := range w.hosts {
		if n := h.running().opened(); n != nil && n.Status().Leads {
			return h
		}
	}
	return w.hosts[0]
}

// happens has something go wrong, for a while.
func (w *world) happens(e event) {
	h, other := w.leader(), w.hosts[e.other]
	if e.host >= 0 {
		h = w.hosts[e.host]
	}
	w.trace("it goes wrong", "what", e.what, "host", h.name, "other", other.name, "for", e.lasts)
	defer w.trace("it is well again", "what", e.what, "host", h.name)
	switch e.what {
	case "kill", "kill silently":
		h.die(e.what != "kill")
		time.Sleep(e.lasts)
		h.start()
	case "stop":
		h.stop()
		time.Sleep(e.lasts)
		h.start()
	case "freeze":
		h.stalls(e.lasts)
		h.freeze()
		time.Sleep(e.lasts)
		h.thaw()
	case "cut":
		w.net.cut(h.name, other.name)
		time.Sleep(e.lasts)
		w.net.mend(h.name, other.name)
	case "cut from the store":
		h.stalls(e.lasts)
		w.net.cut(h.name, storeName)
		time.Sleep(e.lasts)
		w.net.mend(h.name, storeName)
	case "isolate":
		all := []string{storeName}
		for _, o := range w.hosts {
			if o != h {
				all = append(all, o.name)
			}
		}
		for _, c := range w.clients {
			all = append(all, c.name)
		}
		h.stalls(e.lasts)
		for _, name := range all {
			w.net.cut(h.name, name)
		}
		time.Sleep(e.lasts)
		for _, name := range all {
			w.net.mend(h.name, name)
		}
	case "everybody leads", "nobody leads":
		what := everybody
		if e.what == "nobody leads" {
			what = nobody
		}
		w.leases.tell(what)
		time.Sleep(e.lasts)
		w.leases.tell(honest)
	case "forget the lease":
		w.leases.forget()
	case "clock":
		h.setClock(e.ahead)
		time.Sleep(e.lasts)
		if e.other == 0 {
			h.setClock(0)
		}
	default:
		panic(e.what)
	}
}

func (w *world) trace(what string, args ...any) {
	if w.log != io.Discard {
		slog.New(slog.NewTextHandler(w.log, nil)).Info(what, args...)
	}
}

// restart starts a host again, unless all is over.
func (w *world) restart(h *host) {
	if !isClosed(w.ended) {
		h.start()
	}
}

// recovers looks whether every node takes commits when all is well again.
func (w *world) recovers() {
	for _, h := range w.hosts {
		h.faults.Enable(false)
	}
	var all sync.WaitGroup
	for i, h := range w.hosts {
		all.Go(func() {
			h.start()
			name := fmt.Sprintf("last%d", i)
			c := &client{w: w, name: name, rng: w.random(name), at: h}
			defer c.leave()
			for begun := time.Now(); time.Since(begun) < 2*time.Minute; c.pause(200 * time.Millisecond) {
				if c.at = h; !c.connected() || c.at != h {
					c.leave()
					continue
				}
				if t := c.transact(); t != nil && t.outcome == acknowledged {
					return
				}
			}
			w.history.problem("%s takes no commits", h.name)
		})
	}
	all.Wait()
}

// read reads the log as it is in the end.
func (w *world) read(t *testing.T) (all []transaction) {
	ctx := context.Background()
	e, err := engine.Follow(ctx, w.memory, engine.Options{Node: "reader", Creator: "simulation", Logger: slog.New(slog.DiscardHandler), Memory: 1 << 20, SweepAfter: time.Hour})
	if err != nil {
		w.history.problem("the database cannot be opened in the end: %v", err)
		return nil
	}
	defer e.Close(ctx)
	i := e.Iterate(zodb.NoTid, zodb.MaxTid)
	for {
		info, err := i.Next(ctx)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			w.history.problem("the database cannot be read in the end: %v", err)
			return all
		}
		txn := transaction{tid: info.Tid, id: string(info.Meta.Description), records: map[zodb.Oid]*string{}}
		records := i.Records()
		for {
			r, err := records.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.history.problem("the records of %s cannot be read in the end: %v", info.Tid, err)
				break
			}
			if _, twice := txn.records[r.Oid]; twice {
				w.history.problem("%s holds object %s twice", info.Tid, r.Oid)
			}
			txn.records[r.Oid] = nil
			if r.Data != nil {
				data := string(r.Data)
				txn.records[r.Oid] = &data
			}
		}
		all = append(all, txn)
	}
}
