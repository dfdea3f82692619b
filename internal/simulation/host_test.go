package simulation

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/engine"
	"s3storage/internal/node"
	"s3storage/internal/txlog"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

var errDead = errors.New("this process is dead")

// A host is a machine that runs a node, one process after the other.
type host struct {
	w      *world
	name   string
	faults *faults.Bucket
	mu     struct {
		sync.Mutex
		process *process      // nil while none runs
		started int           // how many there were
		frozen  chan struct{} // closed when it runs again; nil while it runs
		since   time.Time     // when it was frozen
		stalled []stall       // when it did not reach the store
		ahead   time.Duration // of its clock
	}
}

// A process serves the database until it is stopped or killed.
type process struct {
	host     *host
	ctx      context.Context // ends with it
	end      context.CancelFunc
	dead     <-chan struct{} // when it was killed; nothing that it does has an effect then
	kill     context.CancelFunc
	listener *listener
	wg       sync.WaitGroup

	mu struct {
		sync.Mutex
		node   *node.Node // nil until it is open
		server *zeo.Server
		conns  map[*conn]struct{} // nil when it is dead
		silent bool               // its connections break without a word

		untold map[string][]time.Time // when calls about objects of the log told nothing
	}
}

// ahead is by how much the clock is wrong.
func (h *host) ahead() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.ahead
}

func (h *host) setClock(ahead time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.ahead = ahead
}

func (h *host) now() time.Time { return time.Now().Add(h.ahead()) }

// freeze has nothing of what the host does come out, nor anything come in.
func (h *host) freeze() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.frozen == nil {
		h.mu.frozen, h.mu.since = make(chan struct{}), time.Now()
	}
}

func (h *host) thaw() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.frozen != nil {
		close(h.mu.frozen)
		h.mu.frozen = nil
	}
}

func (h *host) running() *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.process
}

// frozen returns a channel that is closed when the host runs again, or when the
// process is dead; nil where it runs.
func (p *process) frozen() <-chan struct{} {
	if p == nil || p.isDead() {
		return nil
	}
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	if p.host.mu.frozen == nil {
		return nil
	}
	return p.host.mu.frozen
}

func (p *process) isDead() bool { return isClosed(p.dead) }

// reach waits until the process runs, and reaches a host.
func (p *process) reach(ctx context.Context, to string) error {
	for {
		if p.isDead() {
			return errDead
		}
		wait := p.frozen()
		if wait == nil {
			if wait = p.host.w.net.blocked(p.host.name, to); wait == nil {
				return ctx.Err()
			}
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.dead:
		}
	}
}

// owns notes a connection, which ends with the process. Clients have none.
func (p *process) owns(c *conn) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.conns == nil {
		return false
	}
	p.mu.conns[c] = struct{}{}
	return true
}

func (p *process) disowns(c *conn) {
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.mu.conns, c)
	}
}

// A stall is a time in which a host does not reach the store.
type stall struct{ from, to time.Time }

func (h *host) stalls(lasts time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.stalled = append(h.mu.stalled, stall{time.Now(), time.Now().Add(lasts)})
}

// asked notes that a call about an object of the log told nothing.
func (p *process) asked(name string, err error) {
	if err != nil && !errors.Is(err, bucket.ErrNotExist) && !errors.Is(err, bucket.ErrExist) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.mu.untold[name] = append(p.mu.untold[name], time.Now())
	}
}

// opened returns the node, or nil while it is not open.
func (p *process) opened() *node.Node {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.node
}

// start has the host run a process, if it does not.
func (h *host) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.process != nil {
		return
	}
	p := &process{host: h}
	p.ctx, p.end = context.WithCancel(context.Background())
	var dead context.Context
	dead, p.kill = context.WithCancel(context.Background())
	p.dead = dead.Done()
	p.mu.conns = make(map[*conn]struct{})
	p.mu.untold = make(map[string][]time.Time)
	p.listener = h.w.net.listen(p)
	h.mu.process = p
	h.mu.started++
	logger := slog.New(slog.NewTextHandler(h.w.log, nil)).With("node", h.name, "process", h.mu.started)
	if h.w.log == io.Discard {
		logger = slog.New(slog.DiscardHandler)
	}
	p.wg.Go(func() { p.run(logger) })
}

// run opens the node and serves it.
func (p *process) run(logger *slog.Logger) {
	w := p.host.w
	opts := node.Options{
		Engine: engine.Options{
			Node: p.host.name, Address: p.host.name, Creator: "simulation", Logger: logger, Memory: 1 << 20,
			Now: p.host.now, FlushObjects: w.plan.flushObjects, MaxInline: w.plan.maxInline,
			PackGrace: w.plan.grace, SweepAfter: w.plan.sweepAfter,
			OnMisled: func() {
				p.mu.Lock()
				server := p.mu.server
				p.mu.Unlock()
				if server != nil {
					server.HangUp("1")
				}
			},
		},
		Storage: "1", Wait: 10 * time.Second,
		OpenLease: func(txlog.DatabaseID) (node.Lease, error) { return &lease{p: p}, nil },
		Dial: func(ctx context.Context, address string, opts zeo.ClientOptions) (*zeo.Client, error) {
			if err := p.reach(ctx, p.host.name); err != nil {
				return nil, err
			}
			return connect(ctx, w.net, p.host.name, p, address, opts)
		},
	}
	n, err := node.Open(p.ctx, &view{p, p.host.faults}, opts)
	if err != nil {
		if p.ctx.Err() == nil {
			logger.Error("cannot open the node", "err", err)
			p.listener.Close()
			w.background.Go(func() { // as a supervisor does
				time.Sleep(time.Second)
				p.host.endIf(p, false, false)
				w.restart(p.host)
			})
		}
		return
	}
	server := zeo.NewServer(map[string]zodb.Storage{"1": w.weak.storage(n)}, zeo.Options{Logger: logger})
	p.mu.Lock()
	p.mu.node, p.mu.server = n, server
	p.mu.Unlock()
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(p.listener, zeo.Access{}) })
	<-p.ctx.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if p.isDead() {
		cancel()
	} else {
		n.HandOver(ctx)
	}
	_ = server.Shutdown(ctx)
	if err := n.Close(ctx); err != nil && !p.isDead() {
		logger.Error("closing", "err", err)
	}
	serving.Wait()
}

// connect dials, and shakes hands.
func connect(ctx context.Context, n *network, from string, p *process, to string, opts zeo.ClientOptions) (*zeo.Client, error) {
	conn, err := n.dial(ctx, from, p, to)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, err := zeo.NewClient(conn, opts)
	if !stop() {
		if c != nil {
			c.Close()
		}
		return nil, ctx.Err()
	}
	return c, err
}

// stop ends the process in order, and waits for it.
func (h *host) stop() { h.endIf(h.running(), false, false) }

// die kills the process. A silent death is heard of only when the host would have
// answered again.
func (h *host) die(silent bool) { h.endIf(h.running(), true, silent) }

// endIf ends a process if it is the one that runs.
func (h *host) endIf(p *process, kill, silent bool) {
	if p == nil || h.running() != p {
		return
	}
	if kill {
		h.w.leases.died(p)
		p.kill()
		p.mu.Lock()
		conns := p.mu.conns
		p.mu.conns = nil
		p.mu.Unlock()
		later := time.Duration(0)
		if silent {
			later = 5 * time.Second
		}
		for c := range conns {
			c.hangUp(later)
		}
		p.listener.Close()
	}
	p.end()
	p.wg.Wait()
	p.listener.Close()
	h.w.leases.died(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.process == p {
		h.mu.process = nil
	}
}
