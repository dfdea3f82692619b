// Package base is the part of a database that is not in the log any more: which
// segments and index tables make it up, and how to find a revision in them.
//
// # Bases
//
// A base is an object of the bucket,
//
//	base/<id>                 32 hexadecimal digits
//
// which lists files that never change. It accounts for the log up to a position;
// the database is a base that the log has adopted and what the log says from that
// position on. Each change of the list is a new base: of a flush, a merge, a pack.
//
//	  0   8  magic word "s3zbas\r\n"
//	  8   2  format version, 3
//	 10   2  flags, 0
//	 12   4  number of segments
//	 16  16  database id
//	 32  16  base id
//	 48   8  number: above that of the base that it replaces
//	 56      position in the log: see txlog.Position
//	         8  tid up to which transactions are packed, 0 for none
//	         8  rolled: clients that know no later transaction than this one have
//	            to drop their caches, 0 for none
//	         8  number of objects that exist
//	         8  bytes of blobs that revisions refer to
//	         4  number of tables
//	         4  number of snapshots
//	         4  number of origins
//	         4  number of rewrites
//	         origins, segments, tables, snapshots, rewrites
//	end-32   SHA-256 of everything before
//
// An origin is another bucket in which some of the files are: that of the database
// which this one is a branch of.
//
//	16  its database id
//	 4  length of the location
//	    the location, UTF-8
//
// A segment:
//
//	16  id
//	 4  number of its origin, counted from 1; 0 for this bucket
//	 8  bytes of the file
//	 4  bytes at its end that hold its directory
//	 8  offset from which on headers and references lie
//	 8  number of transactions
//	 8  number of records
//	 8  bytes of data
//	 8  first tid
//	 8  last tid
//	 8  limit: what lies above this tid is not part of the database; 0 for none
//
// Segments stand in the order of their tids, which do not overlap. A table:
//
//	16  id
//	 4  number of its origin
//	 8  bytes of the file
//	 4  bytes at its end that hold its directory
//	 8  number of entries
//	 8  lowest tid
//	 8  highest tid
//	 8  highest oid
//	 8  limit, as for a segment
//
// Tables stand in the order of their tids, which do not overlap either; so the
// newest revision of an object is in the last table that knows the object. A
// snapshot is the name of an earlier base, whose files are not deleted:
//
//	16  id of that base
//	 8  tid of its newest transaction
//	 8  when it was made, seconds since 1970
//	 4  length of the name
//	    the name, UTF-8
//
// A rewrite is what a pack that has not ended has made of some of the segments. It is
// no part of the database: see [Rewrite].
//
//	32  SHA-256 of what was to be made of them
//	 4  number of segments that it was made of
//	 4  number of segments that it became, 0 or 1
//	    their ids, 16 bytes each
//	    the segment that it became
package base

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/fileformat"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A Base lists the files of a database. It must not be changed once it was
// encoded.
type Base struct {
	ID        txlog.BaseID
	Number    uint64 // above that of the base that it replaces
	Position  txlog.Position
	Packed    zodb.Tid
	Rolled    zodb.Tid
	Live      int64
	BlobBytes int64
	Origins   []Origin
	Segments  []Segment
	Tables    []Table
	Snapshots []Snapshot
	Rewrites  []Rewrite // of a pack that has not ended
}

// An Origin is another bucket.
type Origin struct {
	Database txlog.DatabaseID
	Location string
}

// A Segment is a segment of a base.
type Segment struct {
	segment.Info
	Origin uint32
	Limit  zodb.Tid
}

// A Table is an index table of a base.
type Table struct {
	index.Info
	Origin uint32
	Limit  zodb.Tid
}

// A Snapshot is a base with a name.
type Snapshot struct {
	Name    string
	Base    txlog.BaseID
	Last    zodb.Tid
	Created time.Time // to the second
}

// Prefix is what the names of all bases start with.
const Prefix = "base/"

// Name returns the name of the object.
func Name(id txlog.BaseID) string { return Prefix + hex.EncodeToString(id[:]) }

