package engine

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/extsort"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// A packPlan is what a pack to a time would drop from a base.
//
// Of each object the revision that was current at the time, and all later
// ones, stay; so does an older one whose data a later one shares, as FileStorage
// has it. With garbage collection, a current revision stays only if the object
// can be reached: over current revisions from the root, or from any later
// revision. (FileStorage follows only later revisions that share older data. It
// loses objects that were unreachable at the time and are referred to later.)
//
// It is made in memory that grows by some bits an object, and two files: all
// revisions, sorted, and from these the objects, in order. The objects that can be
// reached are marked in passes over the second file. A pass goes over those that
// are pending, in ascending order; what they refer to is pending then, and is done
// in the same pass if it lies ahead. Parts without pending objects are not read.
type packPlan struct {
	v      *base.View
	behind iter.Seq2[*segment.Txn, error]
	tid    zodb.Tid
	gc     bool

	objects *os.File
	size    int64
	groups  []group
	classes []string
	numbers map[string]uint64 // of classes

	pending *oidSet
	reached *oidSet
	garbage *oidSet
	gone    *oidSet // garbage that no later transaction has changed

	live    int64 // objects that exist afterwards
	before  int64 // and now
	changes bool  // it drops something, or makes other differences that one can see
	dropped dropped
	drops   *extsort.Sorter // keys of what is dropped
	blobs   []string        // names of blobs
	blobsOf int64           // their bytes
	byClass map[string]dropped

	keptPins map[pin]bool // that are not dropped
}

// dropped counts revisions.
type dropped struct {
	Revisions, Objects, Bytes int64
}

// A group of objects lies together in the file.
type group struct {
	first  zodb.Oid
	offset int64
}

const (
	sortMemory   = 24 << 20
	groupObjects = 128
)

// close removes the files.
func (p *packPlan) close() {
	if p.objects != nil {
		_ = p.objects.Close() // it has no name any more
	}
	if p.drops != nil {
		_ = p.drops.Close()
	}
}

// nothing is behind a base that accounts for all.
func nothing(func(*segment.Txn, error) bool) {}

// newPlan looks at all revisions of a base and of transactions behind it.
func newPlan(ctx context.Context, v *base.View, behind iter.Seq2[*segment.Txn, error], tid zodb.Tid, gc bool, progress *progress) (*packPlan, error) {
	p := &packPlan{v: v, behind: behind, tid: tid, gc: gc, numbers: make(map[string]uint64),
		pending: newOidSet(), reached: newOidSet(), garbage: newOidSet(), gone: newOidSet(), byClass: make(map[string]dropped), keptPins: make(map[pin]bool)}
	if err := p.make(ctx, progress); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *packPlan) make(ctx context.Context, progress *progress) error {
	all := &extsort.Sorter{KeySize: 16, Memory: sortMemory}
	defer func() { _ = all.Close() }()
	if err := p.gather(ctx, all, progress); err != nil {
		return err
	}
	if err := p.group(ctx, all); err != nil {
		return err
	}
	if p.gc {
		if err := p.mark(ctx, progress); err != nil {
			return err
		}
	}
	return p.sweep(ctx)
}

// gather puts all revisions into the sorter.
func (p *packPlan) gather(ctx context.Context, all *extsort.Sorter, progress *progress) error {
	parts := segment.HeadersOnly | segment.WithReferences
	total, done := int64(0), int64(0)
	for i := range p.v.Segments {
		total += p.v.Segments[i].Records
	}
	for i := range p.v.Segments {
		err := p.v.Scan(ctx, i, parts, func(t *segment.Txn) error {
			done += int64(len(t.Records))
			return p.take(t, all)
		})
		if err != nil {
			return err
		}
		progress.tell("reading what objects refer to", done, total)
	}
	for t, err := range p.behind {
		if err != nil {
			return err
		}
		for i := range t.Records {
			describe(&t.Records[i])
		}
		if err := p.take(t, all); err != nil {
			return err
		}
	}
	return nil
}

