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
	Node   string // names this node to people, in its seal
	Logger *slog.Logger
}

// Open makes this node the leader of a database. It reads the log, telling the
// observer of every object, and puts a seal into the first free slot of the
// last epoch. When its seal is part of the log, it leads. The former leader, if
// there is one, finds the seal where its next object should go; what had been
// acknowledged lies before it.
//
// If somebody else was faster, it reads what they wrote, and tries again some
// slots further on, twice as many each time: a leader that commits all the time
// always has some slots under way and would win every race for the first free
// one. A seal in a later slot takes effect when the leader comes to it. That is
// why a seal says nothing of the object before it. One that the log does not
// come to, because the leader died before, has no meaning; the candidate then
// finds the first free slot without contest.
//
// [Observer.Settled] is called for the objects read as well.
func Open(ctx context.Context, b bucket.Bucket, f *Format, o Observer, opts Options) (*Log, error) {
	if err := checkClock(ctx, b); err != nil {
		return nil, err
	}
	apply := func(obj *Object) error {
		o.Settled(obj)
		return nil
	}
	p := Start()
	if err := takeOver(ctx, b, f.Database, &p, opts.Node, true, apply); err != nil {
		return nil, err
	}
	return newLog(b, NewLeader(opts.Config, f.Database, p), o, opts.Logger), nil
}

// maxAhead is how far beyond the first free slot a seal is put: beyond what a
// leader has under way, and will have by the time that the seal is there.
const maxAhead = 255

// takeOver seals the epoch that p is the end of, wherever that end is by then,
// and moves p behind the seal. For early see walk.
func takeOver(ctx context.Context, b bucket.Bucket, db DatabaseID, p *Position, node string, early bool, apply func(*Object) error) error {
	mine := make(map[PutID]bool)
	for ahead := Slot(0); ; ahead = min(2*ahead+1, maxAhead) {
		// What counts is which seal the log comes to first.
		from, leads := p.Slot, false
		err := walk(ctx, b, db, p, early, func(o *Object) error {
			leads = mine[o.Put]
			return apply(o)
		})
		if err != nil || leads {
			return err
		}
		if p.Slot == from {
			ahead = 0 // nobody writes
		}
		if ahead == 0 {
			if filled, err := checkFree(ctx, b, *p, early); err != nil {
				return err
			} else if filled {
				continue
			}
		}
		seal := &Object{
			Header: Header{
				Database: db,
				Epoch:    p.Epoch,
				Slot:     p.Slot + ahead,
				Put:      NewPutID(),
				LogStart: 1,
				Settled:  p.Slot - 1,
			},
			Entries: []Entry{{Seal: &Seal{Next: p.Epoch + 1, By: node[:min(len(node), maxNodeName)]}}},
		}
		mine[seal.Put] = true
		data := seal.encode()
		// The outcome of a put that failed is unknown: put the same again.
		err = bucket.Retrying(ctx, func() error { return b.PutIfAbsent(ctx, seal.Name(), data) })
		if err != nil && !errors.Is(err, bucket.ErrExist) {
			return fmt.Errorf("taking over as leader of %s: %w", b.Properties().Location, err)
		}
	}
}

func checkClock(ctx context.Context, b bucket.Bucket) error {
	var skew time.Duration
	err := bucket.Rereading(ctx, func() error {
		there, err := b.Now(ctx)
		skew = time.Since(there)
		return err
	})
	if err != nil {
		return err
	}
	if skew.Abs() > maxClockSkew {
		return fmt.Errorf("the clock of this machine is %s away from that of %s: transactions would get wrong times; "+
			"set the clock (NTP), then start again", skew.Round(time.Second), b.Properties().Location)
	}
	return nil
}
