package engine

import (
	"context"
	"math"
	"slices"

	"s3storage/internal/base"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
)

const (
	// Files are merged when so many have come together, and those before them
	// are not so many times larger than all of them.
	mergeCount = 4
	mergeRatio = 4

	// fullSegment is from which size on a segment is not merged any more.
	fullSegment = 256 << 20

	// youngTables is how many bytes of tables there may be beside the oldest, and
	// largest. They have to be looked into first, so they had better all be in
	// memory.
	youngTables = 16 << 20
)

// suffix returns from which file on those at the end had better be one, or -1.
func suffix(sizes []int64) int {
	n := len(sizes)
	if n < mergeCount {
		return -1
	}
	i, sum := n-1, sizes[n-1]
	for i > 0 && sizes[i-1] < mergeRatio*sum {
		i--
		sum += sizes[i]
	}
	if n-i < mergeCount {
		return -1
	}
	return i
}

// tablesToMerge returns from which table on, or -1.
func tablesToMerge(tables []base.Table) int {
	var sizes []int64
	young := int64(0)
	for i := range tables {
		sizes = append(sizes, tables[i].Size)
		if i > 0 {
			young += tables[i].Size
		}
	}
	if young > youngTables {
		return 0
	}
	return suffix(sizes)
}

// segmentsToMerge returns from which segment on, or -1.
func segmentsToMerge(segments []base.Segment) int {
	full := len(segments)
	for full > 0 && segments[full-1].Size < fullSegment {
		full--
	}
	var sizes []int64
	for i := range segments[full:] {
		sizes = append(sizes, segments[full+i].Size)
	}
	if i := suffix(sizes); i >= 0 {
		return full + i
	}
	return -1
}

// tables returns how many index tables there are.
func (e *Engine) tables() int {
	e.state.RLock()
	defer e.state.RUnlock()
	return len(e.state.view.Tables)
}

// merge makes one file of several small ones, until there are few enough.
func (e *Engine) merge(ctx context.Context) error {
	select {
	case e.packing <- struct{}{}:
		defer func() { <-e.packing }()
	default:
		return nil // a pack counts on its files
	}
	for {
		merged, err := e.mergeOnce(ctx)
		if err != nil || !merged {
			return err
		}
	}
}

func (e *Engine) mergeOnce(ctx context.Context) (bool, error) {
	reign := e.reign()
	e.state.RLock()
	v := e.state.view
	e.state.RUnlock()
	firstTable, firstSegment := tablesToMerge(v.Tables), segmentsToMerge(v.Segments)
	if firstTable < 0 && firstSegment < 0 {
		return false, nil
	}
	// Nothing but flushes goes on meanwhile, which add to the ends.
	tables, segments := v.Tables[:max(firstTable, 0)], v.Segments[:max(firstSegment, 0)]
	if firstTable >= 0 {
		table, err := e.writeTable(ctx, v.Entries(ctx, firstTable))
		if err != nil {
			return false, err
		}
		defer e.uploads.remove(table.ID.Name())
		tables = append(slices.Clone(tables), table)
	}
	if firstSegment >= 0 {
		seg, err := e.writeSegment(ctx, math.MaxInt, e.blocksAhead(), func(w *segment.Writer) error {
			for i := firstSegment; i < len(v.Segments); i++ {
				if err := v.Scan(ctx, i, segment.WithData|segment.WithReferences, copyInto(w)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		defer e.uploads.remove(seg.ID.Name())
		segments = append(slices.Clone(segments), seg)
	}
	let, err := e.holdSince(ctx, reign)
	if err != nil {
		return false, err
	}
	defer let()
	b := e.successor()
	if err := grown(b, v.Base); err != nil {
		return false, err
	}
	if firstTable >= 0 {
		b.Tables = append(tables, b.Tables[len(v.Tables):]...)
	}
	if firstSegment >= 0 {
		b.Segments = append(segments, b.Segments[len(v.Segments):]...)
		b.DropRewrites(v.Segments[firstSegment:])
	}
	return e.adopt(ctx, b, txlog.BaseMerge, nil, nil)
}

// copyInto returns a function that writes transactions into a segment, which may
// come in portions.
func copyInto(w *segment.Writer) func(*segment.Txn) error {
	var last *segment.Txn
	return func(t *segment.Txn) error {
		if last == nil || last.Tid != t.Tid {
			last = &segment.Txn{Tid: t.Tid}
			if err := w.Begin(t.Tid, t.Meta, t.Committed); err != nil {
				return err
			}
		}
		for i := range t.Records {
			if err := w.Add(&t.Records[i]); err != nil {
				return err
			}
		}
		return nil
	}
}
