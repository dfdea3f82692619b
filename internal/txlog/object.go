package txlog

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A Slot is the place of an object in the log; the first is 1.
type Slot uint64

// An Epoch is the reign of one leader; 0 is the one before the first.
type Epoch uint64

// A DatabaseID tells databases apart. It is random.
type DatabaseID [16]byte

// A PutID tells whose put of a slot it was that won. It is random.
type PutID [16]byte

// A Hash is the SHA-256 of a log object, less the hash itself.
type Hash [sha256.Size]byte

func (id DatabaseID) String() string { return hex.EncodeToString(id[:]) }
func (id PutID) String() string      { return hex.EncodeToString(id[:]) }

// NewPutID returns a random id.
func NewPutID() (id PutID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

// Name returns the name of the object of a slot.
func Name(e Epoch, s Slot) string { return fmt.Sprintf("log/%016x/%016x", uint64(e), uint64(s)) }

// Prefix is what the names of all log objects start with.
const Prefix = "log/"

// parseName reads a name as Name writes it.
func parseName(name string) (e Epoch, s Slot, ok bool) {
	var extra string
	n, _ := fmt.Sscanf(name, "log/%016x/%016x%s", (*uint64)(&e), (*uint64)(&s), &extra)
	return e, s, n == 2 && name == Name(e, s)
}

// A Header is what every log object says besides its entries.
type Header struct {
	Database   DatabaseID
	Epoch      Epoch
	Slot       Slot
	Put        PutID
	Prev       Hash
	LogStart   Slot
	Checkpoint uint64 // number of the newest checkpoint, 0 for none
	Settled    Slot
	OidMark    zodb.Oid
	LastTid    zodb.Tid
}

// An Object is a log object in memory.
type Object struct {
	Header
	Entries []Entry
	Hash    Hash
	Size    int64 // bytes of the object
}

// Name returns the object's name in the bucket.
func (o *Object) Name() string { return Name(o.Epoch, o.Slot) }

// Seal returns the seal in the object, or nil. A seal stands alone.
func (o *Object) Seal() *Seal {
	if len(o.Entries) == 1 {
		return o.Entries[0].Seal
	}
	return nil
}

// An Entry is one of a transaction, a seal and a change of the base; the others
// are nil.
type Entry struct {
	Txn  *Transaction
	Seal *Seal
	Base *BaseChange
}

// A Seal ends an epoch.
type Seal struct {
	Next Epoch
	By   Node // leads the next epoch
}

// A Node is one of those that serve a database.
type Node struct {
	Name    string // for people
	Address string // where other nodes reach it; empty where they do not
}

func (n Node) String() string {
	if n.Name == "" {
		return "an unknown node"
	}
	return n.Name
}

// cut returns the node with what a file can hold of it.
func (n Node) cut() Node {
	return Node{n.Name[:min(len(n.Name), maxNodeName)], n.Address[:min(len(n.Address), maxNodeName)]}
}

func (n Node) size() int { return nodeFixedSize + len(n.Name) + len(n.Address) }

func (n Node) append(b []byte) []byte {
	return fileformat.AppendBytes(fileformat.AppendBytes(b, []byte(n.Name)), []byte(n.Address))
}

// readNode reads what append has written. The reader keeps the error.
func readNode(r *fileformat.Reader) (n Node) {
	n.Name = string(r.Bytes(r.Uint32()))
	n.Address = string(r.Bytes(r.Uint32()))
	if r.Err() == nil && max(len(n.Name), len(n.Address)) > maxNodeName {
		_ = r.Corrupt("a node's name of %d and address of %d bytes", len(n.Name), len(n.Address))
	}
	return n
}

const (
	logMagic     = "s3zlog\r\n"
	payloadMagic = "s3zpay\r\n"
	formatMagic  = "s3zfmt\r\n"

	// formatVersion is that of all files of this package.
	formatVersion = 2

	headerSize      = 136
	entryHeaderSize = 8

	entryTransaction = 1
	entrySeal        = 2
	entryBase        = 3

	// MaxObjectSize bounds what is read as one log object. Writers stay far
	// below: see Config.
	MaxObjectSize = 256 << 20

	maxNodeName = 4096

	// maxSealSize is the size of the largest object with a seal in it.
	maxSealSize = headerSize + entryHeaderSize + sealFixedSize + nodeFixedSize + 2*maxNodeName + sha256.Size

	sealFixedSize = 8
	nodeFixedSize = 8
)

// encode returns the bytes of the object and sets its Hash and Size, and the
// offsets in its transactions.
func (o *Object) encode() []byte {
	size := headerSize + sha256.Size
	for _, e := range o.Entries {
		size += entryHeaderSize + e.size()
	}
	b := make([]byte, 0, size)
	b = fileformat.AppendStart(b, logMagic, formatVersion, len(o.Entries))
	b = append(b, o.Database[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Slot))
	b = append(b, o.Put[:]...)
	b = append(b, o.Prev[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.LogStart))
	b = binary.BigEndian.AppendUint64(b, o.Checkpoint)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Settled))
	b = binary.BigEndian.AppendUint64(b, uint64(o.OidMark))
	b = binary.BigEndian.AppendUint64(b, uint64(o.LastTid))
	for _, e := range o.Entries {
		b = append(b, e.kind(), 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(e.size()))
		switch {
		case e.Seal != nil:
			b = binary.BigEndian.AppendUint64(b, uint64(e.Seal.Next))
			b = e.Seal.By.append(b)
		case e.Base != nil:
			b = e.Base.append(b)
		default:
			b = e.Txn.append(b)
		}
	}
	o.Hash = sha256.Sum256(b)
	b = append(b, o.Hash[:]...)
	o.Size = int64(len(b))
	return b
}

