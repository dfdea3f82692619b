package txlog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// A walker goes along a log, from its newest checkpoint on. It is for one
// goroutine.
type walker struct {
	home

	// reset is told where the walk begins, and again where it begins anew; nil
	// is for a log without checkpoints, from its first slot on. If it fails,
	// nothing was changed.
	reset func(context.Context, *Checkpoint) error
	// apply is told of each object and of the position behind it, less the
	// changes of the base that the checkpoint accounts for. If it fails, it is
	// told of the object again, or of a reset.
	apply func(context.Context, *Object, Position) error

	// ended is told that all of the epochs before one has been applied. It may be nil.
	ended func(Epoch)

	head       head            // the hint, or zero
	checkpoint *Checkpoint     // the newest that is known of those before p, or nil: a look is for what lies beyond
	p          Position        // what it has come to
	last       PutID           // of the last object applied since the last reset
	sealed     Slot            // of the first of the seals applied last that may mean nothing; 0 if there is none
	based      Slot            // changes of the base up to this one are in the base it was reset to
	adopted    map[BaseID]Slot // bases since the checkpoint, and its own
}

// number returns the number of the newest checkpoint that is known.
func (w *walker) number() uint64 {
	if w.checkpoint == nil {
		return 0
	}
	return w.checkpoint.Number
}

// begin finds a checkpoint, and resets to it. It is the newest one unless the
// hint is stale; a later look will tell.
func (w *walker) begin(ctx context.Context) (err error) {
	if w.head, err = w.readHead(ctx); err != nil {
		return err
	}
	var c *Checkpoint
	if w.head.Checkpoint != 0 {
		c, err = w.readCheckpoint(ctx, w.head.Checkpoint)
		if err != nil && !errors.Is(err, bucket.ErrNotExist) {
			return err
		}
	}
	if c == nil {
		w.head = head{} // absent, or of another time
		if c, err = w.newestAfter(ctx, 0); err != nil {
			return err
		}
	}
	return w.resetTo(ctx, c)
}

// resetTo has the walk begin anew at a checkpoint, or at a newer one if its base
// is not needed any more and gone. After an error the walk is where it was.
func (w *walker) resetTo(ctx context.Context, c *Checkpoint) error {
	for {
		err := w.reset(ctx, c)
		if err == nil {
			w.checkpoint, w.p, w.last, w.based, w.adopted = c, Start(), PutID{}, 0, make(map[BaseID]Slot)
			w.sealed = 0
			if c != nil {
				w.p = c.Position
				w.based, w.adopted[c.Base] = c.Adopted, c.Adopted
			}
			return nil
		}
		if c == nil || !lost(err) {
			return err
		}
		newer, lookErr := w.newestAfter(ctx, c.Number)
		if lookErr != nil {
			return lookErr
		}
		if newer == nil {
			return fmt.Errorf("the base that %s in %s names is missing or %w: %s", c.Name(), w.location(), zodb.ErrCorrupt, err.Error())
		}
		c = newer
	}
}

// lost tells whether an error says that an object is missing or damaged.
func lost(err error) bool {
	return errors.Is(err, bucket.ErrNotExist) || errors.Is(err, bucket.ErrLost) || errors.Is(err, zodb.ErrCorrupt)
}

// look looks for a newer checkpoint and begins anew there if there is one.
func (w *walker) look(ctx context.Context) (found bool, err error) {
	c, err := w.newestAfter(ctx, w.number())
	if err == nil && c == nil {
		w.settleSeals()
	}
	if err != nil || c == nil {
		return false, err
	}
	return true, w.resetTo(ctx, c)
}

// lookAgain is look for a walk that is about to lead, and has come to a seal of its
// own. It goes on where it is if it has itself come to the object that adopted the
// checkpoint's base, and the checkpoint accounts for nothing behind that object: then
// the checkpoint speaks of the log that was walked, and all that may be deleted lies
// before the seal.
func (w *walker) lookAgain(ctx context.Context) (anew bool, err error) {
	c, err := w.newestAfter(ctx, w.number())
	if err != nil {
		return false, err
	}
	if c != nil {
		if at, ok := w.adopted[c.Base]; !ok || at != c.Adopted || c.Position.Slot > at+1 {
			return true, w.resetTo(ctx, c)
		}
		w.checkpoint = c
	}
	w.settleSeals()
	return false, nil
}

