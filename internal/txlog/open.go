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
// last epoch. If somebody else was faster, it goes on reading. When its seal
// stands, it leads. The former leader, if there is one, finds the seal where
// its next object should go; what had been acknowledged lies before it.
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
	p, err := Walk(ctx, b, f, apply)
	if err != nil {
		return nil, err
	}
	if err := takeOver(ctx, b, f.Database, &p, opts.Node, apply); err != nil {
		return nil, err
	}
	return newLog(b, NewLeader(opts.Config, f.Database, p), o, opts.Logger), nil
}

// takeOver seals the epoch that p is the end of, wherever that end is by then,
// and moves p behind the seal.
func takeOver(ctx context.Context, b bucket.Bucket, db DatabaseID, p *Position, node string, apply func(*Object) error) error {
	for {
		seal := &Object{
			Header: Header{
				Database: db,
				Epoch:    p.Epoch,
				Slot:     p.Slot,
				Put:      NewPutID(),
				Prev:     p.Prev,
				LogStart: 1,
				Settled:  p.Slot - 1,
				OidMark:  p.OidMark,
				LastTid:  p.LastTid,
			},
			Entries: []Entry{{Seal: &Seal{Next: p.Epoch + 1, By: node[:min(len(node), maxNodeName)]}}},
		}
		data := seal.encode()
		// The outcome of a put that failed is unknown: put the same again.
		err := retrying(ctx, func() error { return b.PutIfAbsent(ctx, seal.Name(), data) })
		if err != nil && !errors.Is(err, bucket.ErrExist) {
			return fmt.Errorf("taking over as leader of %s: %w", b.Properties().Location, err)
		}
		// Whoever it was, and this may have been an earlier try of our own:
		// what stands in the slot now is part of the log.
		stood := false
		err = walk(ctx, b, db, p, nil, func(o *Object) error {
			if o.Put == seal.Put {
				stood = true
			}
			return apply(o)
		})
		switch {
		case err != nil:
			return err
		case stood && p.Epoch == seal.Entries[0].Seal.Next:
			return nil
		}
	}
}

func checkClock(ctx context.Context, b bucket.Bucket) error {
	var skew time.Duration
	err := rereading(ctx, func() error {
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
