package txlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// A Position is a place in the log: what a walk has come to.
type Position struct {
	Epoch   Epoch // of the next object
	Slot    Slot  // of the next object
	Prev    Hash  // what the object there says of the one before
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
	if o.Database != db {
		return bad("it belongs to database %s, not to %s", o.Database, db)
	}
	if o.Epoch != p.Epoch || o.Slot != p.Slot {
		return bad("it says that it is %s", o.Name())
	}
	if seal := o.Seal(); seal != nil {
		if o.Prev != (Hash{}) || o.OidMark != 0 || o.LastTid != zodb.NoTid {
			return bad("a seal says what it cannot know")
		}
		if seal.Next <= p.Epoch {
			return bad("its seal leads from epoch %d to %d", p.Epoch, seal.Next)
		}
		p.Slot++
		p.Prev = chain(p.Prev, o.Hash)
		p.Epoch, p.Leader = seal.Next, seal.By
		return nil
	}
	switch {
	case p.Epoch == 0:
		return bad("only a seal can stand in epoch 0")
	case o.Prev != p.Prev:
		return bad("it does not follow the object of the slot before (the hash chain is broken)")
	case o.OidMark < p.OidMark:
		return bad("its oid high-water mark %s lies below %s of the slot before", o.OidMark, p.OidMark)
	case o.LastTid < p.LastTid:
		return bad("its last tid %s lies below %s of the slot before", o.LastTid, p.LastTid)
	}
	for _, e := range o.Entries {
		if e.Txn != nil && e.Txn.Tid <= p.LastTid {
			return bad("tid %s does not lie above %s", e.Txn.Tid, p.LastTid)
		}
	}
	p.Slot++
	p.Prev, p.OidMark, p.LastTid = o.Hash, o.OidMark, o.LastTid
	return nil
}

// chain links what follows a seal to what comes before it.
func chain(before, seal Hash) Hash { return sha256.Sum256(append(before[:], seal[:]...)) }

// walk calls apply for each object from p on, in order, and moves p, until it
// finds a free slot: the end of the log, or a hole, as checkFree tells. Errors
// of the class zodb.ErrCorrupt name the object.
//
// With early set it lists what there is and fetches several objects at once.
// Then it also ends where the listing did: a leader that is busy writes as fast
// as a walk can follow.
func walk(ctx context.Context, b bucket.Bucket, db DatabaseID, p *Position, early bool, apply func(*Object) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ahead <-chan chan fetched
	if early {
		ahead = fetchListed(ctx, b, *p)
	}
	var got fetched
	for {
		want := Name(p.Epoch, p.Slot)
		for early && got.name < want {
			next, more := <-ahead
			if !more {
				return nil
			}
			if got = <-next; got.name == "" {
				return fmt.Errorf("listing the log of %s: %w", b.Properties().Location, got.err)
			}
		}
		o, err := got.object, got.err
		if got.name != want {
			o, err = readObject(ctx, b, want)
		}
		if errors.Is(err, bucket.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = o.readLists(ctx, b)
		}
		if err == nil {
			err = p.advance(db, o)
		}
		if err != nil {
			return fmt.Errorf("reading the log of %s: %w", b.Properties().Location, err)
		}
		if err := apply(o); err != nil {
			return err
		}
	}
}

// prefetch is how many objects a walk fetches at once.
const prefetch = 16

// A fetched object has a name, unless it was the listing that failed.
type fetched struct {
	name   string
	object *Object
	err    error
}

