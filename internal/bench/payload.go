package bench

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"sync"
)

// A record as ZODB writes it for PersistentMapping(text='...'): the pickle of
// the class, then that of the state.
const (
	recordHead = "\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00." +
		"\x80\x03}q\x01X\x04\x00\x00\x00dataq\x02}q\x03X\x04\x00\x00\x00textq\x04X"
	recordTail = "q\x05ss."

	minRecord = len(recordHead) + 4 + len(recordTail)
)

// proseSize is how much text there is to cut from. Records overlap in it, yet
// compressors that see some megabytes find few long repeats.
const proseSize = 4 << 20

// prose is text that compresses about as well as a page's fields do, two to
// three times.
var prose = sync.OnceValue(func() string {
	r := rand.New(rand.NewPCG(1, 2))
	var words []string
	for range 2000 {
		var w strings.Builder
		for range 2 + r.IntN(4) {
			w.WriteByte("bcdfghklmnprstvw"[r.IntN(16)])
			w.WriteByte("aeiou"[r.IntN(5)])
		}
		words = append(words, w.String())
	}
	var b strings.Builder
	for b.Len() < proseSize {
		if r.IntN(8) == 0 {
			b.WriteString(strings.Repeat(string(rune('0'+r.IntN(10))), 1+r.IntN(3)))
		} else {
			// Few words make up most of a text.
			b.WriteString(words[r.IntN(1+r.IntN(len(words)))])
		}
		b.WriteByte(' ')
	}
	return b.String()
})

// appendRecord appends a record of so many bytes, or of the fewest possible.
func appendRecord(b []byte, r *rand.Rand, size int) []byte {
	n := max(size-minRecord, 0)
	b = append(b, recordHead...)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for text := prose(); n > 0; {
		start := r.IntN(len(text))
		part := text[start:min(start+n, len(text))]
		b = append(b, part...)
		n -= len(part)
	}
	return append(b, recordTail...)
}
