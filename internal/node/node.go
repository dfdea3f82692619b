package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
	"s3storage/internal/txlog"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// A Lease says who may lead: see package lease.
type Lease interface {
	Acquire(ctx context.Context) error
	Release(ctx context.Context) error
	Close() error
	String() string
}

// Options for Open. OpenLease and Storage are required, and those that the engine
// requires.
type Options struct {
	Engine engine.Options

	// OpenLease opens the lease of a database, which is asked for before this node
	// leads.
	OpenLease func(txlog.DatabaseID) (Lease, error)

	// Storage is the name under which all nodes serve this database.
	Storage string

	// Wait is for how long a transaction waits for a leader, default 30 s.
	Wait time.Duration

	// Dial connects to another node. Default zeo.Dial.
	Dial func(ctx context.Context, address string, opts zeo.ClientOptions) (*zeo.Client, error)

	// Reluctance returns for how long this node, having lost its leader, leaves it to
	// others to ask for the lease first, also when it is its turn. It may be nil.
	Reluctance func() time.Duration
}

const (
	// A leader that was not heard for so long is gone, or does not run: it speaks
	// twice a second.
	silence = 2500 * time.Millisecond

	// connectTimeout bounds how long a leader may take to answer a connection.
	connectTimeout = time.Second

	// How often the bucket is asked for the log by a node that no leader tells of
	// it: while it looks for one, and in the long run.
	pollSeeking = 250 * time.Millisecond
	pollAlone   = time.Second

	// handOverTime is how long clients that have voted may take to finish when another
	// node is about to lead.
	handOverTime = time.Second

	// releaseTime bounds how long this node tries to let go of the lease.
	releaseTime = 2 * time.Second

	// How long a node that has lost its leader leaves it to another one to ask for the
	// lease, for each of those whose turn it is before, and for all.
	perTurn   = 150 * time.Millisecond
	mostTurns = 4 * perTurn

	// retryAfter is how long a node that could not come to lead waits.
	retryAfter = 500 * time.Millisecond
)

// A Node is a zodb.Storage that other nodes serve too. Its engine does the reading.
type Node struct {
	*engine.Engine
	opts   Options
	lease  Lease
	logger *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	begun  chan error    // has room for one; what came of the first try to lead or to follow
	role   chan struct{} // has room for one; filled when this node has come to lead, or leads no more

	finishing chan struct{} // held by blobs that wait for the bucket
	leasing   chan struct{} // held by the one who lets go of the lease, or asks for it again
	stats     struct{ stores, aborts, conflicts, active, voting atomic.Int64 }

	mu struct {
		sync.Mutex
		link    *link // to the leader; nil where there is none
		changed chan struct{}
		closing bool
		ended   bool // nothing is begun in the background any more
	}
}

var (
	_ zodb.Storage      = (*Node)(nil)
	_ zodb.CachedLoader = (*Node)(nil)
	_ zodb.Leader       = (*Node)(nil)
	_ zodb.Synced       = (*Node)(nil)
)