// fetchListed reads the log objects that a listing shows from p on, prefetch of
// them at a time, and hands them out in order.
func fetchListed(ctx context.Context, b bucket.Bucket, p Position) <-chan chan fetched {
	out := make(chan chan fetched, prefetch)
	hand := func() (chan fetched, error) {
		slot := make(chan fetched, 1)
		select {
		case out <- slot:
			return slot, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	go func() {
		defer close(out)
		last := Name(p.Epoch, p.Slot-1)
		err := bucket.Rereading(ctx, func() error {
			return b.List(ctx, Prefix, last, func(i bucket.Info) error {
				slot, err := hand()
				if err != nil {
					return err
				}
				last = i.Name
				go func() {
					o, err := readObject(ctx, b, i.Name)
					slot <- fetched{i.Name, o, err}
				}()
				return nil
			})
		})
		if err != nil {
			if slot, handErr := hand(); handErr == nil {
				slot <- fetched{err: err}
			}
		}
	}()
	return out
}

// checkFree is called where the slot of p was found free. That is the end of the
// log, unless something shows that the slot had been filled: an object of a
// later epoch, or one of this epoch that says so. Then either a leader has
// filled it just now, and checkFree returns true, or it was lost, which is an
// error. For early see walk.
func checkFree(ctx context.Context, b bucket.Bucket, p Position, early bool) (filled bool, err error) {
	shown, err := witness(ctx, b, p, early)
	if err != nil || shown == "" {
		return false, err
	}
	free := Name(p.Epoch, p.Slot)
	_, err = readObject(ctx, b, free)
	if errors.Is(err, bucket.ErrNotExist) {
		return false, fmt.Errorf("reading the log of %s: %s is missing, but %s shows that it was there: the log is %w; "+
			"restore the object from a copy of the bucket (its versions or replica); no transaction from slot %d on can be read without it",
			b.Properties().Location, free, shown, zodb.ErrCorrupt, p.Slot)
	}
	return true, err
}

// maxWitnesses is how many objects behind a free slot are asked whether it had
// been filled: more than a leader has under way at a time, and some seals.
const maxWitnesses = 64

// witness returns the name of an object which shows that the slot of p was
// filled, or nothing.
func witness(ctx context.Context, b bucket.Bucket, p Position, early bool) (shown string, err error) {
	var behind []string
	later := errors.New("later epoch")
	err = bucket.Rereading(ctx, func() error {
		behind = nil
		return b.List(ctx, Prefix, Name(p.Epoch, p.Slot), func(i bucket.Info) error {
			e, _, ok := parseName(i.Name)
			switch {
			case !ok:
			case e > p.Epoch:
				shown = i.Name
				return later
			default:
				behind = append(behind, i.Name)
			}
			return nil
		})
	})
	if err != nil {
		if errors.Is(err, later) {
			err = nil
		}
		return shown, err
	}
	// The last ones know most.
	behind = behind[max(0, len(behind)-maxWitnesses):]
	says := make([]bool, len(behind))
	var g errgroup.Group
	g.SetLimit(1)
	if early {
		g.SetLimit(prefetch)
	}
	for i, name := range behind {
		g.Go(func() error {
			// One that cannot be read was left behind by a leader that died,
			// or is damaged where it does not matter.
			o, err := readObject(ctx, b, name)
			says[i] = err == nil && o.Settled >= p.Slot
			return nil
		})
	}
	_ = g.Wait()
	if i := slices.Index(says, true); i >= 0 {
		shown = behind[i]
	}
	return shown, context.Cause(ctx)
}

// readObject reads a log object, less the lists of its packs. It does so several
// times if it is damaged: it may have been only on the way here.
func readObject(ctx context.Context, b bucket.Bucket, name string) (o *Object, err error) {
	err = bucket.Rereading(ctx, func() error {
		data, err := b.Get(ctx, name, MaxObjectSize)
		if err != nil {
			return err
		}
		o, err = Decode(name, data)
		return err
	})
	return o, err
}

// readLists reads what the packs in the object drop.
func (o *Object) readLists(ctx context.Context, b bucket.Bucket) error {
	for _, e := range o.Entries {
		if e.Pack != nil {
			if err := e.Pack.read(ctx, b, o.Database); err != nil {
				return fmt.Errorf("%s: %w", o.Name(), err)
			}
		}
	}
	return nil
}

// Walk reads the log of a bucket that holds a database from its first object
// on, without writing anything, and returns the position of its end, or of what
// was its end a moment ago.
func Walk(ctx context.Context, b bucket.Bucket, f *Format, apply func(*Object) error) (Position, error) {
	p := Start()
	if err := walk(ctx, b, f.Database, &p, true, apply); err != nil {
		return p, err
	}
	_, err := checkFree(ctx, b, p, true)
	return p, err
}
