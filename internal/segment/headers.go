package segment

import (
	"encoding/binary"

	"s3storage/internal/blob"
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// What the items of a header block begin with.
const (
	itemTransaction  = 1
	itemContinuation = 2
	itemRecord       = 0x80 // and the flags

	flagDeleted = 1
	flagPrev    = 2
	flagSource  = 4
	flagBlob    = 8
)

// headerBuilder gathers the items of a header block.
type headerBuilder struct {
	raw     []byte
	first   Key
	tid     zodb.Tid
	next    uint32 // the lowest number that the next record can have
	oid     zodb.Oid
	records int // of the transaction, in this block
}

func (h *headerBuilder) begin(tid zodb.Tid, meta zodb.TxnMeta, committed uint32) {
	if len(h.raw) == 0 {
		h.first = Key{tid, 0}
	}
	h.raw = append(h.raw, itemTransaction)
	h.raw = binary.AppendUvarint(h.raw, uint64(tid-h.tid))
	h.raw = append(h.raw, meta.Status)
	h.raw = binary.AppendUvarint(h.raw, uint64(committed))
	h.raw = appendBytes(h.raw, meta.User)
	h.raw = appendBytes(h.raw, meta.Description)
	h.raw = appendBytes(h.raw, meta.Extension)
	h.tid, h.next, h.records = tid, 0, 0
}

// full tells whether the next record of the transaction has to go into a block
// of its own. So there is at least one record before it.
func (h *headerBuilder) full() bool { return len(h.raw) >= splitSize && h.records > 0 }

// resume begins a block with a record that belongs to a transaction in the one
// before.
func (h *headerBuilder) resume(k Key) {
	h.first = k
	h.raw = append(h.raw, itemContinuation)
	h.raw = binary.AppendUvarint(h.raw, uint64(k.Tid))
	h.raw = binary.AppendUvarint(h.raw, uint64(k.K))
	h.tid, h.next = k.Tid, k.K
}

func (h *headerBuilder) add(r *Record) {
	flags := byte(itemRecord)
	if r.Deleted {
		flags |= flagDeleted
	}
	if r.Prev != zodb.NoTid {
		flags |= flagPrev
	}
	if r.Source != zodb.NoTid {
		flags |= flagSource
	}
	if r.Blob != nil {
		flags |= flagBlob
	}
	h.raw = append(h.raw, flags)
	h.raw = binary.AppendUvarint(h.raw, uint64(r.K-h.next))
	h.raw = appendStep(h.raw, h.oid, r.Oid)
	if r.Prev != zodb.NoTid {
		h.raw = binary.AppendUvarint(h.raw, uint64(h.tid-r.Prev))
	}
	if !r.Deleted {
		h.raw = binary.AppendUvarint(h.raw, uint64(len(r.Data)))
	}
	if r.Source != zodb.NoTid {
		h.raw = binary.AppendUvarint(h.raw, uint64(h.tid-r.Source))
	}
	if r.Blob != nil {
		h.raw = append(h.raw, r.Blob.ID[:]...)
		h.raw = binary.AppendUvarint(h.raw, uint64(r.Blob.Size))
	}
	h.next, h.oid = r.K+1, r.Oid
	h.records++
}

// DecodeHeaders calls fn for all transactions of a header block, in order, with
// those of their records that are in the block, without data and references. Of
// one that does not begin in this block, first is false, and it has records, but
// no Meta and no Committed. What fn gets shares memory that is not used again.
// It takes some hundred times as much of it as a block has, which is 4 MiB at
// most, and 200 KiB unless somebody wants to do harm.
func (d *Directory) DecodeHeaders(b Block, stored []byte, fn func(t *Txn, first bool) error) error {
	r, err := d.open(b, stored, nil)
	if err != nil {
		return err
	}
	in := headerItems{r: r}
	for len(r.Rest()) > 0 {
		kind := r.Byte()
		if kind < itemRecord && in.txn != nil {
			if err := fn(in.txn, in.whole); err != nil {
				return err
			}
		}
		begun := in.txn != nil
		switch {
		case kind == itemTransaction:
			in.transaction()
		case kind == itemContinuation && !begun:
			in.continuation()
		case kind >= itemRecord && begun:
			in.record(kind &^ itemRecord)
		default:
			return r.Corrupt("an item of kind %d at this place", kind)
		}
		if r.Err() == nil && !begun && in.first != b.First {
			return r.Corrupt("the block begins with %s, by the directory with %s", in.first, b.First)
		}
		if r.Err() != nil {
			return r.Err()
		}
	}
	return fn(in.txn, in.whole) // the block is not empty
}

// headerItems reads the items of a header block.
type headerItems struct {
	r     *fileformat.Reader
	first Key  // of the block
	txn   *Txn // that the records belong to
	whole bool // it begins in this block
	next  uint64
	oid   zodb.Oid
}

func (in *headerItems) transaction() {
	r := in.r
	before := zodb.NoTid
	if in.txn != nil {
		before = in.txn.Tid
	}
	t := &Txn{Tid: before + zodb.Tid(r.Uvarint())}
	if t.Tid <= before && r.Err() == nil {
		_ = r.Corrupt("tid %s does not lie above %s", t.Tid, before)
	}
	t.Meta.Status = r.Byte()
	t.Committed = in.uint32(1<<32 - 1)
	t.Meta.User = readBytes(r, maxMeta)
	t.Meta.Description = readBytes(r, maxMeta)
	t.Meta.Extension = readBytes(r, maxMeta)
	if in.txn == nil {
		in.first = Key{t.Tid, 0}
	}
	in.txn, in.whole, in.next = t, true, 0
}

func (in *headerItems) continuation() {
	in.first = Key{zodb.Tid(in.r.Uvarint()), in.uint32(1<<32 - 1)}
	in.txn, in.next = &Txn{Tid: in.first.Tid}, uint64(in.first.K)
	if in.r.Err() == nil && (in.first.Tid == zodb.NoTid || len(in.r.Rest()) == 0 || in.r.Rest()[0] < itemRecord) {
		_ = in.r.Corrupt("transaction %s is continued without a record", in.first.Tid)
	}
}

func (in *headerItems) record(flags byte) {
	r := in.r
	k := in.next + r.Uvarint()
	in.oid = readStep(r, in.oid)
	rec := Record{K: uint32(k), Oid: in.oid, Deleted: flags&flagDeleted != 0}
	if flags&flagPrev != 0 {
		rec.Prev = in.txn.Tid - zodb.Tid(r.Uvarint())
	}
	if !rec.Deleted {
		rec.Size = in.uint32(maxData)
	}
	if flags&flagSource != 0 {
		rec.Source = in.txn.Tid - zodb.Tid(r.Uvarint())
	}
	if flags&flagBlob != 0 {
		rec.Blob = &blob.Ref{ID: r.ID(), Size: int64(r.Uvarint())}
	}
	switch {
	case r.Err() != nil:
		return
	case !in.whole && len(in.txn.Records) == 0 && k != in.next:
		_ = r.Corrupt("transaction %s is continued with record number %d, not %d", in.txn.Tid, k, in.next)
	case k >= 1<<32 || k < in.next || in.whole && k >= uint64(in.txn.Committed):
		_ = r.Corrupt("record number %d of %d in transaction %s", k, in.txn.Committed, in.txn.Tid)
	case flags&^(flagDeleted|flagPrev|flagSource|flagBlob) != 0:
		_ = r.Corrupt("unknown flags of a record %#02x", flags)
	case flags&flagPrev != 0 && rec.Prev == zodb.NoTid, flags&flagSource != 0 && rec.Source == zodb.NoTid:
		_ = r.Corrupt("a record with a previous revision or a source that is none")
	case rec.Blob != nil && (rec.Blob.Size < 0 || rec.Deleted):
		_ = r.Corrupt("a record with a blob of %d bytes, deletion: %v", rec.Blob.Size, rec.Deleted)
	}
	in.next = k + 1
	in.txn.Records = append(in.txn.Records, rec)
}

// uint32 reads a number of variable length, at most limit.
func (in *headerItems) uint32(limit uint64) uint32 {
	n := in.r.Uvarint()
	if n > limit {
		_ = in.r.Corrupt("%d, where at most %d may be", n, limit)
		return 0
	}
	return uint32(n)
}