// Open opens the database in a bucket, or makes one in an empty bucket. It returns
// when this node leads, or follows a leader. If neither comes about in opts.Wait,
// because the lease is held by a node that cannot be reached, it returns a node that
// goes on trying, and can be read from.
func Open(ctx context.Context, b bucket.Bucket, opts Options) (*Node, error) {
	if opts.Wait == 0 {
		opts.Wait = 30 * time.Second
	}
	if opts.Dial == nil {
		opts.Dial = zeo.Dial
	}
	n := &Node{opts: opts, logger: opts.Engine.Logger, role: make(chan struct{}, 1), begun: make(chan error, 1), finishing: make(chan struct{}, maxFinishing), leasing: make(chan struct{}, 1)}
	n.mu.changed = make(chan struct{})
	n.opts.Engine.OnRole = func() {
		n.change(func() {}) // wakes those who wait for a leader
		select {
		case n.role <- struct{}{}:
		default:
		}
	}
	var err error
	if n.Engine, err = engine.Follow(ctx, b, n.opts.Engine); err != nil {
		return nil, err
	}
	if n.lease, err = opts.OpenLease(n.Database()); err != nil {
		return nil, errors.Join(err, n.Engine.Close(ctx))
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.do(n.run)
	wait, cancel := context.WithTimeout(ctx, opts.Wait)
	defer cancel()
	select {
	case err = <-n.begun:
	case <-wait.Done():
		if err = context.Cause(ctx); err == nil {
			n.logger.Warn("no node leads this database yet; it can be read, and writes wait", "lease", n.lease.String())
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.Close(context.WithoutCancel(ctx)))
	}
	return n, nil
}

// begin says how this node has begun: leading, following, or unable to do either.
func (n *Node) begin(err error) {
	select {
	case n.begun <- err:
	default: // that was said before
	}
}

// change changes what those who wait for a leader look at.
func (n *Node) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

// do has something done in the background. After Close it is not done, and do returns
// false.
func (n *Node) do(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.ended {
		return false
	}
	n.wg.Go(f)
	return true
}

// run decides whether to lead or whom to follow, until Close.
func (n *Node) run() {
	for lost := (*link)(nil); n.ctx.Err() == nil; {
		if n.Engine.ReadOnly() == nil {
			n.reign()
			continue
		}
		l := n.connect(n.ctx, n.Log().End())
		if l == nil {
			l = n.seek(lost)
		}
		if lost = l; l != nil {
			n.follow(l)
		}
	}
}

// reign waits until this node leads no more. It lets go of the lease then, for somebody
// else has it by now, or it stands in their way; and where this node cannot write to its
// log, for others perhaps can. If none can, it goes on when it can again, and asks for the
// lease.
func (n *Node) reign() {
	tick := time.NewTicker(engine.StuckAfter / 5)
	defer tick.Stop()
	for released := false; ; {
		select {
		case <-n.role:
		case <-tick.C:
		case <-n.ctx.Done():
		}
		if n.ctx.Err() != nil {
			return
		}
		leads, stuck := n.Engine.ReadOnly() == nil, n.Log().Stuck()
		switch {
		case !leads:
			if !released {
				n.release()
			}
			return
		case stuck > engine.StuckAfter && !released:
			n.logger.Warn("this node leads, and cannot write to the log; others may lead if they can",
				"for", stuck.Round(time.Second), "lease", n.lease.String())
			n.release()
			released = true
		case stuck == 0 && released:
			ctx, cancel := context.WithTimeout(n.ctx, releaseTime)
			n.leasing <- struct{}{}
			released = n.lease.Acquire(ctx) != nil // then somebody else is about to lead
			<-n.leasing
			cancel()
		}
	}
}

// follow is told of the log by a leader, until that ends.
func (n *Node) follow(l *link) {
	n.logger.Info("following the leader", "leader", l.leader.Name, "address", l.leader.Address)
	n.Log().Poll(0)
	n.Log().Look() // for what it wrote before
	n.change(func() { n.mu.link = l })
	n.begin(nil)
	err := l.wait(n.ctx)
	n.change(func() { n.mu.link = nil })
	l.close()
	if n.ctx.Err() == nil {
		n.logger.Warn("the leader is not reached any more; looking for another one", "leader", l.leader.Name, "address", l.leader.Address, "err", err)
	}
	n.Log().Poll(pollSeeking)
	n.Log().Look()
}

// seek asks for the lease to lead, and looks for a leader meanwhile. It returns the
// link to one, or nil if this node leads, or has to begin anew. lost is the link to the
// leader that it has just lost, or nil.
func (n *Node) seek(lost *link) *link {
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	n.Log().Poll(pollSeeking)
	defer n.Log().Poll(pollAlone)
	before := n.Log().End()
	acquired := make(chan error, 1)
	if !n.do(func() {
		if lost != nil {
			_ = bucket.Sleep(ctx, n.reluctance(lost))
		}
		acquired <- n.lease.Acquire(ctx)
	}) {
		return nil
	}
	tick := time.NewTicker(pollSeeking)
	defer tick.Stop()
	tried := time.Now()
	for {
		select {
		case err := <-acquired:
			if err == nil {
				err = n.lead(ctx)
			}
			n.begin(err)
			if err != nil && n.ctx.Err() == nil {
				n.logger.Error("cannot become the leader; trying again", "lease", n.lease.String(), "err", err)
				n.release()
				_ = bucket.Sleep(n.ctx, retryAfter)
			}
			return nil
		case <-tick.C:
			end := n.Log().End()
			if end.Epoch == before.Epoch && time.Since(tried) < connectTimeout {
				continue
			}
			before, tried = end, time.Now()
			if l := n.connect(ctx, end); l != nil {
				cancel()
				if <-acquired == nil {
					n.release()
				}
				return l
			}
		case <-ctx.Done():
			if <-acquired == nil {
				n.release()
			}
			return nil
		}
	}
}

// reluctance is for how long this node leaves it to others to ask for the lease.
func (n *Node) reluctance(lost *link) time.Duration {
	d := min(time.Duration(lost.turn.Load())*perTurn, mostTurns)
	if n.opts.Reluctance != nil {
		d += n.opts.Reluctance()
	}
	return d
}

// release lets go of the lease.
func (n *Node) release() {
	n.leasing <- struct{}{}
	defer func() { <-n.leasing }()
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	if err := n.lease.Release(ctx); err != nil {
		n.logger.Warn("could not let go of the lease; it runs out by itself", "lease", n.lease.String(), "err", err)
	}
}

// lead has this node lead.
func (n *Node) lead(ctx context.Context) error {
	start := time.Now()
	if err := n.Lead(ctx); err != nil {
		return err
	}
	end := n.Log().End()
	n.logger.Info("this node leads the database", "epoch", uint64(end.Epoch), "slot", uint64(end.Slot),
		"lease", n.lease.String(), "took", time.Since(start).Round(time.Millisecond))
	return nil
}

// ReadOnly implements zodb.Storage. A node takes writes also while there is no leader:
// they wait.
func (n *Node) ReadOnly() error { return nil }

// Sync implements zodb.Synced. Where the leader is not reached, this node asks the
// bucket. A leader waits until it knows what has become of the objects that it is putting:
// another node may have read them, and shown them to its clients, before.
func (n *Node) Sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.opts.Wait)
	defer cancel()
	for {
		n.mu.Lock()
		l, changed := n.mu.link, n.mu.changed
		n.mu.Unlock()
		if n.Engine.ReadOnly() == nil { // looked at last: changed tells of what comes later
			if err := n.AwaitSent(ctx); err == nil || ctx.Err() != nil {
				return err
			}
			continue // it leads no more
		}
		if l != nil && !l.over() {
			if slot, err := l.control.Sync(); err == nil {
				return n.AwaitApplied(ctx, slot)
			}
		}
		caught := make(chan error, 1)
		if !n.do(func() { caught <- n.Log().CatchUp(ctx) }) {
			return zodb.ErrClosed
		}
		select {
		case err := <-caught:
			return err
		case <-changed: // it may lead by now
		}
	}
}