// NewID returns a random id.
func NewID() (id txlog.BaseID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

const (
	magic         = "s3zbas\r\n"
	formatVersion = 3
	startSize     = 56

	segmentSize = 16 + 4 + 8 + 4 + 7*8
	tableSize   = 16 + 4 + 8 + 4 + 5*8
	rewriteSize = sha256.Size + 4 + 4 // at least

	// maxSize bounds what is read as one base: some 600,000 segments.
	maxSize = 64 << 20

	maxText = 4096
)

// Encode returns the bytes of the object.
func (b *Base) Encode(db txlog.DatabaseID) []byte {
	u64, u32 := binary.BigEndian.AppendUint64, binary.BigEndian.AppendUint32
	out := fileformat.AppendStart(nil, magic, formatVersion, len(b.Segments))
	out = append(out, db[:]...)
	out = append(out, b.ID[:]...)
	out = u64(out, b.Number)
	out = b.Position.AppendTo(out)
	out = u64(out, uint64(b.Packed))
	out = u64(out, uint64(b.Rolled))
	out = u64(out, uint64(b.Live))
	out = u64(out, uint64(b.BlobBytes))
	out = u32(out, uint32(len(b.Tables)))
	out = u32(out, uint32(len(b.Snapshots)))
	out = u32(out, uint32(len(b.Origins)))
	out = u32(out, uint32(len(b.Rewrites)))
	for _, o := range b.Origins {
		out = append(out, o.Database[:]...)
		out = fileformat.AppendBytes(out, []byte(o.Location))
	}
	for i := range b.Segments {
		out = b.Segments[i].append(out)
	}
	for _, t := range b.Tables {
		out = append(out, t.ID[:]...)
		out = u32(out, t.Origin)
		out = u64(out, uint64(t.Size))
		out = u32(out, t.Tail)
		for _, v := range []uint64{uint64(t.Entries), uint64(t.First), uint64(t.Last), uint64(t.MaxOid), uint64(t.Limit)} {
			out = u64(out, v)
		}
	}
	for _, s := range b.Snapshots {
		out = append(out, s.Base[:]...)
		out = u64(out, uint64(s.Last))
		out = u64(out, uint64(s.Created.Unix()))
		out = fileformat.AppendBytes(out, []byte(s.Name))
	}
	for i := range b.Rewrites {
		out = b.Rewrites[i].append(out)
	}
	return fileformat.AppendSum(out)
}

func (s *Segment) append(out []byte) []byte {
	u64, u32 := binary.BigEndian.AppendUint64, binary.BigEndian.AppendUint32
	out = append(out, s.ID[:]...)
	out = u32(out, s.Origin)
	out = u64(out, uint64(s.Size))
	out = u32(out, s.Tail)
	for _, v := range []uint64{uint64(s.Scan), uint64(s.Txns), uint64(s.Records), uint64(s.DataBytes), uint64(s.First), uint64(s.Last), uint64(s.Limit)} {
		out = u64(out, v)
	}
	return out
}

// Decode reads a base of that database.
func Decode(db txlog.DatabaseID, id txlog.BaseID, data []byte) (*Base, error) {
	r, segments, _, err := fileformat.Open(Name(id), data, magic, formatVersion, startSize)
	if err != nil {
		return nil, err
	}
	if gotDB, gotID := txlog.DatabaseID(r.ID()), txlog.BaseID(r.ID()); gotDB != db || gotID != id {
		return nil, r.Corrupt("it says that it is %s of database %s", Name(gotID), gotDB)
	}
	b := &Base{ID: id, Number: r.Uint64(), Position: txlog.ReadPosition(r)}
	b.Packed = zodb.Tid(r.Uint64())
	b.Rolled = zodb.Tid(r.Uint64())
	b.Live = int64(r.Uint64())
	b.BlobBytes = int64(r.Uint64())
	tables, snapshots, origins, rewrites := int(r.Uint32()), int(r.Uint32()), int(r.Uint32()), int(r.Uint32())
	if r.Err() != nil {
		return nil, r.Err()
	}
	if n := len(r.Rest()); segments > n/segmentSize || tables > n/tableSize || snapshots > n/36 || origins > n/20 || rewrites > n/rewriteSize {
		return nil, r.Corrupt("%d segments, %d tables, %d snapshots, %d origins and %d rewrites do not fit into %d bytes",
			segments, tables, snapshots, origins, rewrites, n)
	}
	for range origins {
		o := Origin{Database: r.ID()}
		o.Location = text(r)
		b.Origins = append(b.Origins, o)
	}
	last := zodb.NoTid
	for range segments {
		s := readSegment(r, last, origins)
		last = s.End()
		b.Segments = append(b.Segments, s)
	}
	last = zodb.NoTid
	for range tables {
		t := Table{Info: index.Info{ID: r.ID()}, Origin: r.Uint32()}
		t.Size, t.Tail, t.Entries = int64(r.Uint64()), r.Uint32(), int64(r.Uint64())
		t.First, t.Last, t.MaxOid, t.Limit = zodb.Tid(r.Uint64()), zodb.Tid(r.Uint64()), zodb.Oid(r.Uint64()), zodb.Tid(r.Uint64())
		if r.Err() == nil && (t.First <= last || t.Last < t.First || !fits(t.Size, int64(t.Tail), 0) || int(t.Origin) > origins) {
			return nil, r.Corrupt("the entry of %s makes no sense", t.ID.Name())
		}
		last = t.End()
		b.Tables = append(b.Tables, t)
	}
	for range snapshots {
		s := Snapshot{Base: r.ID(), Last: zodb.Tid(r.Uint64()), Created: time.Unix(int64(r.Uint64()), 0).UTC()}
		s.Name = text(r)
		b.Snapshots = append(b.Snapshots, s)
	}
	for range rewrites {
		b.Rewrites = append(b.Rewrites, readRewrite(r))
	}
	return b, r.End()
}

// readSegment reads the entry of a segment behind one that ends with that tid.
func readSegment(r *fileformat.Reader, last zodb.Tid, origins int) Segment {
	s := Segment{Info: segment.Info{ID: r.ID()}, Origin: r.Uint32()}
	s.Size, s.Tail, s.Scan = int64(r.Uint64()), r.Uint32(), int64(r.Uint64())
	s.Txns, s.Records, s.DataBytes = int64(r.Uint64()), int64(r.Uint64()), int64(r.Uint64())
	s.First, s.Last, s.Limit = zodb.Tid(r.Uint64()), zodb.Tid(r.Uint64()), zodb.Tid(r.Uint64())
	if s.First <= last || s.Last < s.First || !fits(s.Size, int64(s.Tail), s.Scan) || int(s.Origin) > origins {
		_ = r.Corrupt("the entry of %s makes no sense", s.ID.Name())
	}
	return s
}

func fits(size, tail, scan int64) bool { return size > 0 && tail <= size && scan >= 0 && scan <= size }

func text(r *fileformat.Reader) string {
	n := r.Uint32()
	if n > maxText {
		_ = r.Corrupt("a text of %d bytes", n)
	}
	return string(r.Bytes(n))
}

// End returns the tid above which nothing of the segment is part of the database.
func (s *Segment) End() zodb.Tid { return end(s.Last, s.Limit) }

// End returns the tid above which nothing of the table is part of the database.
func (t *Table) End() zodb.Tid { return end(t.Last, t.Limit) }

func end(last, limit zodb.Tid) zodb.Tid {
	if limit != zodb.NoTid {
		return min(last, limit)
	}
	return last
}

// Bytes returns how much space the database takes up, its blobs included.
func (b *Base) Bytes() int64 {
	n := b.BlobBytes
	for i := range b.Segments {
		n += b.Segments[i].Size
	}
	for i := range b.Tables {
		n += b.Tables[i].Size
	}
	return n
}

// MaxOid returns the highest oid of any revision.
func (b *Base) MaxOid() (oid zodb.Oid) {
	for i := range b.Tables {
		oid = max(oid, b.Tables[i].MaxOid)
	}
	return oid
}

// Read reads the base of that id. The error is bucket.ErrNotExist where there is
// none: then a newer one has taken its place, or the bucket is damaged.
func Read(ctx context.Context, bk bucket.Bucket, db txlog.DatabaseID, id txlog.BaseID) (b *Base, err error) {
	err = bucket.Rereading(ctx, func() error {
		data, err := bk.Get(ctx, Name(id), maxSize)
		if err != nil {
			return err
		}
		b, err = Decode(db, id, data)
		if err != nil {
			return fmt.Errorf("%s: %w", bk.Properties().Location, err)
		}
		return nil
	})
	return b, err
}

// Write puts a base, again and again until it is there.
func (b *Base) Write(ctx context.Context, bk bucket.Bucket, db txlog.DatabaseID) error {
	data := b.Encode(db)
	if len(data) > maxSize {
		return errors.New("the list of files of the database has become too long: merge segments")
	}
	// The name is random: whatever stands there is an earlier try of this.
	return bucket.Retrying(ctx, func() error { return bk.Put(ctx, Name(b.ID), data) })
}
