package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/pydata"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

const (
	scanWindow = 4 << 20  // bytes that are read at once, unless a record has more
	scanGap    = 64 << 10 // bytes that are read in vain rather than asked for separately
	scanAsync  = 8        // objects of the bucket that are read at a time
)

// A scanned revision is one whose references count.
type scanned struct {
	oid   zodb.Oid
	r     index.Revision
	later bool // than the time of the pack
}

// scan reads the revisions and has take told what each refers to, in any order,
// one at a time. Revisions that lie close to each other are read together.
func (e *Engine) scan(ctx context.Context, all []scanned, take func(scanned, []zodb.Oid)) error {
	slices.SortFunc(all, func(a, b scanned) int {
		if a.r.Object != b.r.Object {
			return cmp.Compare(a.r.Object, b.r.Object)
		}
		return cmp.Compare(a.r.Offset, b.r.Offset)
	})
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(scanAsync)
	for len(all) > 0 && gctx.Err() == nil {
		start, end, n := all[0].r.Offset, all[0].r.Offset+all[0].r.Size, 1
		for n < len(all) {
			next := all[n].r
			if next.Object != all[0].r.Object || next.Offset+next.Size-start > scanWindow || next.Offset > end+scanGap {
				break
			}
			end = max(end, next.Offset+next.Size)
			n++
		}
		window := all[:n]
		all = all[n:]
		g.Go(func() error {
			return e.scanWindow(gctx, window, txlog.Span{Offset: start, Size: end - start}, func(s scanned, refs []zodb.Oid) {
				mu.Lock()
				defer mu.Unlock()
				take(s, refs)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(all) > 0 { // nothing failed, but there was no time for the rest
		return context.Cause(ctx)
	}
	return nil
}

// scanWindow reads a part of an object and takes the revisions that lie in it.
func (e *Engine) scanWindow(ctx context.Context, window []scanned, span txlog.Span, take func(scanned, []zodb.Oid)) error {
	e.state.RLock()
	name := e.state.objects[window[0].r.Object].name
	e.state.RUnlock()
	var raw []byte
	err := bucket.Rereading(ctx, func() (err error) {
		raw, err = e.bucket.GetRange(ctx, name, int64(span.Offset), int64(span.Size))
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range window {
		at := txlog.Span{Offset: s.r.Offset, Size: s.r.Size}
		var data []byte
		if first := int(at.Offset - span.Offset); first+int(at.Size) <= len(raw) {
			data, err = txlog.DecodeRecord(name, at, raw[first:][:at.Size], s.oid)
		}
		if data == nil || err != nil {
			// Alone, and again if it was damaged on the way.
			if data, err = txlog.ReadRecord(ctx, e.bucket, name, at, s.oid); err != nil {
				return err
			}
		}
		refs, err := pydata.References(data)
		if err != nil {
			return unreadable(s.oid, s.r.Serial, err)
		}
		take(s, refs)
	}
	return nil
}

// unreadable says that nobody knows what a revision refers to.
func unreadable(oid zodb.Oid, serial zodb.Tid, err error) error {
	return fmt.Errorf("cannot tell what revision %s of object %s refers to, so not what is garbage: %w; "+
		"pack without garbage collection", serial, oid, err)
}
