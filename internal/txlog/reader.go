package txlog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"s3storage/internal/zodb"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendStart appends the sixteen bytes that every file begins with.
func appendStart(b []byte, magic string, count int) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	return binary.BigEndian.AppendUint32(b, uint32(count))
}

// appendBytes32 appends a length of four bytes and as many bytes.
func appendBytes32(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// A reader takes apart the bytes of a file. The first failure stays; from then
// on everything reads as zero.
type reader struct {
	name  string // of the file, for errors
	b     []byte // what is left
	at    int    // offset of b in the file
	err   error
	hash  Hash
	count int // the number in the start of the file
}

// open checks what all files have in common: the first sixteen bytes, which
// it consumes, a least size, and the hash at the end.
func open(name string, b []byte, magic string, least int) (*reader, error) {
	r := &reader{name: name, b: b}
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, r.corrupt("it does not start with the magic word %q", magic)
	}
	if len(b) < 16 {
		return nil, r.corrupt("it ends after %d bytes", len(b))
	}
	// A newer format may have moved everything but these, so they come first.
	if v := binary.BigEndian.Uint16(b[8:]); v != formatVersion {
		return nil, fmt.Errorf("%s: format version %d, this program knows version %d: %w; upgrade this program",
			name, v, formatVersion, zodb.ErrNewerFormat)
	}
	if f := binary.BigEndian.Uint16(b[10:]); f != 0 {
		return nil, fmt.Errorf("%s: unknown flags %#04x: %w; upgrade this program", name, f, zodb.ErrNewerFormat)
	}
	if len(b) < least+sha256.Size {
		return nil, r.corrupt("it ends after %d bytes", len(b))
	}
	content := b[:len(b)-sha256.Size]
	r.hash = sha256.Sum256(content)
	if r.hash != Hash(b[len(content):]) {
		return nil, r.corrupt("its checksum does not match its %d bytes", len(b))
	}
	r.b = content
	r.skip(12)
	r.count = int(r.uint32())
	return r, nil
}

// corrupt returns an error of the class zodb.ErrCorrupt that names the file
// and the offset, and keeps it.
func (r *reader) corrupt(format string, args ...any) error {
	if r.err == nil {
		r.err = fmt.Errorf("%s is %w at offset %d: %s", r.name, zodb.ErrCorrupt, r.at, fmt.Sprintf(format, args...))
	}
	return r.err
}

// bytes returns the next n bytes, which the caller shares with the file.
func (r *reader) bytes(n uint32) []byte {
	if r.err != nil {
		return nil
	}
	if uint64(n) > uint64(len(r.b)) {
		_ = r.corrupt("%d bytes expected, %d are left", n, len(r.b))
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	r.at += int(n)
	return s
}

// sub returns a reader of the next n bytes.
func (r *reader) sub(n uint32) *reader {
	at := r.at
	return &reader{name: r.name, at: at, b: r.bytes(n), err: r.err}
}

func (r *reader) skip(n uint32) { r.bytes(n) }

func (r *reader) byte() byte {
	if s := r.bytes(1); s != nil {
		return s[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if s := r.bytes(4); s != nil {
		return binary.BigEndian.Uint32(s)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if s := r.bytes(8); s != nil {
		return binary.BigEndian.Uint64(s)
	}
	return 0
}

// zero skips n bytes that must be zero.
func (r *reader) zero(n uint32) {
	for _, c := range r.bytes(n) {
		if c != 0 {
			_ = r.corrupt("reserved bytes are not zero")
		}
	}
}

// end returns the failure, or one if there are bytes left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return r.corrupt("%d bytes too many", len(r.b))
	}
	return r.err
}

func (r *reader) id() (id [16]byte) {
	copy(id[:], r.bytes(16))
	return id
}

func (r *reader) header() (h Header) {
	h.Database = r.id()
	h.Epoch = Epoch(r.uint64())
	h.Slot = Slot(r.uint64())
	h.Put = r.id()
	copy(h.Prev[:], r.bytes(32))
	h.LogStart = Slot(r.uint64())
	h.Checkpoint = Slot(r.uint64())
	h.Settled = Slot(r.uint64())
	h.OidMark = zodb.Oid(r.uint64())
	h.LastTid = zodb.Tid(r.uint64())
	return h
}
