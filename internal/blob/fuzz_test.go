package blob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// Whatever decodes is what an upload would have written.
func FuzzSpan(f *testing.F) {
	m := bucket.NewMemory()
	add := func(size int) {
		id := put(f, m, noise()[:size], 1<<20)
		raw, err := m.Get(f.Context(), id.Name(), 100_000_000)
		if err != nil {
			f.Fatal(err)
		}
		for number := range spans(int64(size)) {
			s := span{database, id, number, int64(size)}
			offset, n := s.where()
			f.Add(raw[offset:offset+n], id[:], number, int64(size))
		}
	}
	add(0)
	add(5)
	add(3000)
	f.Fuzz(func(t *testing.T, raw, id []byte, number, size int64) {
		if size < 0 || size > maxSize || number < 0 || number >= spans(size) {
			return // Reader never asks so
		}
		s := span{database: database, number: number, size: size}
		copy(s.id[:], id)
		list, err := s.decode(raw)
		if err != nil {
			if !errors.Is(err, zodb.ErrCorrupt) && !errors.Is(err, zodb.ErrNewerFormat) {
				t.Errorf("error %v", err)
			}
			return
		}
		var again []byte
		if number == 0 {
			again = appendHeader(again, database, s.id)
		}
		for i, piece := range list {
			again = appendPiece(again, s.id, number*spanPieces+int64(i), piece)
		}
		if !bytes.Equal(again, raw) || int64(len(bytes.Join(list, nil))) != s.bytes() {
			t.Errorf("%d bytes were read as %d others", len(raw), len(again))
		}
	})
}

func appendPiece(b []byte, id ID, number int64, data []byte) []byte {
	sum := crc32.Update(pieceSum(id, number), castagnoli, data)
	return binary.BigEndian.AppendUint32(append(b, data...), sum)
}
