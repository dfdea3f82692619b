package txlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"s3storage/internal/bucket"
)

// maxClockSkew is how far a node's clock may be from the store's for it to
// lead: tids are times.
const maxClockSkew = 30 * time.Second

// Options for [Open]. Node and Logger are required.
type Options struct {
	Config
	Node   Node // this one, for its seal
	Logger *slog.Logger
}

// Open makes this node the leader of a database. It finds a checkpoint and resets
// the observer to it, reads the log from there on, telling the observer of every
// object, and puts a seal into the first free slot of the last epoch. When its
// seal is part of the log, it leads. The former leader, if there is one, finds the
// seal where its next object should go; what had been acknowledged lies before it.
//
// The checkpoint may have been an old one, and the slot free because its object
// was deleted below a newer one. Then the seal has no meaning. So Open looks for
// a newer checkpoint when its seal stands. If there is one, it goes on from there
// and tries again.
//
// If somebody else was faster, it reads what they wrote, and tries again some
// slots further on, twice as many each time: a leader that commits all the time
// always has some slots under way and would win every race for the first free
// one. A seal in a later slot takes effect when the leader comes to it. That is
// why a seal says nothing of the object before it. One that the log does not
// come to, because the leader died before, has no meaning; the candidate then
// finds the first free slot without contest.
func Open(ctx context.Context, b bucket.Bucket, f *Format, o Observer, opts Options) (*Log, error) {
	l, w, err := begin(ctx, b, f, o, opts)
	if err != nil {
		return nil, err
	}
	if err := l.takeOver(ctx, w); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Follow opens the log of a database without leading it. It finds a checkpoint,
// resets the observer to it, reads the log from there on and tells the observer of
// every object, also of those that come later.
func Follow(ctx context.Context, b bucket.Bucket, f *Format, o Observer, opts Options) (*Log, error) {
	l, w, err := begin(ctx, b, f, o, opts)
	if err != nil {
		return nil, err
	}
	if err := w.toEnd(ctx, false); err != nil {
		l.Close()
		return nil, err
	}
	l.mu.end = w.p
	l.wg.Go(func() { l.follow(w) })
	return l, nil
}

// begin returns a log that neither leads nor follows yet, and the walk at its
// beginning.
func begin(ctx context.Context, b bucket.Bucket, f *Format, o Observer, opts Options) (*Log, *walker, error) {
	w := newWalker(home{b, f.Database, parallel}, o)
	if err := w.begin(ctx); err != nil {
		return nil, nil, err
	}
	return newLog(w.home, o, opts), w, nil
}

// newWalker returns a walker that tells an observer.
func newWalker(h home, o Observer) *walker {
	return &walker{
		home:  h,
		reset: o.Reset,
		ended: o.Ended,
		apply: func(ctx context.Context, obj *Object, end Position) error {
			if obj.changesBase() {
				if err := o.Fetch(ctx, obj); err != nil {
					return err
				}
			}
			o.Settled(Settled{Object: obj, End: end})
			return nil
		},
	}
}

// maxAhead is how far beyond the first free slot a seal is put: beyond what a
// leader has under way, and will have by the time that the seal is there.
const maxAhead = 255

// takeOver seals the last epoch, wherever its end is by then, and moves behind
// the seal.
func (w *walker) takeOver(ctx context.Context, node Node) error {
	mine := make(map[PutID]bool)
	for ahead := Slot(0); ; ahead = min(2*ahead+1, maxAhead) {
		from := w.p
		if err := w.walk(ctx); err != nil {
			return err
		}
		if w.p == from {
			ahead = 0 // nobody writes
		}
		// What counts is which seal the log comes to first.
		if !mine[w.last] {
			if ahead == 0 {
				if again, err := w.checkFree(ctx, false); err != nil {
					return err
				} else if again {
					continue
				}
			}
			seal := w.seal(ahead, node)
			mine[seal.Put] = true
			stands, err := w.putSeal(ctx, seal)
			if err != nil {
				return err
			}
			if !stands || ahead > 0 {
				continue
			}
		}
		anew, err := w.lookAgain(ctx)
		if err != nil || !anew {
			return err
		}
	}
}

// seal makes a seal for the slot that lies that far ahead.
func (w *walker) seal(ahead Slot, node Node) *Object {
	seal := &Object{
		Header: Header{
			Database:   w.db,
			Epoch:      w.p.Epoch,
			Slot:       w.p.Slot + ahead,
			Put:        NewPutID(),
			LogStart:   1,
			Checkpoint: w.number(),
			Settled:    w.p.Slot - 1,
		},
		Entries: []Entry{{Seal: &Seal{Next: w.p.Epoch + 1, By: node.cut()}}},
	}
	if w.checkpoint != nil {
		seal.LogStart = w.checkpoint.Position.Slot
	}
	return seal
}

// putSeal puts a seal. One that stands for certain, in the slot in which the
// walk is, is applied: it need not be read.
func (w *walker) putSeal(ctx context.Context, seal *Object) (stands bool, err error) {
	data := seal.encode()
	// The outcome of a put that failed is unknown: put the same again.
	err = bucket.Retrying(ctx, func() error { return w.bucket.PutIfAbsent(ctx, seal.Name(), data) })
	if errors.Is(err, bucket.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("taking over as leader of %s: %w", w.location(), err)
	}
	if seal.Slot != w.p.Slot {
		return true, nil
	}
	end := w.p
	if err = end.advance(w.db, seal); err == nil {
		err = w.apply(ctx, seal, end)
	}
	if err != nil {
		return false, err
	}
	w.moveTo(end, seal)
	return true, nil
}

func (h home) checkClock(ctx context.Context) error {
	there, err := h.now(ctx)
	if err != nil {
		return err
	}
	if skew := time.Since(there); skew.Abs() > maxClockSkew {
		return fmt.Errorf("the clock of this machine is %s away from that of %s: transactions would get wrong times; "+
			"set the clock (NTP), then start again", skew.Round(time.Second), h.location())
	}
	return nil
}
