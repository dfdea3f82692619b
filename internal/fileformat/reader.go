package fileformat

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"s3storage/internal/zodb"
)

// A Reader takes apart the bytes of a file. The first failure stays; from then
// on everything reads as zero. It is for one goroutine.
type Reader struct {
	name string // of the file, for errors
	b    []byte // what is left
	at   int64  // offset of b in the file
	err  error
}

// NewReader returns a reader of bytes that lie at an offset of the file of that
// name.
func NewReader(name string, at int64, b []byte) *Reader { return &Reader{name: name, at: at, b: b} }

// Open returns a reader of a whole file that ends with its SHA-256. It checks
// that, and the start, which it consumes. The file has at least that many bytes
// before the SHA-256.
func Open(name string, b []byte, magic string, version uint16, least int) (r *Reader, count int, sum [sha256.Size]byte, err error) {
	r = NewReader(name, 0, b)
	if count, err = r.Start(magic, version); err != nil {
		return nil, 0, sum, err
	}
	if len(b) < least+sha256.Size {
		return nil, 0, sum, r.Corrupt("it ends after %d bytes", len(b))
	}
	content := b[:len(b)-sha256.Size]
	if sum = sha256.Sum256(content); sum != [sha256.Size]byte(b[len(content):]) {
		return nil, 0, sum, r.Corrupt("its checksum does not match its %d bytes", len(b))
	}
	r.b = content[StartSize:]
	return r, count, sum, nil
}

// Start consumes the sixteen bytes that every file begins with, and returns the
// number in them.
func (r *Reader) Start(magic string, version uint16) (count int, err error) {
	if len(r.b) < len(magic) || string(r.b[:len(magic)]) != magic {
		return 0, r.Corrupt("it does not start with the magic word %q", magic)
	}
	if len(r.b) < StartSize {
		return 0, r.Corrupt("it ends after %d bytes", len(r.b))
	}
	// Another version may have moved everything but these, so they come first.
	switch v := binary.BigEndian.Uint16(r.b[8:]); {
	case v > version:
		return 0, fmt.Errorf("%s: format version %d, this program knows version %d: %w; upgrade this program",
			r.name, v, version, zodb.ErrNewerFormat)
	case v < version:
		return 0, r.Corrupt("format version %d, which was in use before the first release, and is not read any more", v)
	}
	if f := binary.BigEndian.Uint16(r.b[10:]); f != 0 {
		return 0, fmt.Errorf("%s: unknown flags %#04x: %w; upgrade this program", r.name, f, zodb.ErrNewerFormat)
	}
	r.Skip(12)
	return int(r.Uint32()), r.err
}

// Corrupt returns an error of the class zodb.ErrCorrupt that names the file
// and the offset, and keeps it.
func (r *Reader) Corrupt(format string, args ...any) error {
	if r.err == nil {
		r.err = fmt.Errorf("%s is %w at offset %d: %s", r.name, zodb.ErrCorrupt, r.at, fmt.Sprintf(format, args...))
	}
	return r.err
}

// Err returns the failure, if there was one.
func (r *Reader) Err() error { return r.err }

// Offset returns where in the file the next byte is.
func (r *Reader) Offset() int64 { return r.at }

// Rest returns what is left, without consuming it. It is shared with the file.
func (r *Reader) Rest() []byte { return r.b }

// Bytes returns the next n bytes, which the caller shares with the file.
func (r *Reader) Bytes(n uint32) []byte {
	if r.err != nil {
		return nil
	}
	if uint64(n) > uint64(len(r.b)) {
		_ = r.Corrupt("%d bytes expected, %d are left", n, len(r.b))
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	r.at += int64(n)
	return s
}

// Sub returns a reader of the next n bytes.
func (r *Reader) Sub(n uint32) *Reader {
	at := r.at
	return &Reader{name: r.name, at: at, b: r.Bytes(n), err: r.err}
}

// Skip consumes n bytes.
func (r *Reader) Skip(n uint32) { r.Bytes(n) }

// Byte returns the next byte.
func (r *Reader) Byte() byte {
	if s := r.Bytes(1); s != nil {
		return s[0]
	}
	return 0
}

// Uint32 returns the next four bytes as a number.
func (r *Reader) Uint32() uint32 {
	if s := r.Bytes(4); s != nil {
		return binary.BigEndian.Uint32(s)
	}
	return 0
}

// Uint64 returns the next eight bytes as a number.
func (r *Reader) Uint64() uint64 {
	if s := r.Bytes(8); s != nil {
		return binary.BigEndian.Uint64(s)
	}
	return 0
}

// Uvarint returns a number in the encoding of encoding/binary, which has seven
// bits in a byte. One that is longer than need be is damage.
func (r *Reader) Uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		_ = r.Corrupt("a number of variable length expected")
		return 0
	}
	r.Skip(uint32(n))
	return v
}

// Zero consumes n bytes that must be zero.
func (r *Reader) Zero(n uint32) {
	for _, c := range r.Bytes(n) {
		if c != 0 {
			_ = r.Corrupt("reserved bytes are not zero")
		}
	}
}

// ID returns the next sixteen bytes.
func (r *Reader) ID() (id [16]byte) {
	copy(id[:], r.Bytes(16))
	return id
}

// End returns the failure, or one if there are bytes left.
func (r *Reader) End() error {
	if r.err == nil && len(r.b) > 0 {
		return r.Corrupt("%d bytes too many", len(r.b))
	}
	return r.err
}
