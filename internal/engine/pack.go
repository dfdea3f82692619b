package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/pydata"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Pack implements zodb.Storage. One pack runs at a time, others wait for it.
func (e *Engine) Pack(ctx context.Context, tid zodb.Tid) error {
	let, err := e.holdFiles(ctx)
	if err != nil {
		return err
	}
	defer let()
	if err := e.ReadOnly(); err != nil {
		return err
	}
	start := time.Now()
	tid = min(tid, e.LastTransaction())
	log := e.opts.Logger.With("bucket", e.bucket.Properties().Location, "to", tid.Time().Format(time.RFC3339))
	if packed := e.packedTo(); tid <= packed {
		log.Info("nothing to pack: the database was packed to a later time", "packed", packed.Time().Format(time.RFC3339))
		return nil
	}
	d, err := e.pack(ctx, tid)
	if err != nil {
		return fmt.Errorf("packing %s: %w", e.bucket.Properties().Location, err)
	}
	log.Info("packed", "revisions", d.Revisions, "objects", d.Objects, "bytes", d.Bytes, "took", time.Since(start).Round(time.Millisecond))
	return nil
}

// pack finds what to drop and drops it.
func (e *Engine) pack(ctx context.Context, tid zodb.Tid) (dropped, error) {
	for {
		// All that is packed has to be in the base.
		if err := e.flush(ctx); err != nil {
			return dropped{}, err
		}
		reign := e.reign() // before the view: what that one lists is there as long as this node leads
		e.state.RLock()
		v, rest := e.state.view, e.state.tails[0].txns
		e.state.RUnlock()
		if len(rest) > 0 && rest[0].Tid <= tid {
			continue // that was what a flush before had failed to write
		}
		d, done, err := e.packView(ctx, reign, v, tid)
		if err != nil || done {
			return d, err
		}
		e.opts.Logger.Info("a transaction refers to what was about to be dropped; the pack begins anew", "bucket", e.bucket.Properties().Location)
	}
}

// packView packs what is in a base. done is false where a later transaction needs
// what would be dropped.
func (e *Engine) packView(ctx context.Context, reign int, v *base.View, tid zodb.Tid) (d dropped, done bool, err error) {
	progress := &progress{log: e.opts.Logger.With("bucket", e.bucket.Properties().Location)}
	if n := len(v.Rewrites); n > 0 {
		progress.log.Info("going on with a pack that was ended: what it has written is used where this one would write the same",
			"segments", n, "bytes", v.RewrittenBytes())
	}
	p, err := newPlan(ctx, v, nothing, tid, !e.opts.NoPackGC, progress)
	if err != nil {
		return d, false, err
	}
	defer p.close()
	if !p.changes {
		return d, true, nil
	}
	var written []string
	defer func() { e.uploads.remove(written...) }()
	segments, err := e.rewrite(ctx, reign, p, progress, &written)
	if err != nil {
		return d, false, err
	}
	var tables []base.Table
	if p.live > 0 || len(segments) > 0 {
		table, err := e.writeTable(ctx, p.entries())
		if err != nil {
			return d, false, err
		}
		written = append(written, table.ID.Name())
		if table.Entries > 0 {
			tables = append(tables, table)
		}
	}
	defer func() {
		e.seq.Lock()
		e.seq.late = nil
		e.seq.Unlock()
	}()
	seen := v.Last()
	for {
		now, needed, err := e.catchUp(ctx, p, seen)
		if err != nil || needed {
			return d, false, err
		}
		seen = now
		done, err := e.adoptPack(ctx, reign, p, seen, segments, tables)
		if err != nil || done {
			return p.dropped, done, err
		}
		if err := bucket.Sleep(ctx, 50*time.Millisecond); err != nil {
			return d, false, err
		}
	}
}

