package base

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"s3storage/internal/fileformat"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// A Rewrite is what a pack that has not ended has made of segments of the base, which
// are neighbours. The database still has these. A base lists rewrites so that a pack
// that is begun later can take them over: a file that no base names may be deleted
// by a sweep at any moment. No segment is in two of them.
type Rewrite struct {
	What [sha256.Size]byte // of what was to be made of the segments: for packs to compare
	Of   []segment.ID      // the segments, at least one
	Into Segment           // what they became, in this bucket; the zero value if nothing was left
}

func (w *Rewrite) append(out []byte) []byte {
	out = append(out, w.What[:]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(w.Of)))
	became := uint32(1)
	if w.Into.Txns == 0 {
		became = 0
	}
	out = binary.BigEndian.AppendUint32(out, became)
	for _, id := range w.Of {
		out = append(out, id[:]...)
	}
	if became > 0 {
		out = w.Into.append(out)
	}
	return out
}

func readRewrite(r *fileformat.Reader) (w Rewrite) {
	copy(w.What[:], r.Bytes(sha256.Size))
	of, became := r.Uint32(), r.Uint32()
	if of == 0 || uint64(of) > uint64(len(r.Rest())/len(segment.ID{})) || became > 1 {
		_ = r.Corrupt("a rewrite of %d segments into %d", of, became)
		return w
	}
	for range of {
		w.Of = append(w.Of, r.ID())
	}
	if became == 1 {
		if w.Into = readSegment(r, zodb.NoTid, 0); w.Into.Txns == 0 {
			_ = r.Corrupt("%s has no transactions", w.Into.ID.Name())
		}
	}
	return w
}

// Rewritten returns the segments that rewrites became.
func (b *Base) Rewritten() (all []Segment) {
	for i := range b.Rewrites {
		if b.Rewrites[i].Into.Txns > 0 {
			all = append(all, b.Rewrites[i].Into)
		}
	}
	return all
}

// RewrittenBytes returns how much space they take up.
func (b *Base) RewrittenBytes() (n int64) {
	for _, s := range b.Rewritten() {
		n += s.Size
	}
	return n
}

// DropRewrites forgets those of any of the segments.
func (b *Base) DropRewrites(of []Segment) {
	gone := make(map[segment.ID]bool)
	for i := range of {
		gone[of[i].ID] = true
	}
	b.Rewrites = slices.DeleteFunc(b.Rewrites, func(w Rewrite) bool {
		return slices.ContainsFunc(w.Of, func(id segment.ID) bool { return gone[id] })
	})
}
