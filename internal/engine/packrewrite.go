package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// packParts is into how many parts at most a pack divides its work: see rewrite. Each
// is a base, which stays in memory until its grace period is over.
const packParts = 32

// rewritesAsync is how many segments are written anew at a time.
func (e *Engine) rewritesAsync() int {
	if e.opts.Unserved {
		return 2
	}
	return 1
}

// rewrite writes the segments anew of which something is dropped, and returns all.
// Neighbours become one, until it is large.
//
// Whenever a part of the work is done, the log adopts a base that lists what was
// written so far. So a pack that is ended can be gone on with. What such a one has
// written is taken where the same would be written again: the same is left out of the
// same segments, whatever the pack is to.
func (e *Engine) rewrite(ctx context.Context, reign int, p *packPlan, progress *progress, written *[]string) (all []base.Segment, err error) {
	next, stop := iter.Pull2(p.drops.Sorted())
	defer stop()
	drops := dropReader{next: next}
	before := rewritesOf(p.v)
	var groups []*rewriting
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(e.rewritesAsync())
	defer func() {
		if err != nil {
			cancel(err)
		}
		if waited := g.Wait(); waited != nil || err != nil {
			err = context.Cause(gctx) // what came first
		}
		for _, r := range groups {
			if r.anew {
				*written = append(*written, r.result.ID.Name())
			}
			if r.result.Txns > 0 {
				all = append(all, r.result)
			}
		}
	}()
	done, total := int64(0), int64(0)
	for i := range p.v.Segments {
		total += p.v.Segments[i].Size
	}
	part := &packPart{least: max(e.opts.PackPart, total/packParts), finished: make(chan *rewriting, len(p.v.Segments))}
	group := &rewriting{v: p.v}
	end := func() error {
		if group.size == 0 {
			return nil
		}
		r := group
		groups = append(groups, r)
		group = &rewriting{v: p.v}
		r.what = r.hash()
		if found, err := e.reuse(gctx, r, before); found || err != nil {
			return err
		}
		g.Go(func() error {
			seg, err := e.writeSegment(gctx, math.MaxInt, e.blocksAhead(), func(w *segment.Writer) error { return r.fill(gctx, w) })
			if err == nil {
				r.result, r.anew, r.gone = seg, true, nil
				part.finished <- r
			}
			return err
		})
		return nil
	}
	for i := range p.v.Segments {
		s := &p.v.Segments[i]
		gone, err := drops.upTo(s.End())
		if err == nil {
			err = gctx.Err()
		}
		if err == nil && (len(gone) == 0 || group.size >= fullSegment/2 || before.begins[s.ID]) {
			err = end()
		}
		if err == nil {
			err = e.adoptPart(gctx, reign, p, part)
		}
		if err != nil {
			return nil, err
		}
		progress.tell("writing segments anew", done, total)
		done += s.Size
		if len(gone) == 0 {
			groups = append(groups, &rewriting{result: *s})
			continue
		}
		if group.size == 0 {
			group.first = i
		}
		group.end = i + 1
		group.gone = append(group.gone, gone...)
		group.size += s.Size
	}
	return nil, end()
}

// A rewriting is of segments that become one.
type rewriting struct {
	v          *base.View
	first, end int           // which of its segments
	gone       []segment.Key // what is dropped of them, in order
	size       int64
	what       [sha256.Size]byte // of all that the result depends on

	result base.Segment // the one that they become
	anew   bool         // it was written
}

func (r *rewriting) segments() []base.Segment { return r.v.Segments[r.first:r.end] }

