package index

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"s3storage/internal/zodb"
)

// An ID names an index table. It is random.
type ID [16]byte

// NewID returns a random id.
func NewID() (id ID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Name returns the name of the table in the bucket.
func (id ID) Name() string { return Prefix + id.String() }

// corrupt returns an error about the byte at that offset of the table.
func (id ID) corrupt(offset int64, format string, args ...any) error {
	return fmt.Errorf("%s is %w at offset %d: %s", id.Name(), zodb.ErrCorrupt, offset, fmt.Sprintf(format, args...))
}

// Prefix is what the names of all index tables start with.
const Prefix = "index/"

// An Entry is one revision of an object, and where its record is: K is its
// number in the transaction Tid, counted from 0 as it was committed.
type Entry struct {
	Oid     zodb.Oid // up to zodb.MaxOid
	Tid     zodb.Tid // from 1 to zodb.MaxTid
	K       uint32
	Deleted bool
}

// before tells whether the entry comes before all of (oid, tid) in a table.
func (e Entry) before(oid zodb.Oid, tid zodb.Tid) bool {
	return e.Oid < oid || e.Oid == oid && e.Tid < tid
}

// Info is what has to be known of a table to read it.
type Info struct {
	ID          ID
	Size        int64    // bytes of the file
	Tail        uint32   // bytes at its end that ReadDirectory needs
	Entries     int64    // how many it has
	First, Last zodb.Tid // the lowest and the highest; NoTid if it has no entry
	MaxOid      zodb.Oid // the highest
}

// A Span is a run of bytes of a file.
type Span struct {
	Offset int64
	Size   uint32
}

// A Fetch reads n bytes of a table, from offset on. It returns exactly n or an
// error. Nobody changes them as long as they are in use.
type Fetch func(ctx context.Context, offset, n int64) ([]byte, error)

const (
	magic         = "s3zidx\r\n"
	formatVersion = 1
	headerSize    = 52
	footerSize    = 44

	groupEntries   = 64       // of all groups of a leaf but the last
	leafEntries    = 4096     // a leaf that has so many,
	leafFull       = 28 << 10 // or so many bytes, ends with its last object
	maxLeaf        = 32 << 10 // and has never more bytes than that
	leafHeaderSize = 12
	groupSize      = 18 // in the list of groups
	sumSize        = 4
	maxTidWidth    = 8
	ranks          = 8

	// The tag of an entry.
	stepBits     = 7
	stepLong     = 7 // the rest of the step follows
	deletedBit   = 1 << 3
	sameTidBit   = 1 << 4
	kShift       = 5
	reservedBits = 1 << 7
)

// kWidths are the bytes that k takes, by what the tag says.
var kWidths = [4]int{0, 1, 2, 4}