func (e Entry) kind() byte {
	switch {
	case e.Seal != nil:
		return entrySeal
	case e.Base != nil:
		return entryBase
	}
	return entryTransaction
}

func (e Entry) size() int {
	switch {
	case e.Seal != nil:
		return sealFixedSize + e.Seal.By.size()
	case e.Base != nil:
		return baseChangeSize
	}
	return e.Txn.size()
}

// Decode reads a log object, which is named in errors. The object's
// transactions share memory with b. Errors wrap zodb.ErrCorrupt, or
// zodb.ErrNewerFormat.
func Decode(name string, b []byte) (*Object, error) {
	in, n, sum, err := fileformat.Open(name, b, logMagic, formatVersion, headerSize)
	if err != nil {
		return nil, err
	}
	r := reader{in}
	o := &Object{Hash: sum, Size: int64(len(b))}
	o.Header = r.header()
	if n > len(r.Rest())/entryHeaderSize {
		return nil, r.Corrupt("%d entries cannot fit into %d bytes", n, len(b))
	}
	o.Entries = make([]Entry, 0, n)
	last, bases := zodb.NoTid, 0
	for range n {
		kind := r.Byte()
		r.Zero(3)
		body := reader{r.Sub(r.Uint32())}
		if r.Err() != nil {
			return nil, r.Err()
		}
		var e Entry
		switch kind {
		case entryTransaction:
			if e.Txn, err = body.transaction(); err == nil && e.Txn.Tid <= last {
				err = body.Corrupt("tid %s does not lie above %s", e.Txn.Tid, last)
			}
			if err == nil {
				last = e.Txn.Tid
			}
		case entrySeal:
			e.Seal = &Seal{Next: Epoch(body.Uint64()), By: readNode(body.Reader)}
			err = body.End()
		case entryBase:
			e.Base, err = body.baseChange()
			bases++
		default:
			err = body.Corrupt("unknown kind of entry %d", kind)
		}
		if err != nil {
			return nil, err
		}
		o.Entries = append(o.Entries, e)
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	switch {
	case o.Seal() == nil && slices.ContainsFunc(o.Entries, func(e Entry) bool { return e.Seal != nil }):
		return nil, r.Corrupt("a seal beside other entries")
	case bases > 1:
		return nil, r.Corrupt("%d changes of the base", bases)
	case last != zodb.NoTid && o.LastTid != last:
		return nil, r.Corrupt("last tid is given as %s, but is %s", o.LastTid, last)
	}
	return o, nil
}

// decodePutID reads whose object it is from the first headerSize bytes.
func decodePutID(name string, b []byte) (PutID, error) {
	if len(b) < headerSize || !bytes.HasPrefix(b, []byte(logMagic)) {
		return PutID{}, fmt.Errorf("%w: %s is not a log object", zodb.ErrCorrupt, name)
	}
	return PutID(b[48:64]), nil
}
