package segment

import (
	"sort"

	"s3storage/internal/fileformat"
)

// dataBlocks are the data blocks of a segment. They are most of a directory, and a
// large database has very many: so they stay as the directory has them, some 14
// bytes each, where a Block takes 40. They are not changed any more.
type dataBlocks struct {
	n       int
	entries []byte // as in the directory
	marks   []mark // of every markEvery-th block, from the first on
}

// A mark is a block from which on entries can be read.
type mark struct {
	first  Key    // of the block
	offset int64  // of the block in the file
	at     uint32 // in entries, behind the key
}

const (
	markEvery = 32
	markSize  = 32 // bytes of memory
)

// readDataBlocks reads n blocks, of which the first lies at an offset of the file. It
// returns the offset behind the last one. It keeps the bytes of r.
func readDataBlocks(r *fileformat.Reader, n int, offset int64) (d dataBlocks, end int64) {
	all := r.Rest()
	d = dataBlocks{n: n, marks: make([]mark, 0, (n+markEvery-1)/markEvery)}
	var before Key
	for i := range n {
		before = readKey(r, before)
		if i%markEvery == 0 {
			d.marks = append(d.marks, mark{before, offset, uint32(len(all) - len(r.Rest()))})
		}
		offset = readLengths(r, offset, maxDataRaw).End()
	}
	d.entries = all[:len(all)-len(r.Rest())]
	return d, offset
}

// from calls fn for the blocks from a mark to the next one, until it returns false.
func (d *dataBlocks) from(m int, fn func(Block) bool) {
	at := d.marks[m]
	r := fileformat.NewReader("", 0, d.entries[at.at:]) // no error: it was read before
	k, offset := at.first, at.offset
	for i := m * markEvery; i < min(d.n, (m+1)*markEvery); i++ {
		if i > m*markEvery {
			k = readKey(r, k)
		}
		b := readLengths(r, offset, maxDataRaw)
		b.First = k
		if !fn(b) {
			return
		}
		offset = b.End()
	}
}

// all returns the blocks.
func (d *dataBlocks) all() []Block {
	blocks := make([]Block, 0, d.n)
	for m := range d.marks {
		d.from(m, func(b Block) bool {
			blocks = append(blocks, b)
			return true
		})
	}
	return blocks
}

// find returns the last block that begins at or before a key.
func (d *dataBlocks) find(k Key) (found Block, ok bool) {
	m := sort.Search(len(d.marks), func(i int) bool { return d.marks[i].first.Compare(k) > 0 }) - 1
	if m < 0 {
		return found, false
	}
	d.from(m, func(b Block) bool {
		if b.First.Compare(k) > 0 {
			return false
		}
		found = b
		return true
	})
	return found, true
}

func (d *dataBlocks) weight() int { return len(d.entries) + markSize*len(d.marks) }
