package segment

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"s3storage/internal/blob"
	"s3storage/internal/zodb"
)

// An ID names a segment. It is random.
type ID [16]byte

// NewID returns a random id.
func NewID() (id ID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Name returns the name of the object in the bucket.
func (id ID) Name() string { return Prefix + id.String() }

// Prefix is what the names of all segments start with.
const Prefix = "segment/"

// A Key is the place of a record in the database: the number K, counted from 0,
// that the record had in the transaction when that was committed. Keys ascend in
// a segment. Where a pack dropped records they have gaps.
type Key struct {
	Tid zodb.Tid
	K   uint32
}

// Compare returns -1, 0 or 1, as k lies before, at or after other.
func (k Key) Compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Tid, other.Tid), cmp.Compare(k.K, other.K))
}

func (k Key) String() string { return fmt.Sprintf("%s/%d", k.Tid, k.K) }

// A Record is what a transaction did to one object.
type Record struct {
	K       uint32 // its number in the transaction
	Oid     zodb.Oid
	Prev    zodb.Tid // serial of the revision that it replaces, or NoTid
	Deleted bool
	Data    []byte    // nil for a deletion
	Size    uint32    // bytes of the data
	Source  zodb.Tid  // serial of an earlier revision with the same data, which it was said to share, or NoTid; the data is here all the same
	Blob    *blob.Ref // the blob that belongs to it, or nil

	// What the data says, for those who do not want to read it. Class is ""
	// where it is not known. Refs are of no meaning unless RefsKnown.
	Class     string
	Refs      []zodb.Oid
	RefsKnown bool
}

// A Txn is a transaction with those of its records that are still there.
type Txn struct {
	Tid       zodb.Tid
	Meta      zodb.TxnMeta
	Committed uint32 // number of records that it had when it was committed
	Records   []Record
}

// Info is what others have to keep of a segment in order to read it.
type Info struct {
	ID          ID
	Size        int64    // bytes of the file
	Tail        uint32   // bytes at the end that ReadDirectory needs
	Scan        int64    // offset from which on everything but the data lies
	Txns        int64    // number of transactions
	Records     int64    // number of records, deletions among them
	DataBytes   int64    // bytes of the records' data
	First, Last zodb.Tid // of the transactions; NoTid where there is none
}

// A Block is a part of the file that is compressed, and read, as a whole.
type Block struct {
	Offset int64  // in the file
	Stored uint32 // bytes in the file
	Raw    uint32 // bytes when it is decompressed
	CRC    uint32 // CRC-32C of the stored bytes

	// First is the key of the first record in it. For a block of headers K is
	// 0 where the block begins with the beginning of a transaction.
	First Key
}

// End returns the offset of the byte behind the block.
func (b Block) End() int64 { return b.Offset + int64(b.Stored) }
