package txlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// An Observer learns what becomes of entries. The calls come one at a time, in
// the order of the log.
type Observer interface {
	// Reset has the observer forget all it was told, and start from a base, or
	// from an empty database if there is no checkpoint. It is called first, and
	// again when a newer checkpoint was found; its position may lie before that
	// which Settled was last told of: then what lies between is told again. It
	// may do I/O. If it fails, nothing has changed. An error that wraps
	// bucket.ErrNotExist or zodb.ErrCorrupt has a newer checkpoint looked for:
	// the base may not be needed any more, and gone.
	Reset(context.Context, *Checkpoint) error

	// Fetch is called before Settled for an object with changes of the base
	// that was read from the bucket: by Open, or while another node leads. It
	// reads what Settled will need. Errors are as those of Reset.
	Fetch(context.Context, *Object) error

	// Settled is told of an object that has become part of the log. It does no
	// I/O.
	Settled(s Settled)

	// Ended is told that all of the epochs before one is settled. That a seal was settled
	// does not say so: it may stand where an object of the log was deleted below a
	// checkpoint that this node did not know; then Reset follows. A settled object of an
	// epoch that is no seal says the same of the epochs before its own.
	Ended(Epoch)

	// Leads is told that this node leads from the position on, behind its seal. The
	// log takes entries from then on.
	Leads(Position)

	// Deposed is told that another node leads, and which entries therefore
	// are not part of the log and never will be. From then on Settled is told
	// of what the others write.
	Deposed(by Lost, failed []Entry)
}

// A Log writes to the log of a database as its leader, or follows it. Its methods
// may be called from any number of goroutines; those that write are for the leader
// only.
type Log struct {
	home
	observer Observer
	logger   *slog.Logger
	cfg      Config
	node     Node
	feed     *feed
	requests chan request // taken by the one that follows

	ctx    context.Context // ends with Close: then no put is tried again
	cancel context.CancelFunc
	wg     sync.WaitGroup // of the actions under way, the teller and the one that follows

	mu struct {
		sync.Mutex
		leader *Leader       // of the latest reign of this node; nil before the first
		first  Position      // behind the seal of that reign
		took   time.Duration // to begin it
		end    Position      // of what is known of the log, while this node follows
		timer  *time.Timer
		closed bool
		lost   bool // the observer was, or is about to be, told that the reign is over

		newest  *Checkpoint     // that is known, or nil
		adopted map[BaseID]Slot // where bases were, by all that this node has seen as leader
		seals   map[string]bool // names that Trim found to be those of seals

		news    []func()      // what the observer has not been told yet
		telling bool          // the teller is at it
		idle    chan struct{} // closed when there is nothing left to do or tell; nil if nobody waits
	}
	wake chan struct{} // has room for one; filled when there are news
}

const (
	// A call without answer is given up, to be tried again, after callTimeout
	// and the time that its bytes take at slowest.
	callTimeout = 20 * time.Second
	slowest     = 256 << 10 // bytes a second

	followEvery = time.Second
)

// newLog returns a log that neither leads nor follows yet.
func newLog(h home, o Observer, opts Options) *Log {
	l := &Log{
		home: h, observer: o, logger: opts.Logger, cfg: opts.Config, node: opts.Node,
		feed: newFeed(), requests: make(chan request), wake: make(chan struct{}, 1),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.mu.seals = make(map[string]bool)
	l.mu.timer = time.AfterFunc(time.Hour, func() { l.do(func(*Leader) {}) })
	l.mu.timer.Stop()
	l.wg.Go(l.tell)
	return l
}

// End returns the position behind what is known to be part of the log.
func (l *Log) End() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endLocked()
}

// Sent returns the slot behind the newest object that this node has begun to put as
// leader: all before it may be part of the log, though it is not known yet.
func (l *Log) Sent() Slot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.leader != nil && !l.mu.lost {
		return l.mu.leader.next.Slot
	}
	return l.mu.end.Slot
}

// Stuck returns for how long a leader has tried to put the oldest object that is not
// part of the log yet, beyond what its bytes may take and what a put usually takes: 0 if
// there is none, or for a node that does not lead.
func (l *Log) Stuck() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.leader == nil || l.mu.lost || len(l.mu.leader.flight) == 0 {
		return 0
	}
	usual := l.mu.leader.usually()
	if usual == 0 {
		usual = l.mu.took
	}
	f := l.mu.leader.flight[0]
	return max(0, time.Since(f.first)-usual-atSlowest(f.data))
}

// atSlowest is how long the bytes may take on their way.
func atSlowest(data []byte) time.Duration { return time.Duration(len(data)) * time.Second / slowest }

func (l *Log) endLocked() Position {
	if l.mu.leader != nil && !l.mu.lost {
		return l.mu.leader.End()
	}
	return l.mu.end
}

// Append queues a transaction. Its tid must lie above that of every one
// before. The oid high-water mark is at least mark from then on. The observer
// learns what becomes of it; the transaction must not be changed.
func (l *Log) Append(t *Transaction, mark zodb.Oid) {
	l.do(func(leader *Leader) {
		leader.RaiseOidMark(mark)
		leader.Append(Entry{Txn: t})
	})
}

