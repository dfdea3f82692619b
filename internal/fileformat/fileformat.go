// Package fileformat is what all files in a bucket have in common. doc/format.md
// says the same.
//
// All integers are big-endian, but for those of variable length. A file begins with
//
//	 0   8  magic word: six letters, \r\n
//	 8   2  format version
//	10   2  flags, 0; a reader refuses flags that it does not know
//	12   4  a number whose meaning depends on the file
//
// Small files end with the SHA-256 of all that is before. In larger ones every
// part has a CRC-32C (Castagnoli) of its own, so that it can be read alone. There
// is no byte that no checksum covers.
package fileformat

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// StartSize is how many bytes every file begins with.
const StartSize = 16

// AppendStart appends the bytes that every file begins with.
func AppendStart(b []byte, magic string, version uint16, count int) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint16(b, 0)
	return binary.BigEndian.AppendUint32(b, uint32(count))
}

// AppendBytes appends a length of four bytes and as many bytes.
func AppendBytes(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// AppendSum appends the SHA-256 of all of b, the whole of a file.
func AppendSum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC returns the CRC-32C of the parts, one after the other.
func CRC(parts ...[]byte) (crc uint32) {
	for _, p := range parts {
		crc = crc32.Update(crc, castagnoli, p)
	}
	return crc
}
