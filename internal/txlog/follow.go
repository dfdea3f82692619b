package txlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"s3storage/internal/bucket"
)

// lookEvery is after how many looks in vain a node that follows looks for a
// checkpoint: what it waits for may have been deleted.
const lookEvery = 10

// maxOffered is how many bytes of objects that were offered wait for their turn.
// Beyond that the bucket is asked.
const maxOffered = 64 << 20

// A feed is what a node that follows is told of the log by the one that leads.
type feed struct {
	wake chan struct{} // has room for one; filled when there is something to do

	mu struct {
		sync.Mutex
		objects map[Slot][]byte
		bytes   int
		end     Slot            // behind what the leader has said to be settled
		look    bool            // ask the bucket
		waiting []chan struct{} // closed when it was asked after they came
		every   time.Duration   // ask it so often; 0 for never
	}
}

func newFeed() *feed {
	f := &feed{wake: make(chan struct{}, 1)}
	f.mu.objects = make(map[Slot][]byte)
	f.mu.every = followEvery
	return f
}

func (f *feed) change(do func()) {
	f.mu.Lock()
	do()
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Offer hands over an object that the leader says is settled, so that it need not
// be asked for. It is used where it follows what is known, by the hash chain, and
// dropped otherwise. data must not change.
func (l *Log) Offer(s Slot, data []byte) {
	f := l.feed
	f.change(func() {
		if f.mu.bytes+len(data) > maxOffered {
			clear(f.mu.objects)
			f.mu.bytes, f.mu.look = 0, true
			return
		}
		if old, ok := f.mu.objects[s]; ok {
			f.mu.bytes -= len(old)
		}
		f.mu.objects[s] = data
		f.mu.bytes += len(data)
	})
}

// Reaches says that the log is known to stand up to before a slot.
func (l *Log) Reaches(end Slot) {
	l.feed.change(func() { l.feed.mu.end = max(l.feed.mu.end, end) })
}

// Look has the bucket asked for what is new, if this node follows.
func (l *Log) Look() { l.feed.change(func() { l.feed.mu.look = true }) }

// Poll sets how often the bucket is asked without a call of Look, while this node
// follows; 0 is for a node that is told by the leader. At first it is once a
// second.
func (l *Log) Poll(every time.Duration) {
	l.feed.change(func() { l.feed.mu.every = every })
}

// CatchUp waits, if this node follows, until it has all that was part of the log when
// it was called.
func (l *Log) CatchUp(ctx context.Context) error {
	done := make(chan struct{})
	l.feed.change(func() {
		l.feed.mu.look = true
		l.feed.mu.waiting = append(l.feed.mu.waiting, done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.ctx.Done():
		return errClosed
	}
}

// release tells those who wait that the bucket was asked.
func release(waiting []chan struct{}) {
	for _, done := range waiting {
		close(done)
	}
}

// next returns the offered object of a slot, if there is one, and whether there
// are only later ones. Earlier ones are dropped.
func (f *feed) next(s Slot) (data []byte, gap bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data = f.mu.objects[s]
	gap = data == nil && f.mu.end > s
	for have, b := range f.mu.objects {
		if have <= s {
			delete(f.mu.objects, have)
			f.mu.bytes -= len(b)
		} else if data == nil {
			gap = true
		}
	}
	return data, gap
}

// due returns whether the bucket is to be asked now, and how often.
func (f *feed) due(last time.Time) (now bool, every time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now = f.mu.look || f.mu.every > 0 && time.Since(last) >= f.mu.every
	f.mu.look = false
	return now, f.mu.every
}

// waiting returns those who wait for the bucket to be asked from now on.
func (f *feed) waiting() []chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.mu.waiting
	f.mu.waiting = nil
	return w
}

// A request is one to lead.
type request struct {
	ctx  context.Context
	done chan error
}

// Lead makes this node, which follows, the leader, as Open does. It waits for a
// lead that was just lost to be at its end. After an error the node follows, and
// its seal may or may not be part of the log.
func (l *Log) Lead(ctx context.Context) error {
	r := request{ctx, make(chan error, 1)}
	select {
	case l.requests <- r:
		return <-r.done
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.ctx.Done():
		return errClosed
	}
}

var errClosed = errors.New("the log was closed")

// follow tells the observer of what others write to the log, until this node
// leads or the log is closed.
func (l *Log) follow(w *walker) {
	for idle, last := 0, time.Now(); ; {
		from := w.p
		gap, err := l.takeOffered(w)
		due, every := l.feed.due(last)
		if err == nil && (due || gap) {
			last = time.Now()
			waiting := l.feed.waiting()
			// What it waits for may have been deleted below a checkpoint.
			err = w.walkBeyond(l.ctx, gap || len(waiting) > 0 || idle > 0 && idle%lookEvery == 0)
			idle++
			if err == nil {
				release(waiting)
			} else {
				l.feed.change(func() { l.feed.mu.waiting = append(l.feed.mu.waiting, waiting...) })
			}
		}
		if w.p != from {
			idle = 0
		}
		l.mu.Lock()
		l.mu.end = w.p
		l.mu.Unlock()
		if err != nil && l.ctx.Err() == nil {
			l.logger.Error("cannot follow the log; answers grow old", "err", err)
		}
		var again <-chan time.Time
		if err != nil {
			again = time.After(followEvery)
			l.feed.change(func() { l.feed.mu.look = true })
		} else if every > 0 {
			again = time.After(time.Until(last.Add(every)))
		}
		wake := l.feed.wake
		if err != nil {
			wake = nil // it would fail again
		}
		select {
		case <-wake:
		case <-again:
		case r := <-l.requests:
			ctx, cancel := context.WithCancel(r.ctx)
			stop := context.AfterFunc(l.ctx, cancel)
			err := l.takeOver(ctx, w)
			stop()
			cancel()
			r.done <- err
			if err == nil {
				release(l.feed.waiting())
				return
			}
		case <-l.ctx.Done():
			return
		}
	}
}

// walkBeyond is walk for a node that follows. If it does not get on, and that is
// doubted, or if it ends at a seal, it looks for a checkpoint beyond.
func (w *walker) walkBeyond(ctx context.Context, doubted bool) error {
	from := w.p
	err := w.walk(ctx)
	for err == nil && (w.sealed != 0 || doubted && w.p == from) {
		doubted = false
		at := w.p
		if err = w.lookBeyond(ctx); err != nil || w.p == at {
			break
		}
		err = w.walk(ctx)
	}
	return err
}

// takeOffered applies offered objects that follow what the walk has come to. It
// tells whether what lies between is missing.
func (l *Log) takeOffered(w *walker) (gap bool, err error) {
	for {
		data, gap := l.feed.next(w.p.Slot)
		if data == nil {
			return gap, nil
		}
		name := Name(w.p.Epoch, w.p.Slot)
		o, err := Decode(name, data)
		end := w.p
		if err == nil {
			err = end.advance(w.db, o)
		}
		if err != nil {
			// It is of another epoch, or damaged on the way: the bucket has the truth.
			l.logger.Debug("what the leader says of the log is not used", "object", name, "err", err)
			return true, nil
		}
		if err := w.take(l.ctx, o, end); err != nil {
			if errors.Is(err, bucket.ErrNotExist) {
				return true, nil
			}
			return true, fmt.Errorf("following the log of %s: %w", l.location(), err)
		}
	}
}

// takeOver has this node lead, as the one that was told last of what the walk has
// come to.
func (l *Log) takeOver(ctx context.Context, w *walker) error {
	if err := w.checkClock(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := w.takeOver(ctx, l.node); err != nil {
		return err
	}
	if w.number() != w.head.Checkpoint && w.checkpoint != nil {
		// The next one to open finds it at once.
		if err := w.writeHead(ctx, w.checkpoint, w.p); err != nil {
			l.logger.Warn(hintFailed, "object", HeadName, "err", err)
		}
	}
	p, told := w.p, make(chan struct{})
	l.mu.Lock()
	l.mu.first, l.mu.end, l.mu.took = w.p, w.p, time.Since(start)
	l.mu.leader = NewLeader(l.cfg, w.db, w.p)
	l.mu.adopted = w.adopted
	l.mu.lost = false
	l.mu.newest = w.checkpoint
	if w.checkpoint != nil {
		l.mu.leader.Checkpointed(w.checkpoint)
	}
	// After all that was to be told of earlier reigns, and when the log takes what comes
	// in response.
	l.mu.news = append(l.mu.news, func() {
		l.observer.Leads(p)
		close(told)
	})
	l.mu.Unlock()
	l.do(func(*Leader) {}) // starts the watch
	select {
	case <-told:
		return nil
	case <-l.ctx.Done():
		return errClosed
	}
}