// catchUp looks at the transactions that were settled after seen. needed tells
// whether one of them refers to what would be dropped.
func (e *Engine) catchUp(ctx context.Context, p *packPlan, seen zodb.Tid) (now zodb.Tid, needed bool, err error) {
	e.seq.Lock()
	e.seq.late = make(map[zodb.Tid]*transaction) // what is settled from here on
	pins := slices.Collect(maps.Keys(e.seq.pins))
	e.seq.Unlock()
	needs := func(oid zodb.Oid, source zodb.Tid) (bool, error) {
		if source == zodb.NoTid || source > p.tid {
			return false, nil
		}
		keeps, err := p.keeps(ctx, oid, source)
		return !keeps, err
	}
	for _, pin := range pins {
		if needed, err := needs(pin.oid, pin.serial); needed || err != nil {
			return seen, needed, err
		}
		p.keptPins[pin] = true
	}
	h := e.history(seen+1, zodb.MaxTid, false)
	for {
		t, err := h.next(ctx)
		if t == nil || err != nil {
			return h.to, false, err
		}
		for i, r := range t.records {
			if p.gone.has(r.oid) {
				// By the transaction's count it was there before.
				p.gone.remove(r.oid)
				p.live++
			}
			if r.deleted {
				continue
			}
			if needed, err := needs(r.oid, t.sources[i]); needed || err != nil {
				return seen, needed, err
			}
			if !p.gc {
				continue
			}
			data, err := e.data(ctx, r)
			if err != nil {
				return seen, false, err
			}
			refs, err := pydata.References(data)
			if err != nil {
				return seen, false, unreadable(r.oid, r.serial, err)
			}
			if slices.ContainsFunc(refs, p.garbage.has) {
				return seen, true, nil
			}
		}
	}
}

// unreadable says that nobody knows what a revision refers to.
func unreadable(oid zodb.Oid, serial zodb.Tid, err error) error {
	return fmt.Errorf("cannot tell what revision %s of object %s refers to, so not what is garbage: %w; "+
		"pack without garbage collection", serial, oid, err)
}

// adoptPack has the log adopt what the pack has written, unless a transaction
// that it has not seen may need what is dropped.
func (e *Engine) adoptPack(ctx context.Context, reign int, p *packPlan, seen zodb.Tid, segments []base.Segment, tables []base.Table) (bool, error) {
	let, err := e.holdSince(ctx, reign)
	if err != nil {
		return false, err
	}
	defer let()
	b := e.successor()
	if err := grown(b, p.v.Base); err != nil {
		return false, err
	}
	// There were only flushes meanwhile, which have added to the ends.
	b.Segments = append(slices.Clone(segments), b.Segments[len(p.v.Segments):]...)
	b.Tables = append(slices.Clone(tables), b.Tables[len(p.v.Tables):]...)
	b.Rewrites = nil
	b.Packed = p.tid
	b.Live -= p.before - p.live
	b.BlobBytes -= p.blobsOf
	return e.adopt(ctx, b, txlog.BasePack, p.blobs, func() (bool, error) {
		for pin := range e.seq.pins {
			if pin.serial <= p.tid && !p.keptPins[pin] {
				return false, nil
			}
		}
		for _, unseen := range []map[zodb.Tid]*transaction{e.seq.finishing, e.seq.late} {
			for tid, t := range unseen {
				if tid <= seen {
					continue
				}
				for i := range t.txn.Records {
					if needs, err := p.mayNeed(&t.txn.Records[i], tid); needs || err != nil {
						return false, err
					}
				}
			}
		}
		return true, nil
	})
}

// mayNeed tells whether a record that the plan has not seen needs what is to be
// dropped, or cannot tell without reading.
func (p *packPlan) mayNeed(rec *txlog.Record, serial zodb.Tid) (bool, error) {
	switch {
	case p.gone.has(rec.Oid): // it has to be counted
		return true, nil
	case rec.Kind == txlog.RecordDeletion:
		return false, nil
	case rec.Kind == txlog.RecordShared:
		return true, nil
	case !p.gc:
		return false, nil
	case rec.Kind != txlog.RecordData:
		return true, nil
	}
	refs, err := pydata.References(rec.Data)
	if err != nil {
		return false, unreadable(rec.Oid, serial, err)
	}
	return slices.ContainsFunc(refs, p.garbage.has), nil
}
