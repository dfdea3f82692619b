package filestorage

import (
	"encoding/binary"
	"fmt"

	"s3storage/internal/zodb"
)

// The first bytes of a file.
const (
	magicPython3 = "FS30"
	magicPython2 = "FS21"
	magicSize    = 4
)

const (
	txnHeaderSize    = 23
	txnTrailerSize   = 8
	recordHeaderSize = 42
	pointerSize      = 8

	// maxPosition bounds positions and lengths, so that sums of a few of them
	// do not overflow.
	maxPosition = 1 << 60
)

// What the status of a transaction can be, besides ' ' and zodb.Packed.
const (
	statusUnfinished = 'c'
	statusUndone     = 'u'
)

// A txnHeader is the fixed part of a transaction's header.
type txnHeader struct {
	tid                          zodb.Tid
	length                       uint64 // without the trailer
	status                       byte
	user, description, extension uint16 // lengths
}

func parseTxnHeader(b []byte) txnHeader {
	_ = b[txnHeaderSize-1]
	return txnHeader{
		tid:         zodb.Tid(binary.BigEndian.Uint64(b)),
		length:      binary.BigEndian.Uint64(b[8:]),
		status:      b[16],
		user:        binary.BigEndian.Uint16(b[17:]),
		description: binary.BigEndian.Uint16(b[19:]),
		extension:   binary.BigEndian.Uint16(b[21:]),
	}
}

func (h *txnHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(h.tid))
	b = binary.BigEndian.AppendUint64(b, h.length)
	b = append(b, h.status)
	b = binary.BigEndian.AppendUint16(b, h.user)
	b = binary.BigEndian.AppendUint16(b, h.description)
	return binary.BigEndian.AppendUint16(b, h.extension)
}

// size returns the length of the header with its strings.
func (h *txnHeader) size() int64 {
	return txnHeaderSize + int64(h.user) + int64(h.description) + int64(h.extension)
}

// A recordHeader is what stands before the data of a record.
type recordHeader struct {
	oid     zodb.Oid
	tid     zodb.Tid
	prev    uint64
	txn     uint64
	version uint16
	length  uint64 // of the data; 0 for a back pointer
}

func parseRecordHeader(b []byte) recordHeader {
	_ = b[recordHeaderSize-1]
	return recordHeader{
		oid:     zodb.Oid(binary.BigEndian.Uint64(b)),
		tid:     zodb.Tid(binary.BigEndian.Uint64(b[8:])),
		prev:    binary.BigEndian.Uint64(b[16:]),
		txn:     binary.BigEndian.Uint64(b[24:]),
		version: binary.BigEndian.Uint16(b[32:]),
		length:  binary.BigEndian.Uint64(b[34:]),
	}
}

func (h *recordHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(h.oid))
	b = binary.BigEndian.AppendUint64(b, uint64(h.tid))
	b = binary.BigEndian.AppendUint64(b, h.prev)
	b = binary.BigEndian.AppendUint64(b, h.txn)
	b = binary.BigEndian.AppendUint16(b, h.version)
	return binary.BigEndian.AppendUint64(b, h.length)
}

// body returns how many bytes follow the header.
func (h *recordHeader) body() uint64 {
	if h.length == 0 {
		return pointerSize
	}
	return h.length
}

// damaged says what is wrong at a position of a file.
func damaged(name string, pos int64, format string, args ...any) error {
	return fmt.Errorf("%s, at byte %d: %s: %w", name, pos, fmt.Sprintf(format, args...), zodb.ErrCorrupt)
}
