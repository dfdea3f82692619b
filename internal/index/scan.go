package index

import (
	"bytes"
	"context"
	"iter"

	"s3storage/internal/zodb"
)

// scanBytes is how many bytes of leaves a scan has in memory.
const scanBytes = 4 << 20

// Scan goes over all entries of the table in order, from an object on. It reads
// some MiB at a time. After an error it ends.
func (d *Directory) Scan(ctx context.Context, fetch Fetch, from zodb.Oid) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		i, _ := d.Find(from, zodb.NoTid)
		for l, err := range d.leaves(ctx, fetch, i) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for e := range l.From(from, zodb.NoTid) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// fetchTries is how often a leaf is fetched before it is taken to be damaged.
const fetchTries = 4

// leaves goes over the leaves from number i on.
func (d *Directory) leaves(ctx context.Context, fetch Fetch, i int) iter.Seq2[*Leaf, error] {
	return func(yield func(*Leaf, error) bool) {
		for i < d.Leaves() {
			at, n := d.Leaf(i).Offset, int64(0)
			end := i
			for ; end < d.Leaves() && n < scanBytes; end++ {
				n += int64(d.size[end])
			}
			raw, err := fetch(ctx, at, n)
			if err == nil && int64(len(raw)) != n {
				err = d.info.ID.corrupt(at, "%d bytes expected, %d are there", n, len(raw))
			}
			for ; err == nil && i < end; i++ {
				var l *Leaf
				size := d.size[i]
				l, err = d.Open(i, raw[:size:size])
				for tries := 1; err != nil && tries < fetchTries; tries++ {
					// It may have been damaged on the way.
					var again []byte
					if again, err = fetch(ctx, d.Leaf(i).Offset, int64(size)); err == nil {
						l, err = d.Open(i, again)
					}
				}
				if err == nil && !yield(l, nil) {
					return
				}
				raw = raw[size:]
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// Check reads every byte of the table, and returns the first error.
func (d *Directory) Check(ctx context.Context, fetch Fetch) error {
	header, err := fetch(ctx, 0, headerSize)
	if err != nil {
		return err
	}
	if err := d.checkHeader(header); err != nil {
		return err
	}
	found := d.info
	found.Entries, found.First, found.Last = 0, zodb.NoTid, zodb.NoTid
	for l, err := range d.leaves(ctx, fetch, 0) {
		if err != nil {
			return err
		}
		for e := range l.From(0, zodb.NoTid) {
			if found.Entries == 0 {
				found.First = e.Tid
			}
			found.Entries++
			found.First, found.Last = min(found.First, e.Tid), max(found.Last, e.Tid)
		}
	}
	begin := d.info.Size - int64(d.info.Tail)
	if found != d.info {
		return d.info.ID.corrupt(begin, "%d entries, from transaction %s to %s; %d, from %s to %s expected",
			found.Entries, found.First, found.Last, d.info.Entries, d.info.First, d.info.Last)
	}
	tail, err := fetch(ctx, begin, int64(d.info.Tail))
	if err != nil {
		return err
	}
	_, err = ReadDirectory(d.db, d.info, tail)
	return err
}

func (d *Directory) checkHeader(header []byte) error {
	if want := appendHeader(nil, d.db, d.info.ID); !bytes.Equal(header, want) {
		return d.info.ID.corrupt(0, "it begins with %x, not with %x", header, want)
	}
	return nil
}