func (r *rewriting) hash() (sum [sha256.Size]byte) {
	h := sha256.New()
	b := binary.BigEndian.AppendUint32(nil, uint32(r.end-r.first))
	for _, s := range r.segments() {
		b = append(b, s.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(s.End()))
	}
	_, _ = h.Write(b) // never fails
	for _, key := range r.gone {
		b = binary.BigEndian.AppendUint64(b[:0], uint64(key.Tid))
		b = binary.BigEndian.AppendUint32(b, key.K)
		_, _ = h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// fill writes what is left of the segments. What is dropped is of transactions that
// are packed, so that one of which nothing is left goes as well.
func (r *rewriting) fill(ctx context.Context, w *segment.Writer) error {
	gone := r.gone
	write := copyInto(w)
	for i := r.first; i < r.end; i++ {
		err := r.v.ScanWithout(ctx, i, segment.WithData|segment.WithReferences, gone, func(t *segment.Txn) error {
			had := len(t.Records)
			t.Records = slices.DeleteFunc(t.Records, func(rec segment.Record) bool {
				drop := len(gone) > 0 && gone[0] == segment.Key{Tid: t.Tid, K: rec.K}
				if drop {
					gone = gone[1:]
				}
				return drop
			})
			if had > 0 && len(t.Records) == 0 {
				return nil
			}
			return write(t)
		})
		if err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		return fmt.Errorf("%s is %w: it has no record %s, of which its index and references tell",
			r.v.Segments[r.first].ID.Name(), zodb.ErrCorrupt, gone[0])
	}
	return nil
}

// A packPart is what was written and is not yet listed in a base.
type packPart struct {
	least    int64 // bytes of the segments that have to come together
	finished chan *rewriting

	ready []*rewriting
	size  int64
}

// adoptPart has the log adopt a base that lists what was written, if that is enough.
func (e *Engine) adoptPart(ctx context.Context, reign int, p *packPlan, part *packPart) error {
	for len(part.finished) > 0 {
		r := <-part.finished
		part.ready = append(part.ready, r)
		part.size += r.size
	}
	if len(part.ready) == 0 || part.size < part.least {
		return nil
	}
	let, err := e.holdSince(ctx, reign)
	if err != nil {
		return err
	}
	defer let()
	b := e.successor()
	if err := grown(b, p.v.Base); err != nil {
		return err
	}
	for _, r := range part.ready {
		b.DropRewrites(r.segments())
		rewrite := base.Rewrite{What: r.what}
		if r.result.Txns > 0 {
			rewrite.Into = r.result
		}
		for _, s := range r.segments() {
			rewrite.Of = append(rewrite.Of, s.ID)
		}
		b.Rewrites = append(b.Rewrites, rewrite)
	}
	part.ready, part.size = nil, 0
	_, err = e.adopt(ctx, b, txlog.BaseRewrite, nil, nil)
	return err
}

// rewritesBefore are those of packs that have not ended.
type rewritesBefore struct {
	of     map[[sha256.Size]byte]*base.Rewrite // by what was to be made
	begins map[segment.ID]bool                 // with this segment one begins, or ends before it
}

func rewritesOf(v *base.View) rewritesBefore {
	before := rewritesBefore{make(map[[sha256.Size]byte]*base.Rewrite), make(map[segment.ID]bool)}
	ends := make(map[segment.ID]bool)
	for i := range v.Rewrites {
		w := &v.Rewrites[i]
		before.of[w.What] = w
		before.begins[w.Of[0]] = true
		ends[w.Of[len(w.Of)-1]] = true
	}
	for i := range v.Segments[:max(len(v.Segments)-1, 0)] {
		if ends[v.Segments[i].ID] {
			before.begins[v.Segments[i+1].ID] = true
		}
	}
	return before
}

// reuse takes what a pack before has made of the segments, if that is the same and the
// file is there.
func (e *Engine) reuse(ctx context.Context, r *rewriting, before rewritesBefore) (bool, error) {
	w, ok := before.of[r.what]
	if !ok {
		return false, nil
	}
	if w.Into.Txns > 0 {
		var last []byte
		err := bucket.Rereading(ctx, func() (err error) {
			last, err = e.bucket.GetRange(ctx, w.Into.ID.Name(), w.Into.Size-1, 1)
			return err
		})
		if errors.Is(err, bucket.ErrNotExist) || err == nil && len(last) == 0 {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	r.result, r.gone = w.Into, nil
	return true, nil
}

// A dropReader reads what is dropped, in the order of segments.
type dropReader struct {
	next func() ([]byte, error, bool)
	one  *segment.Key // that was read and not yet returned
}

// upTo returns what is dropped of transactions up to a tid, beyond what it returned
// before.
func (r *dropReader) upTo(tid zodb.Tid) (keys []segment.Key, err error) {
	for {
		if r.one == nil {
			b, err, ok := r.next()
			if err != nil || !ok {
				return keys, err
			}
			r.one = &segment.Key{Tid: zodb.Tid(binary.BigEndian.Uint64(b)), K: binary.BigEndian.Uint32(b[8:])}
		}
		if r.one.Tid > tid {
			return keys, nil
		}
		keys = append(keys, *r.one)
		r.one = nil
	}
}
