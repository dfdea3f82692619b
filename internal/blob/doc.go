// Package blob keeps the bytes of blobs in a bucket, each in an object of its
// own.
//
// # Blob objects
//
//	blob/<id>                 32 hexadecimal digits
//
// The id is random: the blob is uploaded before it is known which object of the
// database it belongs to. An object is written once and never changed. All
// integers are big-endian.
//
//	 0   8  magic word "s3zblb\r\n"
//	 8   2  format version, 1
//	10   2  flags, 0; a reader refuses flags that it does not know
//	12   4  P, the size of a piece: 1048576, the only one in this version
//	16  16  database id
//	32  16  blob id
//	48   4  CRC-32C of bytes 0 to 47
//	52      pieces
//
// A piece:
//
//	0  P  bytes of the blob; fewer, but at least one, in the last piece
//	P  4  CRC-32C of the blob id (16), the number of the piece, from 0 (8), and
//	      the piece's bytes
//
// An empty blob has no pieces. The size of the blob is not in the object, but
// in the record of the log that names it. From it follows where each piece
// lies. What no record names is garbage.
//
// [Upload] writes such an object from a stream, [Reader] reads it as one.
package blob