// lookBeyond is look for a walk that waits for the next object: it begins anew
// only at a checkpoint beyond where it is, or beyond a seal that may mean nothing.
func (w *walker) lookBeyond(ctx context.Context) error {
	c, err := w.newestAfter(ctx, w.number())
	if err != nil {
		return err
	}
	from := w.p.Slot
	if w.sealed != 0 {
		from = w.sealed
	}
	if c == nil || c.Position.Slot <= from {
		w.settleSeals()
		return nil
	}
	return w.resetTo(ctx, c)
}

// settleSeals is called when a look has found no checkpoint beyond the seals that were
// applied last: none of them stands in a slot whose object was deleted, so the epochs
// that they end are at their end.
func (w *walker) settleSeals() {
	if w.sealed != 0 && w.ended != nil {
		w.ended(w.p.Epoch)
	}
	w.sealed = 0
}

// walk applies the objects from where it is on, in order, until it finds a free
// slot: the end of the log, or a hole, as checkFree tells, or a slot below a
// checkpoint that it does not know, whose object was deleted. Where something
// else is missing or damaged it begins anew at a newer checkpoint; if there is
// none, the error is of the class zodb.ErrCorrupt and names the object.
func (w *walker) walk(ctx context.Context) error {
	f := &fetcher{home: w.home}
	defer f.stop()
	for {
		o, err := f.get(ctx, w.p)
		if errors.Is(err, bucket.ErrNotExist) {
			return nil
		}
		end := w.p
		if err == nil {
			err = end.advance(w.db, o)
		}
		if err == nil {
			err = w.take(ctx, o, end)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, bucket.ErrNotExist): // it must not pass for the end
			err = fmt.Errorf("%s names what is missing: it is %w: %s", Name(w.p.Epoch, w.p.Slot), zodb.ErrCorrupt, err.Error())
		}
		if lost(err) {
			if found, lookErr := w.look(ctx); lookErr != nil {
				return lookErr
			} else if found {
				continue
			}
		}
		return fmt.Errorf("reading the log of %s: %w", w.location(), err)
	}
}

// take applies the object at which the walk is, and moves behind it.
func (w *walker) take(ctx context.Context, o *Object, end Position) error {
	if o.Slot <= w.based {
		// The walk began with that base, or with a later one; others may be gone.
		o.Entries = slices.DeleteFunc(o.Entries, func(e Entry) bool { return e.Base != nil })
	}
	if err := w.apply(ctx, o, end); err != nil {
		return err
	}
	w.moveTo(end, o)
	o.adopt(w.adopted)
	return nil
}

// moveTo moves behind an object that was applied. One that is no seal shows that those
// before it mean something: a leader writes only when it has looked.
func (w *walker) moveTo(end Position, o *Object) {
	w.p, w.last = end, o.Put
	switch {
	case o.Seal() == nil:
		w.sealed = 0
	case w.sealed == 0:
		w.sealed = o.Slot
	}
}

// Walk reads the log of a bucket that holds a database, from its newest
// checkpoint on, without writing anything. reset is called first, with the
// checkpoint or with nil if there is none: then the log is read from its first
// object on. apply is called for each object in order, with the position behind
// it; changes of the base that the checkpoint accounts for are left out. reset may be called again, with a newer checkpoint, for a server may write
// one meanwhile and delete what lies before it; then everything before is
// forgotten. Errors of either that wrap bucket.ErrNotExist or zodb.ErrCorrupt
// lead to a newer checkpoint if there is one.
//
// Walk returns the position of the log's end, or of what was its end a moment
// ago. All that was acknowledged before it began lies before.
func Walk(ctx context.Context, b bucket.Bucket, f *Format, reset func(*Checkpoint) error, apply func(*Object, Position) error) (Position, error) {
	w := &walker{
		home:  home{b, f.Database, parallel},
		reset: func(_ context.Context, c *Checkpoint) error { return reset(c) },
		apply: func(_ context.Context, o *Object, end Position) error { return apply(o, end) },
	}
	if err := w.begin(ctx); err != nil {
		return w.p, err
	}
	err := w.toEnd(ctx, true)
	return w.p, err
}

// toEnd walks to the end of the log, and makes sure that it is the end, as checkFree
// does.
func (w *walker) toEnd(ctx context.Context, thorough bool) error {
	for {
		if err := w.walk(ctx); err != nil {
			return err
		}
		again, err := w.look(ctx)
		if err == nil && !again {
			again, err = w.checkFree(ctx, thorough)
		}
		if err != nil || !again {
			return err
		}
	}
}
