package engine

import (
	"maps"
	"math/bits"
	"slices"

	"s3storage/internal/zodb"
)

// An oidSet is a set of oids. Oids that lie close to each other take little more
// than a bit each.
type oidSet struct {
	chunks map[uint64]*oidChunk
}

// A oidChunk stands for oids that differ in their last bits only.
type oidChunk [16]uint64

const chunkOids = 16 * 64

func newOidSet() *oidSet { return &oidSet{chunks: make(map[uint64]*oidChunk)} }

func (s *oidSet) add(oid zodb.Oid) {
	c := s.chunks[uint64(oid)/chunkOids]
	if c == nil {
		c = new(oidChunk)
		s.chunks[uint64(oid)/chunkOids] = c
	}
	c[oid%chunkOids/64] |= 1 << (oid % 64)
}

func (s *oidSet) has(oid zodb.Oid) bool {
	c := s.chunks[uint64(oid)/chunkOids]
	return c != nil && c[oid%chunkOids/64]&(1<<(oid%64)) != 0
}

func (s *oidSet) remove(oid zodb.Oid) {
	if c := s.chunks[uint64(oid)/chunkOids]; c != nil {
		c[oid%chunkOids/64] &^= 1 << (oid % 64)
	}
}

func (s *oidSet) empty() bool { return len(s.chunks) == 0 }

// keys returns which chunks there are, in order.
func (s *oidSet) keys() []uint64 { return slices.Sorted(maps.Keys(s.chunks)) }

// take takes the oids of a chunk out of the set and returns them in order.
func (s *oidSet) take(key uint64) (oids []zodb.Oid) {
	c := s.chunks[key]
	if c == nil {
		return nil
	}
	delete(s.chunks, key)
	for i, word := range c {
		for ; word != 0; word &= word - 1 {
			oids = append(oids, zodb.Oid(key*chunkOids+uint64(i)*64+uint64(bits.TrailingZeros64(word))))
		}
	}
	return oids
}