// AppendBase queues a change of the base, all of whose files have been written.
// The observer learns what becomes of it.
func (l *Log) AppendBase(c BaseChange) {
	l.do(func(leader *Leader) { leader.Append(Entry{Base: &c}) })
}

// RaiseOidMark has the oid high-water mark raised to at least mark. It is,
// when an object that says so is settled.
func (l *Log) RaiseOidMark(mark zodb.Oid) {
	l.do(func(leader *Leader) { leader.RaiseOidMark(mark) })
}

// do changes the leader's state, starts what it wants done next, and has the
// observer told what is new.
func (l *Log) do(change func(*Leader)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed || l.mu.leader == nil {
		return
	}
	leader := l.mu.leader
	change(leader)
	for _, s := range leader.Settled() {
		s.Object.adopt(l.mu.adopted)
		l.mu.news = append(l.mu.news, func() { l.observer.Settled(s) })
	}
	if lost, failed := leader.Lost(); lost != nil && (!l.mu.lost || len(failed) > 0) {
		first, end := !l.mu.lost, leader.End()
		l.mu.lost, l.mu.end = true, end
		l.mu.news = append(l.mu.news, func() {
			l.observer.Deposed(*lost, failed)
			if first {
				l.Look()
				l.wg.Go(func() { l.follow(l.after(end)) })
			}
		})
	}
	actions, wake := leader.Next(time.Now())
	for _, a := range actions {
		l.wg.Go(func() { l.act(leader, a) })
	}
	if wake.IsZero() {
		l.mu.timer.Stop()
	} else {
		l.mu.timer.Reset(time.Until(wake))
	}
	if len(l.mu.news) > 0 || l.mu.idle != nil {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// tell tells the observer the news, until the log is closed.
func (l *Log) tell() {
	for {
		select {
		case <-l.wake:
		case <-l.ctx.Done():
			return
		}
		l.mu.Lock()
		for len(l.mu.news) > 0 && !l.mu.closed {
			news := l.mu.news
			l.mu.news, l.mu.telling = nil, true
			l.mu.Unlock()
			for _, tell := range news {
				tell()
			}
			l.mu.Lock()
			l.mu.telling = false
		}
		if l.mu.idle != nil && l.mu.leader.Idle() {
			close(l.mu.idle)
			l.mu.idle = nil
		}
		l.mu.Unlock()
	}
}

// after returns a walk that goes on where a lead was lost.
func (l *Log) after(p Position) *walker {
	w := newWalker(l.home, l.observer)
	w.p, w.adopted = p, make(map[BaseID]Slot)
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.mu.newest; c != nil && c.Position.Slot <= p.Slot {
		w.checkpoint = c
	}
	// Else the next leader has put it, and may have deleted what comes next here: a look
	// must find it.
	return w
}

// act does one action and reports to the leader that wants it. What is late, and
// comes in another reign, is of no use any more.
func (l *Log) act(reign *Leader, a Action) {
	report := func(result func(now time.Time)) {
		l.do(func(leader *Leader) {
			if leader == reign {
				result(time.Now())
			}
		})
	}
	timeout := callTimeout + atSlowest(a.Data)
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	switch a.Kind {
	case ActionPut:
		err := l.bucket.PutIfAbsent(ctx, a.Name, a.Data)
		outcome := PutStands
		switch {
		case errors.Is(err, bucket.ErrExist):
			outcome = PutTaken
		case err != nil:
			outcome = PutUnknown
			if l.ctx.Err() == nil {
				l.logger.Warn("put of a log object failed or its outcome is unknown; putting it again until it is known; commits wait",
					"object", a.Name, "err", err)
			}
		}
		report(func(now time.Time) { reign.PutDone(now, a.Slot, outcome) })
	case ActionRead:
		id, by, err := l.readPutID(ctx, a.Name)
		if err != nil && l.ctx.Err() == nil {
			l.logger.Warn("reading back a log object failed; putting it again", "object", a.Name, "err", err)
		}
		report(func(now time.Time) { reign.ReadDone(now, a.Slot, id, err == nil, by) })
	case ActionWatch:
		_, by, err := l.readPutID(ctx, a.Name)
		if err != nil && !errors.Is(err, bucket.ErrNotExist) && l.ctx.Err() == nil {
			l.logger.Warn("cannot see whether another server has taken over", "object", a.Name, "err", err)
		}
		report(func(now time.Time) { reign.WatchDone(now, a.Slot, err == nil, by) })
	}
}

// Flush waits until everything that was appended is settled or failed, and the
// observer has been told. After Close there is nothing to wait for.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	if l.mu.closed || l.mu.leader == nil || l.mu.leader.Idle() && len(l.mu.news) == 0 && !l.mu.telling {
		l.mu.Unlock()
		return nil
	}
	if l.mu.idle == nil {
		l.mu.idle = make(chan struct{})
	}
	idle := l.mu.idle
	l.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the log still has transactions to write: %w", context.Cause(ctx))
	}
}

// Close stops writing. What has not been settled by then may or may not become
// part of the log; nobody is told.
func (l *Log) Close() {
	l.mu.Lock()
	l.mu.closed = true
	l.mu.timer.Stop()
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
}
