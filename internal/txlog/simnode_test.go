package txlog

import (
	"context"
	"fmt"
	"slices"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// A simNode is a node that leads or has led. As an observer it knows the
// transactions of the database.
type simNode struct {
	world   *world
	leader  *Leader
	lastTid zodb.Tid
	dead    bool
	deposed bool
	asleep  int // until that step it does nothing, and its calls get nowhere

	tids    []zodb.Tid
	places  []place // behind each object, and where it began
	newest  *Checkpoint
	bases   map[BaseID]Position // which it has made, and the positions they account for
	adopted map[BaseID]Slot
	todo    []BaseID // adopted; there is no checkpoint yet
}

// A place is a position in the log and how many transactions lie before it.
type place struct {
	p    Position
	tids int
}

func (n *simNode) Reset(_ context.Context, c *Checkpoint) error {
	if c == nil {
		n.tids, n.places = nil, []place{{Start(), 0}}
		return nil
	}
	tids, ok := n.world.bases[c.Base]
	if !ok {
		return fmt.Errorf("base %s: %w", c.Base, bucket.ErrNotExist)
	}
	n.tids, n.places = slices.Clone(tids), []place{{c.Position, len(tids)}}
	return nil
}

func (n *simNode) Fetch(_ context.Context, o *Object) error {
	for _, e := range o.Entries {
		if e.Base == nil {
			continue
		}
		base, ok := n.world.bases[e.Base.ID]
		if !ok {
			return fmt.Errorf("base %s: %w", e.Base.ID, bucket.ErrNotExist)
		}
		if len(base) > len(n.tids) || !slices.Equal(base, n.tids[:len(base)]) {
			n.world.problems = append(n.world.problems, fmt.Sprintf("base %s is not what the log says", e.Base.ID))
		}
	}
	return nil
}

func (n *simNode) Settled(s Settled) {
	for _, e := range s.Object.Entries {
		if e.Txn != nil {
			n.tids = append(n.tids, e.Txn.Tid)
		}
	}
	n.places = append(n.places, place{s.End, len(n.tids)})
}

func (n *simNode) Leads(Position) {}

func (n *simNode) Ended(Epoch) {}

func (n *simNode) Deposed(Lost, []Entry) {}
