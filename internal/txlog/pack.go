package txlog

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
	"s3storage/internal/zodb"
)

// A Pack lets go of revisions of objects: from its place in the log on they are
// no longer part of the database.
type Pack struct {
	Tid     zodb.Tid  // up to which transactions are packed
	At      time.Time // when it was put into the log, to the second
	Lists   []ListID  // the objects that say what is dropped
	Dropped []Dropped // what is dropped; in the log it is in the lists
}

// Dropped names a revision of an object.
type Dropped struct {
	Oid    zodb.Oid
	Serial zodb.Tid
}

// A ListID names an object that lists dropped revisions. It is random.
type ListID [16]byte

// ListPrefix is what the names of all lists start with.
const ListPrefix = "pack/"

// Name returns the name of the object.
func (id ListID) Name() string { return ListPrefix + hex.EncodeToString(id[:]) }

const (
	packFixedSize = 20
	droppedSize   = 16
	listStartSize = 48

	// maxList is how many revisions one object lists, maxLists how many
	// objects one pack can have: 2^36 revisions.
	maxList  = 1 << 20
	maxLists = 1 << 16
)

func (p *Pack) size() int { return packFixedSize + len(p.Lists)*len(ListID{}) }

func (p *Pack) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.Tid))
	b = binary.BigEndian.AppendUint64(b, uint64(p.At.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.Lists)))
	for _, id := range p.Lists {
		b = append(b, id[:]...)
	}
	return b
}

// pack reads a pack, but for what the lists say.
func (r reader) pack() (*Pack, error) {
	p := &Pack{Tid: zodb.Tid(r.Uint64()), At: time.Unix(int64(r.Uint64()), 0).UTC()}
	lists := r.Uint32()
	if lists > maxLists {
		return nil, r.Corrupt("a pack has %d lists", lists)
	}
	for range lists {
		p.Lists = append(p.Lists, r.ID())
		if r.Err() != nil {
			return nil, r.Err()
		}
	}
	return p, r.End()
}

// NameLists chooses new names for the objects that list what the pack drops.
func (p *Pack) NameLists() {
	p.Lists = make([]ListID, (len(p.Dropped)+maxList-1)/maxList)
	for i := range p.Lists {
		_, _ = rand.Read(p.Lists[i][:]) // never fails: crypto/rand
	}
}

// WriteLists puts these objects, again and again until they are there.
func (p *Pack) WriteLists(ctx context.Context, b bucket.Bucket, db DatabaseID) error {
	for i, id := range p.Lists {
		data := encodeList(db, id, p.Dropped[i*maxList:min((i+1)*maxList, len(p.Dropped))])
		if err := bucket.Retrying(ctx, func() error { return b.Put(ctx, id.Name(), data) }); err != nil {
			return fmt.Errorf("writing what a pack drops: %w", err)
		}
	}
	return nil
}

func encodeList(db DatabaseID, id ListID, dropped []Dropped) []byte {
	b := make([]byte, 0, listStartSize+len(dropped)*droppedSize+sha256.Size)
	b = fileformat.AppendStart(b, packMagic, formatVersion, len(dropped))
	b = append(b, db[:]...)
	b = append(b, id[:]...)
	for _, d := range dropped {
		b = binary.BigEndian.AppendUint64(b, uint64(d.Oid))
		b = binary.BigEndian.AppendUint64(b, uint64(d.Serial))
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeList reads an object that lists dropped revisions.
func decodeList(db DatabaseID, id ListID, b []byte) ([]Dropped, error) {
	r, count, _, err := fileformat.Open(id.Name(), b, packMagic, formatVersion, listStartSize)
	if err != nil {
		return nil, err
	}
	if gotDB, gotID := DatabaseID(r.ID()), ListID(r.ID()); gotDB != db || gotID != id {
		return nil, r.Corrupt("it says that it is %s of database %s", gotID.Name(), gotDB)
	}
	if len(r.Rest()) != count*droppedSize {
		return nil, r.Corrupt("%d revisions do not fit into %d bytes", count, len(b))
	}
	dropped := make([]Dropped, count)
	for i := range dropped {
		dropped[i] = Dropped{zodb.Oid(r.Uint64()), zodb.Tid(r.Uint64())}
	}
	return dropped, r.End()
}

// read reads what the pack drops.
func (p *Pack) read(ctx context.Context, b bucket.Bucket, db DatabaseID) error {
	for _, id := range p.Lists {
		err := bucket.Rereading(ctx, func() error {
			data, err := b.Get(ctx, id.Name(), listStartSize+maxList*droppedSize+sha256.Size)
			if errors.Is(err, bucket.ErrNotExist) {
				return fmt.Errorf("%s in %s is %w: it is missing", id.Name(), b.Properties().Location, zodb.ErrCorrupt)
			}
			if err != nil {
				return err
			}
			dropped, err := decodeList(db, id, data)
			if err == nil {
				p.Dropped = append(p.Dropped, dropped...)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("reading what a pack drops: %w", err)
		}
	}
	return nil
}