// take puts the revisions of a transaction, or of a part of one, into the sorter.
func (p *packPlan) take(t *segment.Txn, all *extsort.Sorter) error {
	if t.Tid <= p.tid && t.Tid > p.v.Packed && t.Committed == 0 {
		p.changes = true
	}
	var b []byte
	for i := range t.Records {
		rec := &t.Records[i]
		b = binary.BigEndian.AppendUint64(b[:0], uint64(rec.Oid))
		b = binary.BigEndian.AppendUint64(b, uint64(t.Tid))
		b = binary.AppendUvarint(b, uint64(rec.K))
		flags := uint64(0)
		if rec.Deleted {
			flags |= flagDeleted
		}
		if !rec.Deleted && !rec.RefsKnown {
			flags |= flagOpaque
		}
		if rec.Blob != nil {
			flags |= flagHasBlob
		}
		b = binary.AppendUvarint(b, flags)
		b = binary.AppendUvarint(b, uint64(rec.Size))
		b = binary.AppendUvarint(b, p.class(rec.Class))
		b = binary.AppendUvarint(b, uint64(rec.Source))
		if rec.Blob != nil {
			b = append(b, rec.Blob.ID[:]...)
			b = binary.AppendUvarint(b, uint64(rec.Blob.Size))
		}
		if rec.RefsKnown {
			b = appendOids(b, rec.Refs)
		}
		if err := all.Add(b); err != nil {
			return err
		}
	}
	return nil
}

func (p *packPlan) class(name string) uint64 {
	n, ok := p.numbers[name]
	if !ok {
		n = uint64(len(p.classes))
		p.numbers[name] = n
		p.classes = append(p.classes, name)
	}
	return n
}

// group decides about the revisions of each object, as far as that can be done
// without knowing what can be reached, and writes the file of objects.
func (p *packPlan) group(ctx context.Context, all *extsort.Sorter) error {
	f, err := os.CreateTemp("", "s3storage-pack-")
	if err != nil {
		return fmt.Errorf("making a file for the pack: %w", err)
	}
	_ = os.Remove(f.Name()) // it stays open, and is gone when this process is
	p.objects = f
	w := bufio.NewWriterSize(f, 1<<20)
	var oid zodb.Oid
	var revs []candidate
	objects, root, later := 0, false, false
	var b []byte
	end := func() error {
		if len(revs) == 0 {
			return nil
		}
		if err := p.classify(oid, revs); err != nil {
			return err
		}
		for _, c := range revs {
			root = root || oid == 0 && c.kind == planCurrent
			later = later || c.kind == planStays && !c.deleted
		}
		if objects%groupObjects == 0 {
			p.groups = append(p.groups, group{oid, p.size})
		}
		objects++
		b = appendObject(b[:0], oid, revs)
		p.size += int64(len(b))
		_, err := w.Write(b)
		return err
	}
	for record, err := range all.Sorted() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		next, c, err := readCandidate(record)
		if err != nil {
			return err
		}
		if next != oid || len(revs) == 0 {
			if err := end(); err != nil {
				return err
			}
			oid, revs = next, revs[:0]
		}
		revs = append(revs, c)
	}
	if err := end(); err != nil {
		return err
	}
	if p.gc && !root && !later && p.before > 0 {
		return errors.New("the database has no root object (oid 0) at that time, so that all of it would be garbage; " +
			"pack without garbage collection, or to another time")
	}
	p.pending.add(0)
	return w.Flush()
}

// classify sets the kinds of the revisions of one object, and marks what later
// ones refer to.
func (p *packPlan) classify(oid zodb.Oid, revs []candidate) error {
	after, _ := slices.BinarySearchFunc(revs, p.tid+1, func(c candidate, tid zodb.Tid) int { return int(int64(c.tid) - int64(tid)) })
	if !revs[len(revs)-1].deleted {
		p.before++
	}
	sources := make(map[zodb.Tid]bool) // of later ones
	for _, later := range revs[after:] {
		if later.source != zodb.NoTid {
			sources[later.source] = true
		}
	}
	for i := range revs {
		c := &revs[i]
		shared := sources[c.tid]
		switch {
		case i >= after || shared && !c.deleted:
			c.kind = planStays
		case i == after-1 && !c.deleted:
			c.kind = planCurrent
		default:
			c.kind = planOld
		}
		if i < after && c.source != zodb.NoTid && c.tid > p.v.Packed {
			_, there := slices.BinarySearchFunc(revs, c.source, func(o candidate, tid zodb.Tid) int { return cmp.Compare(o.tid, tid) })
			p.changes = p.changes || there
		}
		if !p.gc || c.deleted || c.kind == planOld {
			continue
		}
		if c.opaque {
			return fmt.Errorf("cannot tell what revision %s of object %s refers to, so not what is garbage: "+
				"its pickle cannot be read; pack without garbage collection", c.tid, oid)
		}
		if c.kind == planStays {
			for _, ref := range c.refs {
				p.pending.add(ref)
			}
		}
	}
	return nil
}

// mark marks what can be reached.
func (p *packPlan) mark(ctx context.Context, progress *progress) error {
	marked := int64(0)
	for !p.pending.empty() {
		for _, key := range p.pending.keys() {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := p.markChunk(p.pending.take(key))
			if err != nil {
				return err
			}
			marked += n
			progress.tell("marking what can be reached", marked, p.before)
		}
	}
	return nil
}