// A target is where transactions are made now: the engine of this node, if it
// leads, or a link.
type target struct{ link *link }

// target waits for a leader.
func (n *Node) target(ctx context.Context) (target, error) {
	wait := time.NewTimer(n.opts.Wait)
	defer wait.Stop()
	for {
		n.mu.Lock()
		l, changed, closing := n.mu.link, n.mu.changed, n.mu.closing
		n.mu.Unlock()
		switch {
		case closing:
			return target{}, fmt.Errorf("%w: this server is being stopped", zodb.ErrNotCommitted)
		case n.Engine.ReadOnly() == nil:
			return target{}, nil
		case l != nil:
			return target{l}, nil
		}
		select {
		case <-changed:
		case <-wait.C:
			return target{}, fmt.Errorf("%w: no server leads this database", zodb.ErrNotCommitted)
		case <-ctx.Done():
			return target{}, context.Cause(ctx)
		}
	}
}

// NewOids implements zodb.Storage.
func (n *Node) NewOids(ctx context.Context, count int) ([]zodb.Oid, error) {
	for {
		t, err := n.target(ctx)
		if err != nil {
			return nil, err
		}
		var oids []zodb.Oid
		if t.link == nil {
			oids, err = n.Engine.NewOids(ctx, count)
		} else {
			oids, err = t.link.control.NewOids(count)
		}
		if !n.gone(t, err) {
			return oids, err
		}
	}
}

