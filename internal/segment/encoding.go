package segment

import (
	"encoding/binary"
	"math"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

const (
	blockSize = 64 << 10 // bytes of a block before compression, about

	// A transaction is spread over several header blocks only if it would make
	// one of more than this.
	splitSize = 128 << 10

	maxMeta       = 1 << 20 // bytes of each of user, description and extension
	maxData       = 1<<31 - 1
	maxReferences = 1 << 22 // of one record; those of one with more are unknown
	maxClasses    = 1 << 14 // in the table; others are unknown
	maxClassName  = 1 << 10

	maxDataRaw       = maxData + 64 // the one record in a block has a head
	maxHeaderRaw     = 4 << 20
	maxReferencesRaw = 64 << 20
	maxClassesRaw    = maxClasses*(maxClassName+2) + 8
	maxDirectoryRaw  = 64 << 20
)

// appendKey appends a key that lies behind another. Tids are above 0, so the
// first of all follows the zero key.
func appendKey(b []byte, before, k Key) []byte {
	b = binary.AppendUvarint(b, uint64(k.Tid-before.Tid))
	if k.Tid == before.Tid {
		return binary.AppendUvarint(b, uint64(k.K-before.K-1))
	}
	return binary.AppendUvarint(b, uint64(k.K))
}

// readKey reads a key that lies behind another.
func readKey(r *fileformat.Reader, before Key) Key {
	step, n := r.Uvarint(), r.Uvarint()
	k := Key{before.Tid + zodb.Tid(step), uint32(n)}
	if step == 0 {
		n += uint64(before.K) + 1
		k.K = uint32(n)
	}
	if r.Err() == nil && (k.Tid < before.Tid || k.Tid == zodb.NoTid || n > math.MaxUint32) {
		_ = r.Corrupt("no key can follow %s by a tid that is %d more and number %d", before, step, n)
		return before
	}
	return k
}

// appendStep appends an oid as the difference to another. Differences of either
// sign are small numbers: 0, -1, 1, -2 and so on become 0, 1, 2, 3.
func appendStep(b []byte, before, oid zodb.Oid) []byte {
	d := int64(oid - before)
	return binary.AppendUvarint(b, uint64(d<<1)^uint64(d>>63))
}

func readStep(r *fileformat.Reader, before zodb.Oid) zodb.Oid {
	v := r.Uvarint()
	return before + zodb.Oid(v>>1^-(v&1))
}

func appendBytes(b, s []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// readBytes returns as many bytes as are said to follow, at most limit.
func readBytes(r *fileformat.Reader, limit uint64) []byte {
	n := r.Uvarint()
	if n > limit {
		_ = r.Corrupt("%d bytes, where at most %d may be", n, limit)
		return nil
	}
	return r.Bytes(uint32(n))
}