// markChunk marks pending objects, which are in order.
func (p *packPlan) markChunk(oids []zodb.Oid) (marked int64, err error) {
	for len(oids) > 0 {
		i, exact := slices.BinarySearchFunc(p.groups, oids[0], func(g group, oid zodb.Oid) int {
			switch {
			case g.first < oid:
				return -1
			case g.first > oid:
				return 1
			}
			return 0
		})
		if !exact {
			i--
		}
		if i < 0 { // there is no such object
			oids = oids[1:]
			continue
		}
		end, n := p.size, len(oids) // clients may refer to any oid
		if i+1 < len(p.groups) {
			end = p.groups[i+1].offset
			n, _ = slices.BinarySearch(oids, p.groups[i+1].first)
		}
		wanted := oids[:n]
		oids = oids[n:]
		if !slices.ContainsFunc(wanted, func(oid zodb.Oid) bool { return !p.reached.has(oid) }) {
			continue
		}
		for o, err := range p.each(p.groups[i].offset, end) {
			if err != nil {
				return marked, err
			}
			if _, ok := slices.BinarySearch(wanted, o.oid); !ok || p.reached.has(o.oid) {
				continue
			}
			p.reached.add(o.oid)
			marked++
			for _, ref := range o.refs {
				if !p.reached.has(ref) {
					p.pending.add(ref)
				}
			}
		}
	}
	return marked, nil
}

// sweep finds what is dropped.
func (p *packPlan) sweep(ctx context.Context) error {
	p.drops = &extsort.Sorter{KeySize: 12, Memory: sortMemory}
	var key [12]byte
	for o, err := range p.each(0, p.size) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		var kept, gone []*blob.Ref
		exists, current := false, false
		for i := range o.revs {
			c := &o.revs[i]
			if p.stays(o.oid, c) {
				exists = !c.deleted
				if c.blob != nil {
					kept = append(kept, c.blob)
				}
				continue
			}
			binary.BigEndian.PutUint64(key[:], uint64(c.tid))
			binary.BigEndian.PutUint32(key[8:], c.k)
			if err := p.drops.Add(key[:]); err != nil {
				return err
			}
			d := dropped{Revisions: 1, Bytes: int64(c.size)}
			if c.kind == planCurrent {
				p.garbage.add(o.oid)
				d.Objects = 1
				current = true
			}
			if c.blob != nil {
				gone = append(gone, c.blob)
			}
			p.dropped.add(d)
			sum := p.byClass[p.classes[c.class]]
			sum.add(d)
			p.byClass[p.classes[c.class]] = sum
		}
		if exists {
			p.live++
		} else if current && !o.revs[len(o.revs)-1].deleted {
			p.gone.add(o.oid)
		}
		p.dropBlobs(kept, gone)
	}
	p.changes = p.changes || p.dropped.Revisions > 0
	return nil
}

func (d *dropped) add(more dropped) {
	d.Revisions += more.Revisions
	d.Objects += more.Objects
	d.Bytes += more.Bytes
}

// dropBlobs takes note of the blobs of one object that no revision has any more.
func (p *packPlan) dropBlobs(kept, gone []*blob.Ref) {
	for i, b := range gone {
		same := func(o *blob.Ref) bool { return o.ID == b.ID }
		if !slices.ContainsFunc(kept, same) && !slices.ContainsFunc(gone[:i], same) {
			p.blobs = append(p.blobs, b.ID.Name())
			p.blobsOf += b.Size
		}
	}
}

func (p *packPlan) stays(oid zodb.Oid, c *planRevision) bool {
	switch c.kind {
	case planStays:
		return true
	case planCurrent:
		return !p.gc || p.reached.has(oid)
	}
	return false
}

// entries are the index entries of what stays, in order.
func (p *packPlan) entries() iter.Seq2[index.Entry, error] {
	return func(yield func(index.Entry, error) bool) {
		for o, err := range p.each(0, p.size) {
			if err != nil {
				yield(index.Entry{}, err)
				return
			}
			for i := range o.revs {
				c := &o.revs[i]
				if p.stays(o.oid, c) && !yield(index.Entry{Oid: o.oid, Tid: c.tid, K: c.k, Deleted: c.deleted}, nil) {
					return
				}
			}
		}
	}
}

// keeps tells whether the plan keeps the revision of an object which was current
// at its time, and it is the one of that serial.
func (p *packPlan) keeps(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (bool, error) {
	e, _, ok, err := p.v.Before(ctx, oid, p.tid+1)
	return ok && e.Tid == serial && !e.Deleted && !p.garbage.has(oid), err
}