// gone tells whether an error says that the target leads no more, and waits a moment
// then.
func (n *Node) gone(t target, err error) bool {
	if err == nil {
		return false
	}
	lost := t.link == nil && (errors.Is(err, zodb.ErrReadOnly) || errors.Is(err, zodb.ErrNotCommitted)) ||
		t.link != nil && (t.link.control.Err() != nil || errors.Is(err, errLinkLost))
	if lost {
		_ = bucket.Sleep(n.ctx, 10*time.Millisecond)
	}
	return lost && n.ctx.Err() == nil
}

// Pack implements zodb.Storage.
func (n *Node) Pack(ctx context.Context, tid zodb.Tid) error {
	t, err := n.target(ctx)
	if err != nil {
		return err
	}
	if t.link == nil {
		return n.Engine.Pack(ctx, tid)
	}
	c, err := t.link.client(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err = c.PackTo(tid)
	if stop() {
		t.link.done(c)
	}
	if err != nil {
		return err
	}
	return n.Sync(ctx) // so that its clients see what was dropped
}

// Stats implements zodb.Storage.
func (n *Node) Stats() zodb.Stats {
	s := n.Engine.Stats()
	s.Stores += n.stats.stores.Load()
	s.Aborts += n.stats.aborts.Load()
	s.Conflicts += n.stats.conflicts.Load()
	s.ActiveTxns += n.stats.active.Load()
	s.Waiting += n.stats.voting.Load()
	return s
}

// HandOver has another node lead, if this one does and others follow it. Afterwards
// this one takes no more transactions.
func (n *Node) HandOver(ctx context.Context) {
	n.change(func() { n.mu.closing = true })
	n.cancel()
	if err := n.Engine.HandOver(ctx, handOverTime, n.release); err != nil {
		n.logger.Warn("handing over did not go to its end", "err", err)
	}
}

// Close ends all work, and lets go of the lease.
func (n *Node) Close(ctx context.Context) error {
	n.change(func() { n.mu.closing = true })
	n.cancel()
	err := n.Engine.Close(ctx)
	n.change(func() { n.mu.ended = true })
	n.wg.Wait()
	n.release()
	return errors.Join(err, n.lease.Close())
}

// A Status says what a node knows of who leads.
type Status struct {
	Leads   bool
	Leader  txlog.Node // by the log
	Linked  bool       // this node follows it
	Epoch   txlog.Epoch
	Applied txlog.Slot
	End     txlog.Slot // of the log, as the leader has said last
	Last    zodb.Tid
	Lease   string
}

// Status returns what this node is now.
func (n *Node) Status() Status {
	end := n.Log().End()
	s := Status{
		Leads: n.Engine.ReadOnly() == nil, Leader: end.Leader, Epoch: end.Epoch, Applied: end.Slot, End: end.Slot,
		Last: n.LastTransaction(), Lease: n.lease.String(),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.mu.link; l != nil {
		s.Linked = true
		s.End = max(s.End, txlog.Slot(l.end.Load()))
	}
	return s
}
