package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/pydata"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Pack implements zodb.Storage. One pack runs at a time, others wait for it.
func (e *Engine) Pack(ctx context.Context, tid zodb.Tid) error {
	select {
	case e.packing <- struct{}{}:
		defer func() { <-e.packing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := e.ReadOnly(); err != nil {
		return err
	}
	start := time.Now()
	e.state.RLock()
	tid = min(tid, e.state.last)
	packed := e.state.packed
	e.state.RUnlock()
	log := e.opts.Logger.With("bucket", e.bucket.Properties().Location, "to", tid.Time().Format(time.RFC3339))
	if tid <= packed {
		log.Info("nothing to pack: the database was packed to a later time", "packed", packed.Time().Format(time.RFC3339))
		return nil
	}
	dropped, written, err := e.pack(ctx, tid)
	if err != nil {
		outcome := "nothing was dropped"
		if written {
			outcome = "whether anything was dropped will be known when the database is opened again"
		}
		return fmt.Errorf("packing %s: %w; %s", e.bucket.Properties().Location, err, outcome)
	}
	log.Info("packed", "revisions", dropped, "took", time.Since(start).Round(time.Millisecond))
	return nil
}

// pack finds what to drop and drops it. It returns how many revisions that were,
// and whether it got as far as the log.
func (e *Engine) pack(ctx context.Context, tid zodb.Tid) (dropped int, written bool, err error) {
	p, err := e.plan(ctx, tid)
	if err != nil {
		return 0, false, err
	}
	entry := &txlog.Pack{Tid: tid}
	release := func() {
		for _, id := range entry.Lists {
			e.uploads.remove(id.Name())
		}
	}
	defer func() {
		if !written || err == nil { // else its lists may be needed yet
			release()
		}
		e.seq.Lock()
		e.seq.late = nil
		e.seq.Unlock()
	}()
	for {
		// Transactions went on meanwhile.
		if err := p.catchUp(ctx); err != nil {
			return 0, false, err
		}
		if p.changed {
			p.changed = false
			entry.Dropped = p.dropped()
			if len(entry.Dropped) == 0 && !p.changes {
				return 0, false, nil
			}
			release() // lists that were written before are left to a sweep
			entry.NameLists()
			for _, id := range entry.Lists {
				e.uploads.add(id.Name())
			}
			if err := entry.WriteLists(ctx, e.bucket, e.format.Database); err != nil {
				return 0, false, err
			}
			continue
		}
		packs, ok, err := e.appendPack(entry, p)
		if err != nil {
			return 0, false, err
		}
		if ok {
			// It is in the log, or will be unless the lead is lost.
			err := e.await(ctx, func() bool { return e.state.packs >= packs })
			return len(entry.Dropped), true, err
		}
		if err := bucket.Sleep(ctx, 10*time.Millisecond); err != nil {
			return 0, false, err
		}
	}
}

// appendPack puts the pack into the log, unless a transaction that p has not
// seen, or one that was voted, may need what is dropped. packs is the number of
// packs that there will be then.
func (e *Engine) appendPack(entry *txlog.Pack, p *packPlan) (packs int, ok bool, err error) {
	e.seq.Lock()
	defer e.seq.Unlock()
	if e.seq.readOnly != nil {
		return 0, false, e.seq.readOnly
	}
	for pin := range e.seq.pins {
		if _, drops := slices.BinarySearchFunc(entry.Dropped, pin, cmpDropped); drops {
			return 0, false, nil
		}
	}
	for _, unseen := range []map[zodb.Tid]*transaction{e.seq.finishing, e.seq.late} {
		for tid, t := range unseen {
			if tid <= p.seen {
				continue
			}
			for i := range t.txn.Records {
				if needs, err := p.mayNeed(&t.txn.Records[i], tid, entry.Dropped); needs || err != nil {
					return 0, false, err
				}
			}
		}
	}
	entry.At = e.opts.Now().Truncate(time.Second)
	e.log.AppendPack(entry)
	e.seq.packs++
	return e.seq.packs, true, nil
}

func cmpDropped(a, b txlog.Dropped) int {
	if a.Oid != b.Oid {
		return cmp.Compare(a.Oid, b.Oid)
	}
	return cmp.Compare(a.Serial, b.Serial)
}

// A packPlan is what a pack to a time would drop, as far as it has looked.
//
// Of each object the revision that was current at the time, and all later
// ones, stay; so does an older one whose data a later one shares, as FileStorage
// has it. With garbage collection, a current revision stays only if the object
// can be reached: over current revisions from the root, or from any later
// revision. (FileStorage follows only later revisions that share older data. It
// loses objects that were unreachable at the time and are referred to later.)
type packPlan struct {
	e    *Engine
	tid  zodb.Tid
	seen zodb.Tid // transactions up to this are accounted for

	// What a pack changes besides: transactions without records go, and
	// records no longer share data. A pack that changes nothing is none.
	changes bool

	changed bool // since dropped was asked last

	old     []txlog.Dropped         // to be dropped in any case
	current map[zodb.Oid]zodb.Tid   // the serials of those that stay if they can be reached
	refs    map[zodb.Oid][]zodb.Oid // what these refer to
	reached map[zodb.Oid]struct{}   // of current
}

// plan looks at every object.
func (e *Engine) plan(ctx context.Context, tid zodb.Tid) (*packPlan, error) {
	p := &packPlan{
		e: e, tid: tid, changed: true,
		current: make(map[zodb.Oid]zodb.Tid),
		refs:    make(map[zodb.Oid][]zodb.Oid),
		reached: make(map[zodb.Oid]struct{}),
	}
	e.state.Lock()
	p.seen = e.state.last
	oids := e.state.index.Oids()
	first, _ := slices.BinarySearchFunc(e.state.txns, e.state.packed+1, byTid)
	last, _ := slices.BinarySearchFunc(e.state.txns, tid+1, byTid)
	p.changes = slices.ContainsFunc(e.state.txns[first:last], func(s settledTxn) bool { return len(s.oids) == 0 })
	e.state.Unlock()

	var scan []scanned
	for some := range slices.Chunk(oids, 1024) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e.state.RLock()
		for _, oid := range some {
			scan = p.objectLocked(oid, scan)
		}
		e.state.RUnlock()
	}
	if e.opts.NoPackGC {
		clear(p.current)
		return p, nil
	}
	if _, ok := p.current[0]; !ok && len(p.current) > 0 && !slices.ContainsFunc(scan, func(s scanned) bool { return s.later }) {
		return nil, errors.New("the database has no root object (oid 0) at that time, so that all of it would be garbage; " +
			"pack without garbage collection, or to another time")
	}
	var later []zodb.Oid
	err := e.scan(ctx, scan, func(s scanned, refs []zodb.Oid) {
		if s.later {
			later = append(later, refs...)
		} else {
			p.refs[s.oid] = refs
		}
	})
	if err != nil {
		return nil, err
	}
	p.reach([]zodb.Oid{0})
	p.reach(later)
	return p, nil
}

// objectLocked decides about the revisions of one object, and adds those whose
// references count to scan.
func (p *packPlan) objectLocked(oid zodb.Oid, scan []scanned) []scanned {
	e := p.e
	all := e.state.index.Revisions(oid)
	after, _ := slices.BinarySearchFunc(all, p.tid+1, func(r index.Revision, tid zodb.Tid) int { return cmp.Compare(r.Serial, tid) })
	shared := make(map[zodb.Tid]bool)
	for _, r := range all[after:] {
		if source := e.state.extras[txlog.Dropped{Oid: oid, Serial: r.Serial}].source; source != zodb.NoTid {
			shared[source] = true
		}
		if r.Serial <= p.seen && !r.Deleted() {
			scan = append(scan, scanned{oid, r, true})
		}
	}
	for i, r := range all[:after] {
		p.changes = p.changes || e.sourceLocked(oid, r.Serial) != zodb.NoTid
		switch {
		case shared[r.Serial]:
			if !r.Deleted() {
				scan = append(scan, scanned{oid, r, true})
			}
		case i == after-1 && !r.Deleted():
			p.current[oid] = r.Serial
			scan = append(scan, scanned{oid, r, false})
		default:
			p.old = append(p.old, txlog.Dropped{Oid: oid, Serial: r.Serial})
		}
	}
	return scan
}

// reach marks what can be reached from the objects, themselves included.
func (p *packPlan) reach(todo []zodb.Oid) {
	for len(todo) > 0 {
		oid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !p.garbage(oid) {
			continue
		}
		p.reached[oid] = struct{}{}
		p.changed = true
		todo = append(todo, p.refs[oid]...)
		delete(p.refs, oid)
	}
}

// garbage tells whether the object would be dropped.
func (p *packPlan) garbage(oid zodb.Oid) bool {
	if _, ok := p.current[oid]; !ok {
		return false
	}
	_, reached := p.reached[oid]
	return !reached
}

// catchUp looks at the transactions that were settled since, and at what those
// share data with that were voted.
func (p *packPlan) catchUp(ctx context.Context) error {
	e := p.e
	e.seq.Lock()
	e.seq.late = nil
	if !p.changed { // else lists are written first, which may take long
		e.seq.late = make(map[zodb.Tid]*transaction)
	}
	sources := slices.Collect(maps.Keys(e.seq.pins))
	e.seq.Unlock()
	var scan []scanned
	e.state.RLock()
	for _, pin := range sources {
		if r, ok := e.state.index.At(pin.Oid, pin.Serial); ok && !r.Deleted() {
			scan = append(scan, scanned{pin.Oid, r, true})
		}
	}
	first, _ := slices.BinarySearchFunc(e.state.txns, p.seen+1, byTid)
	for _, s := range e.state.txns[first:] {
		for _, oid := range s.oids {
			if source := e.state.extras[txlog.Dropped{Oid: oid, Serial: s.tid}].source; source != zodb.NoTid {
				sources = append(sources, txlog.Dropped{Oid: oid, Serial: source})
			}
			if r, ok := e.state.index.At(oid, s.tid); ok && !r.Deleted() {
				scan = append(scan, scanned{oid, r, true})
			}
		}
	}
	p.seen = e.state.last
	e.state.RUnlock()
	for _, s := range sources {
		if p.current[s.Oid] == s.Serial {
			p.reach([]zodb.Oid{s.Oid})
		}
	}
	if len(sources) > 0 {
		slices.SortFunc(sources, cmpDropped)
		before := len(p.old)
		p.old = slices.DeleteFunc(p.old, func(d txlog.Dropped) bool {
			_, shared := slices.BinarySearchFunc(sources, d, cmpDropped)
			return shared
		})
		p.changed = p.changed || len(p.old) < before
	}
	if e.opts.NoPackGC {
		return nil
	}
	return e.scan(ctx, scan, func(_ scanned, refs []zodb.Oid) { p.reach(refs) })
}

// mayNeed tells whether a record that the plan has not seen needs what is to be
// dropped, or cannot tell without reading. A revision that the plan has seen, and
// that is not to be dropped, refers to nothing that is.
func (p *packPlan) mayNeed(rec *txlog.Record, serial zodb.Tid, dropped []txlog.Dropped) (bool, error) {
	switch {
	case rec.Kind == txlog.RecordDeletion:
		return false, nil
	case rec.Kind == txlog.RecordShared:
		_, drops := slices.BinarySearchFunc(dropped, txlog.Dropped{Oid: rec.Oid, Serial: rec.Source}, cmpDropped)
		return drops, nil
	case p.e.opts.NoPackGC:
		return false, nil
	case rec.Kind != txlog.RecordData:
		return true, nil
	}
	refs, err := pydata.References(rec.Data)
	if err != nil {
		return false, unreadable(rec.Oid, serial, err)
	}
	return slices.ContainsFunc(refs, p.garbage), nil
}

// dropped returns all revisions to be dropped, in order.
func (p *packPlan) dropped() []txlog.Dropped {
	all := slices.Clone(p.old)
	for oid, serial := range p.current {
		if !p.e.opts.NoPackGC && p.garbage(oid) {
			all = append(all, txlog.Dropped{Oid: oid, Serial: serial})
		}
	}
	slices.SortFunc(all, cmpDropped)
	return all
}
