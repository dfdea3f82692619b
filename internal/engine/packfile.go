package engine

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"slices"

	"s3storage/internal/blob"
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// Kinds of revisions in a plan.
const (
	planOld     = iota // to be dropped
	planCurrent        // stays if it can be reached
	planStays
)

// A planRevision is a revision in the file of objects.
type planRevision struct {
	tid     zodb.Tid
	k       uint32
	kind    byte
	deleted bool
	class   uint64
	size    uint64
	blob    *blob.Ref
}

const (
	flagDeleted = 1 << iota
	flagOpaque
	flagHasBlob
)

func appendOids(b []byte, oids []zodb.Oid) []byte {
	b = binary.AppendUvarint(b, uint64(len(oids)))
	for _, oid := range oids {
		b = binary.AppendUvarint(b, uint64(oid))
	}
	return b
}

func readOids(r *fileformat.Reader, oids []zodb.Oid) []zodb.Oid {
	oids = oids[:0]
	for n := r.Uvarint(); n > 0 && r.Err() == nil; n-- {
		oids = append(oids, zodb.Oid(r.Uvarint()))
	}
	return oids
}

// A candidate is a revision as it comes out of the sorter.
type candidate struct {
	planRevision
	source zodb.Tid
	opaque bool
	refs   []zodb.Oid
}

func readCandidate(record []byte) (oid zodb.Oid, c candidate, err error) {
	r := fileformat.NewReader("file of a pack", 0, record)
	oid, c.tid = zodb.Oid(r.Uint64()), zodb.Tid(r.Uint64())
	c.k = uint32(r.Uvarint())
	flags := r.Uvarint()
	c.deleted, c.opaque = flags&flagDeleted != 0, flags&flagOpaque != 0
	c.size, c.class, c.source = r.Uvarint(), r.Uvarint(), zodb.Tid(r.Uvarint())
	if flags&flagHasBlob != 0 {
		c.blob = &blob.Ref{ID: r.ID(), Size: int64(r.Uvarint())}
	}
	if !c.deleted && !c.opaque {
		c.refs = readOids(r, nil)
	}
	return oid, c, r.End()
}

// appendObject appends an object to the file of objects.
func appendObject(b []byte, oid zodb.Oid, revs []candidate) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, uint64(oid))
	b = binary.AppendUvarint(b, uint64(len(revs)))
	var refs []zodb.Oid
	for _, c := range revs {
		b = binary.AppendUvarint(b, uint64(c.tid))
		b = binary.AppendUvarint(b, uint64(c.k))
		flags := uint64(c.kind) << 3
		if c.deleted {
			flags |= flagDeleted
		}
		if c.blob != nil {
			flags |= flagHasBlob
		}
		b = binary.AppendUvarint(b, flags)
		b = binary.AppendUvarint(b, c.class)
		b = binary.AppendUvarint(b, c.size)
		if c.blob != nil {
			b = append(b, c.blob.ID[:]...)
			b = binary.AppendUvarint(b, uint64(c.blob.Size))
		}
		if c.kind == planCurrent {
			refs = c.refs
		}
	}
	b = appendOids(b, refs)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// A planObject is an object in the file of objects.
type planObject struct {
	oid  zodb.Oid
	revs []planRevision
	refs []zodb.Oid // of the current revision
}

func (o *planObject) read(b []byte) error {
	r := fileformat.NewReader("file of a pack", 0, b)
	o.oid = zodb.Oid(r.Uvarint())
	o.revs = o.revs[:0]
	for n := r.Uvarint(); n > 0 && r.Err() == nil; n-- {
		c := planRevision{tid: zodb.Tid(r.Uvarint()), k: uint32(r.Uvarint())}
		flags := r.Uvarint()
		c.kind, c.deleted = byte(flags>>3), flags&flagDeleted != 0
		c.class, c.size = r.Uvarint(), r.Uvarint()
		if flags&flagHasBlob != 0 {
			c.blob = &blob.Ref{ID: r.ID(), Size: int64(r.Uvarint())}
		}
		o.revs = append(o.revs, c)
	}
	o.refs = readOids(r, o.refs)
	return r.End()
}

// each reads the objects that lie in a part of the file, in order. An object is
// valid until the next.
func (p *packPlan) each(start, end int64) iter.Seq2[*planObject, error] {
	return func(yield func(*planObject, error) bool) {
		in := bufio.NewReaderSize(io.NewSectionReader(p.objects, start, end-start), int(min(end-start+16, 1<<20)))
		var o planObject
		var size [4]byte
		var b []byte
		for {
			_, err := io.ReadFull(in, size[:])
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				n := int(binary.BigEndian.Uint32(size[:]))
				b = slices.Grow(b[:0], n)[:n]
				_, err = io.ReadFull(in, b)
			}
			if err == nil {
				err = o.read(b)
			}
			if !yield(&o, err) || err != nil {
				return
			}
		}
	}
}
