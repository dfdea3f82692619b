package txlog

import (
	"context"
	"errors"
	"fmt"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// A Position is a place in the log: what a walk has come to.
type Position struct {
	Epoch   Epoch // of the next object
	Slot    Slot  // of the next object
	Prev    Hash  // of the object before
	OidMark zodb.Oid
	LastTid zodb.Tid
	Leader  string // who leads Epoch, by its seal; empty in epoch 0
}

// Start is the position before the first object.
func Start() Position { return Position{Epoch: 0, Slot: 1} }

// advance moves past o, which must be the object of the position in database
// db. It returns an error of the class zodb.ErrCorrupt if o does not belong
// there.
func (p *Position) advance(db DatabaseID, o *Object) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s is %w: %s", Name(p.Epoch, p.Slot), zodb.ErrCorrupt, fmt.Sprintf(format, args...))
	}
	seal := o.Seal()
	switch {
	case o.Database != db:
		return bad("it belongs to database %s, not to %s", o.Database, db)
	case o.Epoch != p.Epoch || o.Slot != p.Slot:
		return bad("it says that it is %s", o.Name())
	case o.Prev != p.Prev:
		return bad("it does not follow the object of the slot before (the hash chain is broken)")
	case o.OidMark < p.OidMark:
		return bad("its oid high-water mark %s lies below %s of the slot before", o.OidMark, p.OidMark)
	case o.LastTid < p.LastTid:
		return bad("its last tid %s lies below %s of the slot before", o.LastTid, p.LastTid)
	case seal == nil && p.Epoch == 0:
		return bad("only a seal can stand in epoch 0")
	case seal != nil && seal.Next <= p.Epoch:
		return bad("its seal leads from epoch %d to %d", p.Epoch, seal.Next)
	}
	for _, e := range o.Entries {
		if e.Txn != nil && e.Txn.Tid <= p.LastTid {
			return bad("tid %s does not lie above %s", e.Txn.Tid, p.LastTid)
		}
	}
	p.Slot++
	p.Prev, p.OidMark, p.LastTid = o.Hash, o.OidMark, o.LastTid
	if seal != nil {
		p.Epoch, p.Leader = seal.Next, seal.By
	}
	return nil
}

// prefetch is how many objects a walk fetches at once.
const prefetch = 16

// walk calls apply for each object from p on, in order, and moves p, until
// the end of the log. Errors of the class zodb.ErrCorrupt name the object.
// ahead may be nil.
func walk(ctx context.Context, b bucket.Bucket, db DatabaseID, p *Position, ahead <-chan chan fetched, apply func(*Object) error) error {
	var got fetched
	for {
		// A listing may have grown old: it only tells what to fetch early.
		want := Name(p.Epoch, p.Slot)
		for ahead != nil && got.name < want {
			next, more := <-ahead
			if !more {
				break
			}
			got = <-next
		}
		o, err := got.object, got.err
		if got.name != want {
			o, err = readObject(ctx, b, want)
		}
		if errors.Is(err, bucket.ErrNotExist) {
			var hole bool
			if o, hole, err = findHole(ctx, b, *p); err == nil && o == nil && !hole {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("reading the log of %s: %w", b.Properties().Location, err)
		}
		if err := p.advance(db, o); err != nil {
			return fmt.Errorf("reading the log of %s: %w", b.Properties().Location, err)
		}
		if err := apply(o); err != nil {
			return err
		}
	}
}

type fetched struct {
	name   string
	object *Object
	err    error
}

// fetchListed reads the log objects that a listing shows from p on,
// prefetch of them at a time, and hands them out in order. What goes
// wrong only ends it early.
func fetchListed(ctx context.Context, b bucket.Bucket, p Position) <-chan chan fetched {
	out := make(chan chan fetched, prefetch)
	go func() {
		defer close(out)
		_ = b.List(ctx, Prefix, Name(p.Epoch, p.Slot-1), func(i bucket.Info) error {
			slot := make(chan fetched, 1)
			select {
			case out <- slot:
			case <-ctx.Done():
				return ctx.Err()
			}
			go func() {
				o, err := readObject(ctx, b, i.Name)
				slot <- fetched{i.Name, o, err}
			}()
			return nil
		})
	}()
	return out
}

// findHole is called where the slot of p was found free. That is the end of
// the log, unless something shows that the slot had been filled: an object of
// a later epoch, or one of this epoch that says so. Then either a leader has
// filled it just now, and findHole returns its object, or it was lost.
func findHole(ctx context.Context, b bucket.Bucket, p Position) (*Object, bool, error) {
	free := Name(p.Epoch, p.Slot)
	shown, err := witness(ctx, b, p)
	if err != nil || shown == "" {
		return nil, false, err
	}
	o, err := readObject(ctx, b, free)
	if errors.Is(err, bucket.ErrNotExist) {
		return nil, true, fmt.Errorf("%s is missing, but %s shows that it was there: the log is %w; "+
			"restore the object from a copy of the bucket (its versions or replica); no transaction from slot %d on can be read without it",
			free, shown, zodb.ErrCorrupt, p.Slot)
	}
	return o, false, err
}

// witness returns the name of an object which shows that the slot of p was
// filled, or nothing.
func witness(ctx context.Context, b bucket.Bucket, p Position) (shown string, err error) {
	found := errors.New("found")
	err = rereading(ctx, func() error {
		return b.List(ctx, Prefix, Name(p.Epoch, p.Slot), func(i bucket.Info) error {
			e, _, ok := parseName(i.Name)
			if !ok {
				return nil
			}
			if e == p.Epoch {
				o, err := readObject(ctx, b, i.Name)
				if err != nil || o.Settled < p.Slot {
					return nil // left behind by a leader that died, or damaged where it does not matter
				}
			}
			shown = i.Name
			return found
		})
	})
	if errors.Is(err, found) {
		err = nil
	}
	return shown, err
}

// readObject reads a log object, several times if it is damaged: it may have
// been only on the way here.
func readObject(ctx context.Context, b bucket.Bucket, name string) (o *Object, err error) {
	err = rereading(ctx, func() error {
		data, err := b.Get(ctx, name, MaxObjectSize)
		if err != nil {
			return err
		}
		o, err = Decode(name, data)
		return err
	})
	return o, err
}

// Walk reads the log of a bucket that holds a database from its first object
// on, without writing anything, and returns the position of its end.
func Walk(ctx context.Context, b bucket.Bucket, f *Format, apply func(*Object) error) (Position, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := Start()
	err := walk(ctx, b, f.Database, &p, fetchListed(ctx, b, p), apply)
	return p, err
}
