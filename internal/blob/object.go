package blob

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"

	"s3storage/internal/zodb"
)

// An ID names a blob object. It is random.
type ID [16]byte

// NewID returns a random id.
func NewID() (id ID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Name returns the name of the object in the bucket.
func (id ID) Name() string { return Prefix + id.String() }

// A Ref names the object in which the bytes of a blob are.
type Ref struct {
	ID   ID
	Size int64 // bytes of the blob
}

// Prefix is what the names of all blob objects start with.
const Prefix = "blob/"

const (
	magic         = "s3zblb\r\n"
	formatVersion = 1
	headerSize    = 52
	pieceSize     = 1 << 20
	stride        = pieceSize + crc32.Size // from the start of a piece to that of the next

	// So many pieces are read at a time.
	spanPieces = 4
	spanSize   = spanPieces * pieceSize // of the blob

	// maxSize bounds the size of a blob, so that no offset overflows.
	maxSize = 1 << 50
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ObjectSize returns the number of bytes of the object of a blob of size bytes.
func ObjectSize(size int64) int64 {
	return headerSize + size + crc32.Size*pieces(size)
}

// pieces returns how many pieces size bytes take.
func pieces(size int64) int64 { return (size + pieceSize - 1) / pieceSize }

func appendHeader(b []byte, database [16]byte, id ID) []byte {
	start := len(b)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, pieceSize)
	b = append(b, database[:]...)
	b = append(b, id[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// pieceSum returns the checksum of a piece without any bytes.
func pieceSum(id ID, number int64) uint32 {
	return crc32.Checksum(binary.BigEndian.AppendUint64(id[:], uint64(number)), castagnoli)
}

// A span is a run of pieces of a blob, read at a time. The first has the header
// in front.
type span struct {
	database [16]byte
	id       ID
	number   int64
	size     int64 // of the blob
}

// spans returns how many spans a blob of size bytes has: an empty one has one,
// which is the header.
func spans(size int64) int64 { return max(1, (size+spanSize-1)/spanSize) }

// bytes returns how many bytes of the blob lie in the span.
func (s span) bytes() int64 { return min(spanSize, s.size-s.number*spanSize) }

// where returns where the span lies in the object.
func (s span) where() (offset, n int64) {
	n = s.bytes() + crc32.Size*pieces(s.bytes())
	if s.number == 0 {
		return 0, headerSize + n
	}
	return headerSize + s.number*spanPieces*stride, n
}

func (s span) corrupt(offset int64, format string, args ...any) error {
	return fmt.Errorf("%s is %w at offset %d: %s", s.id.Name(), zodb.ErrCorrupt, offset, fmt.Sprintf(format, args...))
}

// decode returns the bytes of the blob, by pieces, from those of the span in
// the object. They share memory with it.
func (s span) decode(raw []byte) ([][]byte, error) {
	at, want := s.where()
	if int64(len(raw)) != want {
		return nil, s.corrupt(at+int64(len(raw)), "%d bytes expected from offset %d on, %d are there", want, at, len(raw))
	}
	if s.number == 0 {
		if err := s.checkHeader(raw[:headerSize]); err != nil {
			return nil, err
		}
		raw = raw[headerSize:]
		at = headerSize
	}
	list := make([][]byte, 0, spanPieces)
	for number := s.number * spanPieces; len(raw) > 0; number++ {
		n := min(pieceSize, len(raw)-crc32.Size)
		data := raw[:n:n]
		sum := binary.BigEndian.Uint32(raw[n:])
		if crc32.Update(pieceSum(s.id, number), castagnoli, data) != sum {
			return nil, s.corrupt(at, "the checksum of piece %d does not match its %d bytes", number, n)
		}
		list = append(list, data)
		raw = raw[n+crc32.Size:]
		at += stride
	}
	return list, nil
}

func (s span) checkHeader(b []byte) error {
	if string(b[:len(magic)]) != magic {
		return s.corrupt(0, "it does not start with the magic word %q", magic)
	}
	// A newer format may have moved everything but these, so they come first.
	if v := binary.BigEndian.Uint16(b[8:]); v != formatVersion {
		return fmt.Errorf("%s: format version %d, this program knows version %d: %w; upgrade this program",
			s.id.Name(), v, formatVersion, zodb.ErrNewerFormat)
	}
	if f := binary.BigEndian.Uint16(b[10:]); f != 0 {
		return fmt.Errorf("%s: unknown flags %#04x: %w; upgrade this program", s.id.Name(), f, zodb.ErrNewerFormat)
	}
	if binary.BigEndian.Uint32(b[48:]) != crc32.Checksum(b[:48], castagnoli) {
		return s.corrupt(0, "the checksum of its header does not match")
	}
	if p := binary.BigEndian.Uint32(b[12:]); p != pieceSize {
		return s.corrupt(12, "pieces of %d bytes, this version has pieces of %d", p, pieceSize)
	}
	if database := [16]byte(b[16:32]); database != s.database {
		return s.corrupt(16, "it belongs to database %x, not to %x", database, s.database)
	}
	if id := ID(b[32:48]); id != s.id {
		return s.corrupt(32, "it is the object of blob %s", id)
	}
	return nil
}
