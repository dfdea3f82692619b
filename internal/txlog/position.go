package txlog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A Position is a place in the log: what a walk has come to.
type Position struct {
	Epoch   Epoch // of the next object
	Slot    Slot  // of the next object
	Prev    Hash  // what the object there says of the one before
	OidMark zodb.Oid
	LastTid zodb.Tid
	Leader  Node // leads Epoch, by its seal; none in epoch 0
}

// Start is the position before the first object.
func Start() Position { return Position{Epoch: 0, Slot: 1} }

// AppendTo appends the position as files have it: epoch (8), slot (8), hash
// chain (32), oid mark (8), last tid (8), length (4) and bytes of the leader's
// name, length (4) and bytes of its address. [ReadPosition] reads it.
func (p Position) AppendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(p.Slot))
	b = append(b, p.Prev[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.OidMark))
	b = binary.BigEndian.AppendUint64(b, uint64(p.LastTid))
	return p.Leader.append(b)
}

// ReadPosition reads what AppendTo has written. The reader keeps the error.
func ReadPosition(r *fileformat.Reader) (p Position) {
	p.Epoch = Epoch(r.Uint64())
	p.Slot = Slot(r.Uint64())
	copy(p.Prev[:], r.Bytes(uint32(len(p.Prev))))
	p.OidMark = zodb.Oid(r.Uint64())
	p.LastTid = zodb.Tid(r.Uint64())
	p.Leader = readNode(r)
	if r.Err() == nil && p.Slot == 0 {
		_ = r.Corrupt("a position in the log at slot 0")
	}
	return p
}

// advance moves past o, which must be the object of the position in database
// db. It returns an error of the class zodb.ErrCorrupt if o does not belong
// there.
func (p *Position) advance(db DatabaseID, o *Object) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s is %w: %s", Name(p.Epoch, p.Slot), zodb.ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if o.Database != db {
		return bad("it belongs to database %s, not to %s", o.Database, db)
	}
	if o.Epoch != p.Epoch || o.Slot != p.Slot {
		return bad("it says that it is %s", o.Name())
	}
	if seal := o.Seal(); seal != nil {
		if o.Prev != (Hash{}) || o.OidMark != 0 || o.LastTid != zodb.NoTid {
			return bad("a seal says what it cannot know")
		}
		if seal.Next <= p.Epoch {
			return bad("its seal leads from epoch %d to %d", p.Epoch, seal.Next)
		}
		p.Slot++
		p.Prev = chain(p.Prev, o.Hash)
		p.Epoch, p.Leader = seal.Next, seal.By
		return nil
	}
	switch {
	case p.Epoch == 0:
		return bad("only a seal can stand in epoch 0")
	case o.Prev != p.Prev:
		return bad("it does not follow the object of the slot before (the hash chain is broken)")
	case o.OidMark < p.OidMark:
		return bad("its oid high-water mark %s lies below %s of the slot before", o.OidMark, p.OidMark)
	case o.LastTid < p.LastTid:
		return bad("its last tid %s lies below %s of the slot before", o.LastTid, p.LastTid)
	}
	for _, e := range o.Entries {
		if e.Txn != nil && e.Txn.Tid <= p.LastTid {
			return bad("tid %s does not lie above %s", e.Txn.Tid, p.LastTid)
		}
	}
	p.Slot++
	p.Prev, p.OidMark, p.LastTid = o.Hash, o.OidMark, o.LastTid
	return nil
}

// chain links what follows a seal to what comes before it.
func chain(before, seal Hash) Hash { return sha256.Sum256(append(before[:], seal[:]...)) }
