package check

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"s3storage/internal/base"
	"s3storage/internal/extsort"
	"s3storage/internal/index"
	"s3storage/internal/pydata"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

const (
	sortMemory = 64 << 20
	keySize    = 16

	isDeleted = 1
	isInTail  = 2
	isUnknown = 4 // its references are
)

// records compares the index with the segments, and looks whether what objects
// refer to exists. All parts were found to be sound by themselves.
func (c *check) records(ctx context.Context) error {
	// oid, tid, k, flags; and oid, tid, oid that is referred to
	all := &extsort.Sorter{KeySize: keySize, Memory: sortMemory}
	defer func() { _ = all.Close() }() // a file without a name
	refs := &extsort.Sorter{KeySize: keySize, Memory: sortMemory}
	defer func() { _ = refs.Close() }() // a file without a name
	for i := range c.view.Segments {
		err := c.view.Scan(ctx, i, segment.WithReferences, func(t *segment.Txn) error {
			for i := range t.Records {
				r := &t.Records[i]
				flags := byte(0)
				switch {
				case r.Deleted:
					flags = isDeleted
				case !r.RefsKnown:
					flags = isUnknown
				}
				if err := addRecord(all, refs, r.Oid, t.Tid, r.K, flags, r.Refs); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return c.found(err, c.view.Segments[i].ID.Name(), "")
		}
	}
	for _, t := range c.tail {
		for k := range t.Records {
			r := &t.Records[k]
			flags := byte(isInTail)
			var oids []zodb.Oid
			if r.Kind == txlog.RecordDeletion {
				flags |= isDeleted
			} else {
				data, err := c.tailData(ctx, r.Oid, t.Tid)
				if err == nil {
					if oids, err = pydata.References(data); err != nil {
						flags |= isUnknown
						err = nil
					}
				}
				if err := c.found(err, "", fmt.Sprintf("object %s, revision %s cannot be read", r.Oid, t.Tid)); err != nil {
					return err
				}
			}
			if err := addRecord(all, refs, r.Oid, t.Tid, uint32(k), flags, oids); err != nil {
				return err
			}
		}
	}
	return c.compare(ctx, all, refs)
}

func addRecord(all, refs *extsort.Sorter, oid zodb.Oid, tid zodb.Tid, k uint32, flags byte, to []zodb.Oid) error {
	key := binary.BigEndian.AppendUint64(nil, uint64(oid))
	key = binary.BigEndian.AppendUint64(key, uint64(tid))
	if flags&isUnknown == 0 {
		for _, o := range to {
			if err := refs.Add(binary.BigEndian.AppendUint64(key[:keySize:keySize], uint64(o))); err != nil {
				return err
			}
		}
	}
	return all.Add(append(binary.BigEndian.AppendUint32(key, k), flags))
}

// tailData returns the data of a revision that is in the tail, or that one in the
// tail shares.
func (c *check) tailData(ctx context.Context, oid zodb.Oid, tid zodb.Tid) ([]byte, error) {
	for _, t := range c.tail {
		if t.Tid != tid {
			continue
		}
		for k := range t.Records {
			r := &t.Records[k]
			switch {
			case r.Oid != oid:
			case r.Kind == txlog.RecordData:
				return r.Data, nil
			case r.Kind == txlog.RecordPayload:
				return txlog.ReadRecord(ctx, c.bucket, t.Payloads[r.Payload].Name(), r.Span, oid)
			case r.Kind == txlog.RecordShared && r.Source < tid:
				return c.tailData(ctx, oid, r.Source)
			}
		}
	}
	e, ok, err := c.view.At(ctx, oid, tid)
	switch {
	case err != nil:
		return nil, err
	case !ok || e.Deleted:
		return nil, fmt.Errorf("the log is %w: a revision of object %s shares the data of revision %s, which is not there", zodb.ErrCorrupt, oid, tid)
	}
	return c.view.Data(ctx, e)
}

// compare goes over all revisions, those of an object one after the other.
func (c *check) compare(ctx context.Context, all, refs *extsort.Sorter) error {
	entry, stopEntries := iter.Pull2(c.view.Entries(ctx, 0))
	defer stopEntries()
	ref, stopRefs := iter.Pull2(refs.Sorted())
	defer stopRefs()
	e, err, more := entry()
	to, refErr, moreRefs := ref()
	// oid that is referred to, oid that refers
	wanted := &extsort.Sorter{KeySize: 8, Memory: sortMemory}
	defer func() { _ = wanted.Close() }() // a file without a name
	live := &extsort.Sorter{KeySize: 8, Memory: sortMemory}
	defer func() { _ = live.Close() }() // a file without a name
	inBase := int64(0)                  // objects that exist in the base

	var last []byte     // the revision before
	var lastBase []byte // and the newest one of the same object in the base
	end := func() error {
		if len(lastBase) > 0 && lastBase[keySize+4]&isDeleted == 0 {
			inBase++
		}
		if len(last) == 0 || last[keySize+4]&isDeleted != 0 {
			return nil
		}
		if last[keySize+4]&isUnknown != 0 {
			oid, tid := keys(last)
			c.report.Warnings.add("", fmt.Sprintf("the references of object %s, revision %s cannot be told", oid, tid), "a pack will not collect garbage")
		}
		for moreRefs && refErr == nil && string(to[:keySize]) <= string(last[:keySize]) {
			if string(to[:keySize]) == string(last[:keySize]) {
				if err := wanted.Add(append(append([]byte{}, to[keySize:]...), last[:8]...)); err != nil {
					return err
				}
			}
			to, refErr, moreRefs = ref()
		}
		if refErr != nil {
			return refErr
		}
		return live.Add(last[:8])
	}
	for rec, sortErr := range all.Sorted() {
		if sortErr != nil {
			return sortErr
		}
		if last != nil && string(last[:8]) != string(rec[:8]) {
			if err := end(); err != nil {
				return err
			}
			lastBase = nil
		}
		last = append(last[:0:0], rec...)
		if rec[keySize+4]&isInTail != 0 {
			continue
		}
		lastBase = last
		c.report.Records++
		oid, tid := keys(rec)
		want := index.Entry{Oid: oid, Tid: tid, K: binary.BigEndian.Uint32(rec[keySize:]), Deleted: rec[keySize+4]&isDeleted != 0}
		for more && err == nil && (e.Oid < oid || e.Oid == oid && e.Tid < tid) {
			c.report.Damage.add("", fmt.Sprintf("the index has revision %s of object %s, which is in no segment", e.Tid, e.Oid), "it cannot be read")
			e, err, more = entry()
		}
		switch {
		case err != nil:
			return c.found(err, "", "")
		case !more || e.Oid != oid || e.Tid != tid:
			c.report.Damage.add("", fmt.Sprintf("the index lacks revision %s of object %s", tid, oid), "it cannot be found")
			continue
		case e != want:
			c.report.Damage.add("", fmt.Sprintf("the index says that revision %s of object %s is %+v, it is %+v", tid, oid, e, want), "it cannot be read")
		}
		e, err, more = entry()
	}
	if err := end(); err != nil {
		return err
	}
	for ; more && err == nil; e, err, more = entry() {
		c.report.Damage.add("", fmt.Sprintf("the index has revision %s of object %s, which is in no segment", e.Tid, e.Oid), "it cannot be read")
	}
	if err != nil {
		return c.found(err, "", "")
	}
	if inBase != c.view.Live {
		c.report.Damage.add(baseName(c.view), fmt.Sprintf("it says that there are %d objects, there are %d", c.view.Live, inBase), "only the number that is shown is wrong")
	}
	return c.dangling(wanted, live)
}

func baseName(v *base.View) string { return base.Name(v.ID) }

func keys(rec []byte) (zodb.Oid, zodb.Tid) {
	return zodb.Oid(binary.BigEndian.Uint64(rec)), zodb.Tid(binary.BigEndian.Uint64(rec[8:]))
}

// dangling warns of references to objects that do not exist.
func (c *check) dangling(wanted, live *extsort.Sorter) error {
	there, stop := iter.Pull2(live.Sorted())
	defer stop()
	oid, err, more := there()
	for w, sortErr := range wanted.Sorted() {
		if sortErr != nil {
			return sortErr
		}
		for more && err == nil && string(oid) < string(w[:8]) {
			oid, err, more = there()
		}
		if err != nil {
			return err
		}
		if !more || string(oid) != string(w[:8]) {
			c.report.Warnings.add("", fmt.Sprintf("object %s refers to object %s, which does not exist",
				zodb.Oid(binary.BigEndian.Uint64(w[8:])), zodb.Oid(binary.BigEndian.Uint64(w))), "to load it fails with a POSKeyError")
		}
	}
	return nil
}
