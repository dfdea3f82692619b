package segment

import "github.com/klauspost/compress/zstd"

// One decoder and one encoder serve all: they have as many states as there are
// processors, and who comes when all are taken waits.
var (
	decoder = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxDataRaw+spare)))

	// The fastest level takes about a fifth less processor time for an import than
	// the default, and the bucket becomes 5 % larger. On what a Plone site stores, some
	// 200 MB of it, the default makes 4.4 times less of the data at 300 MB/s, the
	// fastest level 4.2 times at 350. A window of 1 MiB bounds the memory; only records
	// that are larger notice. Blocks have a checksum of their own.
	encoder = started(must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(1<<20))))
)

// started has the encoder make its states now: the first to use it may be a test
// with a time of its own, which would keep them to itself.
func started(e *zstd.Encoder) *zstd.Encoder {
	e.EncodeAll(nil, nil)
	return e
}

func must[T any](t T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return t
}

const (
	// The decoder is faster where there is some room behind what it writes.
	spare = 16

	// maxRatio bounds how many bytes one stored byte can become: zstd has no
	// block of less than four bytes, and none that makes more than 128 KiB.
	maxRatio = 128 << 10 / 4
)

// compress appends the compressed bytes of raw to b.
func compress(b, raw []byte) []byte { return encoder.EncodeAll(raw, b) }

// decompress returns what stored was made of, in the memory of b if that has
// room for it. ok is false unless it is of exactly n bytes.
func decompress(b, stored []byte, n uint32) (raw []byte, ok bool) {
	room := int(n) + spare
	if cap(b) < room {
		b = make([]byte, 0, room)
	}
	raw, err := decoder.DecodeAll(stored, b[:0:room])
	return raw, err == nil && len(raw) == int(n)
}

// plausible tells whether stored bytes can have become raw ones, at most limit.
func plausible(stored, raw uint32, limit uint32) bool {
	return stored > 0 && raw > 0 && raw <= limit && uint64(raw) <= maxRatio*uint64(stored)
}
