package segment

import (
	"math/rand/v2"
	"slices"
	"testing"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

func TestDataBlocksAreFoundAsInAListOfThem(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, n := range []int{0, 1, 2, markEvery - 1, markEvery, markEvery + 1, 5*markEvery + 7} {
		list := blockLists{classes: Block{Stored: 1, Raw: 1}}
		k, offset := Key{}, int64(startSize)
		for range n {
			if r.IntN(3) == 0 && k.Tid > 0 {
				k.K += 1 + r.Uint32N(300)
			} else {
				k = Key{k.Tid + 1 + zodb.Tid(r.Uint64N(1<<30)), r.Uint32N(100)}
			}
			b := Block{Offset: offset, Stored: 1 + r.Uint32N(60000), Raw: 1 + r.Uint32N(32768), CRC: r.Uint32(), First: k}
			list.data = append(list.data, b)
			offset = b.End()
		}
		d := Directory{}
		if err := d.decode(fileformat.NewReader("directory", 0, list.encode(&Info{}))); err != nil {
			t.Fatalf("%d blocks: %v", n, err)
		}
		if got := d.Data(); !slices.Equal(got, list.data) || d.info.Scan != offset {
			t.Fatalf("%d blocks up to %d\ngot  %v\nwant %v up to %d", n, d.info.Scan, got, list.data, offset)
		}
		look := func(k Key) {
			t.Helper()
			var want Block
			i := last(list.data, k)
			if i >= 0 {
				want = list.data[i]
			}
			if got, ok := d.Find(k.Tid, k.K); got != want || ok != (i >= 0) {
				t.Fatalf("%d blocks, %s: got %v %v, want %v %v", n, k, got, ok, want, i >= 0)
			}
		}
		look(Key{})
		look(Key{zodb.MaxTid, 0})
		for _, b := range list.data {
			look(Key{b.First.Tid, b.First.K})
			look(Key{b.First.Tid, b.First.K + 1})
			look(Key{b.First.Tid - 1, b.First.K})
		}
	}
}

// A database of a hundred million revisions has some three million blocks.
func TestADataBlockInMemoryTakesAFewBytes(t *testing.T) {
	list := blockLists{classes: Block{Stored: 1, Raw: 1}}
	for i := range 10_000 {
		list.data = append(list.data, Block{Stored: 23_000, Raw: 65_000, CRC: 1 << 31, First: Key{zodb.Tid(i+1) << 24, uint32(i % 100)}})
	}
	d := Directory{}
	if err := d.decode(fileformat.NewReader("directory", 0, list.encode(&Info{}))); err != nil {
		t.Fatal(err)
	}
	if w := d.Weight(); w > 18*len(list.data) {
		t.Errorf("%d blocks take %d bytes", len(list.data), w)
	}
}
