package base

import (
	"context"

	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// A Cursor goes over the transactions of a view, in one direction. It is for one
// goroutine at a time, and holds no more than what one header block says and one
// transaction has.
type Cursor struct {
	v       *View
	from    zodb.Tid // lowest tid that is wanted
	to      zodb.Tid // highest
	back    bool
	segment int // the one to be looked at next, an index into v.segs
	block   int // likewise, of its header blocks; -1: not known yet
	txns    []*segment.Txn
}

// Forward returns a cursor over the transactions from one tid to another, both
// included.
func (v *View) Forward(from, to zodb.Tid) *Cursor {
	c := &Cursor{v: v, from: from, to: to, block: -1}
	for c.segment < len(v.segs) && v.segs[c.segment].End() < from {
		c.segment++
	}
	return c
}

// Backward returns a cursor over the same transactions, the newest first.
func (v *View) Backward(from, to zodb.Tid) *Cursor {
	c := &Cursor{v: v, from: from, to: to, back: true, block: -1, segment: len(v.segs) - 1}
	for c.segment >= 0 && v.segs[c.segment].First > to {
		c.segment--
	}
	return c
}

// Next returns the next transaction, with its records but not their data, or nil
// when there are no more.
func (c *Cursor) Next(ctx context.Context) (*segment.Txn, error) {
	for len(c.txns) == 0 {
		if c.segment < 0 || c.segment >= len(c.v.segs) {
			return nil, nil
		}
		s := c.v.segs[c.segment]
		if !c.back && s.First > c.to || c.back && s.End() < c.from {
			return nil, nil
		}
		if err := c.load(ctx, s); err != nil {
			return nil, err
		}
	}
	n := 0
	if c.back {
		n = len(c.txns) - 1
	}
	t := c.txns[n]
	if c.back {
		c.txns = c.txns[:n]
	} else {
		c.txns = c.txns[1:]
	}
	return t, nil
}

// load takes the transactions that begin in the next header block, and moves on.
func (c *Cursor) load(ctx context.Context, s *seg) error {
	dir, err := c.v.r.directory(ctx, s)
	if err != nil {
		return err
	}
	n := len(dir.Headers())
	if c.block < 0 {
		// The block in which the first one that is wanted is, or a neighbour.
		at := c.from
		if c.back {
			at = min(c.to, s.End())
		}
		if c.block = dir.FindHeaders(at); c.block >= n {
			c.block = n - 1
		}
	}
	if c.txns, err = c.v.beginning(ctx, s, dir, c.block); err != nil {
		return err
	}
	limit := min(c.to, s.End())
	for len(c.txns) > 0 && c.txns[0].Tid < c.from {
		c.txns = c.txns[1:]
	}
	for len(c.txns) > 0 && c.txns[len(c.txns)-1].Tid > limit {
		c.txns = c.txns[:len(c.txns)-1]
	}
	if c.back {
		if c.block--; c.block < 0 {
			c.segment--
			c.block = -1
		}
	} else if c.block++; c.block == n {
		c.segment++
		c.block = -1
	}
	return nil
}

// beginning returns the transactions that begin in a header block, whole.
func (v *View) beginning(ctx context.Context, s *seg, dir *segment.Directory, i int) (txns []*segment.Txn, err error) {
	rest := false // only what continues the last one is wanted
	for ; i < len(dir.Headers()); i++ {
		b := dir.Headers()[i]
		raw, err := v.r.block(ctx, s, dir, b)
		if err != nil {
			return nil, err
		}
		over := false
		err = dir.DecodeHeaders(b, raw, func(t *segment.Txn, first bool) error {
			switch {
			case !first && len(txns) > 0 && txns[len(txns)-1].Tid == t.Tid:
				last := txns[len(txns)-1]
				last.Records = append(last.Records, t.Records...)
			case first && !rest:
				own := *t
				txns = append(txns, &own)
			default:
				over = over || rest
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if over || len(txns) == 0 || i+1 < len(dir.Headers()) && dir.Headers()[i+1].First.Tid != txns[len(txns)-1].Tid {
			break
		}
		rest = true
	}
	return txns, nil
}
