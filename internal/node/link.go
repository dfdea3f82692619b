package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"s3storage/internal/txlog"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// A link is the connection to the node that leads: one connection to follow its log,
// and others for transactions, each for one at a time.
type link struct {
	n       *Node
	leader  txlog.Node
	epoch   txlog.Epoch // that it leads
	control *zeo.Client
	heard   atomic.Int64 // when it spoke last, in nanoseconds since 1970
	end     atomic.Uint64
	turn    atomic.Int64 // how many others had better ask for the lead before this node

	mu struct {
		sync.Mutex
		closed bool
		idle   []*zeo.Client
		all    map[*zeo.Client]struct{}

		// finishing are those who wait for the leader to take a transaction, each
		// closed when it has said so to the engine.
		finishing map[chan struct{}]struct{}
	}
}

var errLinkLost = fmt.Errorf("%w: the connection to the leader is lost", zodb.ErrNotCommitted)

// maxIdle is how many connections are kept for the next transactions.
const maxIdle = 64

// connect returns a link to the node that leads at the end of the log, or nil if it
// cannot be reached, or does not lead.
func (n *Node) connect(ctx context.Context, end txlog.Position) *link {
	if end.Leader.Address == "" || end.Leader.Address == n.opts.Engine.Address {
		return nil // there is none yet, or it was this node before it was started anew
	}
	l := &link{n: n, leader: end.Leader, epoch: end.Epoch}
	l.mu.all = make(map[*zeo.Client]struct{})
	l.mu.finishing = make(map[chan struct{}]struct{})
	l.heard.Store(time.Now().UnixNano())
	c, err := l.dial(ctx, l)
	if err != nil {
		n.logger.Debug("cannot reach the leader", "leader", end.Leader.Name, "address", end.Leader.Address, "err", err)
		return nil
	}
	l.control = c
	stop := time.AfterFunc(connectTimeout, func() { c.Close() })
	_, slot, err := c.Follow()
	if !stop.Stop() || err != nil {
		c.Close()
		return nil
	}
	l.end.Store(slot)
	return l
}

// dial connects to the leader.
func (l *link) dial(ctx context.Context, follower zeo.LogFollower) (*zeo.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return l.n.opts.Dial(ctx, l.leader.Address, zeo.ClientOptions{
		Storage: l.n.opts.Storage, Node: l.n.opts.Engine.Node, NodeAddress: l.n.opts.Engine.Address, Follower: follower,
	})
}

// LogObject implements zeo.LogFollower.
func (l *link) LogObject(slot uint64, data []byte) {
	l.heard.Store(time.Now().UnixNano())
	l.end.Store(max(l.end.Load(), slot+1))
	l.awaitFinishing() // whoever waits for a transaction in it has said so by then
	l.n.Log().Offer(txlog.Slot(slot), data)
}

// beginFinish notes somebody who waits for the leader to take a transaction, until
// end is called.
func (l *link) beginFinish() (end func()) {
	f := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.finishing[f] = struct{}{}
	return func() {
		l.mu.Lock()
		delete(l.mu.finishing, f)
		l.mu.Unlock()
		close(f)
	}
}

// awaitFinishing waits for those who wait for the leader now.
func (l *link) awaitFinishing() {
	l.mu.Lock()
	now := slices.Collect(maps.Keys(l.mu.finishing))
	l.mu.Unlock()
	for _, f := range now {
		<-f
	}
}

// LogEnd implements zeo.LogFollower.
func (l *link) LogEnd(_, slot uint64, _ zodb.Tid, turn int) {
	l.heard.Store(time.Now().UnixNano())
	l.turn.Store(int64(turn))
	l.end.Store(max(l.end.Load(), slot))
	l.n.Log().Reaches(txlog.Slot(slot))
}

// over tells whether the log says that another node leads by now: the one at the other
// end may not know it yet.
func (l *link) over() bool { return l.n.Log().End().Epoch > l.epoch }

// wait waits until the link is broken, and returns why.
func (l *link) wait(ctx context.Context) error {
	tick := time.NewTicker(silence / 10)
	defer tick.Stop()
	told := txlog.Slot(0)
	for {
		select {
		case <-tick.C:
		case <-l.control.Done():
			return l.control.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if l.over() {
			return fmt.Errorf("%s leads now", l.n.Log().End().Leader)
		}
		if quiet := time.Since(time.Unix(0, l.heard.Load())); quiet > silence {
			return fmt.Errorf("it says nothing any more (for %s)", quiet.Round(time.Millisecond))
		}
		if at := l.n.Log().End().Slot; at != told {
			told = at
			_ = l.control.Applied(uint64(at))
		}
	}
}

// client returns a connection for one transaction.
func (l *link) client(ctx context.Context) (*zeo.Client, error) {
	l.mu.Lock()
	for len(l.mu.idle) > 0 {
		c := l.mu.idle[len(l.mu.idle)-1]
		l.mu.idle = l.mu.idle[:len(l.mu.idle)-1]
		if c.Err() == nil {
			l.mu.Unlock()
			return c, nil
		}
		delete(l.mu.all, c)
	}
	closed := l.mu.closed
	l.mu.Unlock()
	if closed {
		return nil, errLinkLost
	}
	c, err := l.dial(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLinkLost, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		c.Close()
		return nil, errLinkLost
	}
	l.mu.all[c] = struct{}{}
	return c, nil
}

// done gives a connection back, which has no transaction.
func (l *link) done(c *zeo.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Err() == nil && !l.mu.closed && len(l.mu.idle) < maxIdle {
		l.mu.idle = append(l.mu.idle, c)
		return
	}
	delete(l.mu.all, c)
	go c.Close() // it waits for the one that reads
}

// close ends all connections.
func (l *link) close() {
	l.mu.Lock()
	l.mu.closed = true
	all := l.mu.all
	l.mu.all, l.mu.idle = map[*zeo.Client]struct{}{}, nil
	l.mu.Unlock()
	// In this order: the one that reads the control connection may wait for a finish
	// that the leader does not answer any more.
	for c := range all {
		c.Close()
	}
	l.control.Close()
}
