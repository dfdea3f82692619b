package extsort

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestRecordsComeBackInOrder(t *testing.T) {
	for _, memory := range []int{100, 5_000, 1 << 20} {
		for _, n := range []int{0, 1, 7, 3000} {
			t.Run(fmt.Sprintf("%d records, %d bytes", n, memory), func(t *testing.T) {
				s := &Sorter{KeySize: 8, Memory: memory}
				defer s.Close()
				seed := rand.Uint64()
				random := rand.New(rand.NewPCG(seed, 0))
				var want [][]byte
				for i := range n {
					r := binary.BigEndian.AppendUint64(nil, random.Uint64N(1<<62)<<1|uint64(i&1))
					r = append(r, bytes.Repeat([]byte{byte(i)}, random.IntN(50))...)
					want = append(want, r)
					if err := s.Add(r); err != nil {
						t.Fatal(err)
					}
				}
				slices.SortFunc(want, func(a, b []byte) int { return bytes.Compare(a[:8], b[:8]) })
				for range 2 {
					var got [][]byte
					for r, err := range s.Sorted() {
						if err != nil {
							t.Fatal(err)
						}
						got = append(got, bytes.Clone(r))
					}
					if !slices.EqualFunc(got, want, bytes.Equal) {
						t.Fatalf("seed %d: not what was added, in order", seed)
					}
				}
			})
		}
	}
}

func TestDirectoryThatIsNotThereIsNamed(t *testing.T) {
	t.Setenv("TMPDIR", "/nowhere")
	s := &Sorter{KeySize: 1, Memory: 10}
	var err error
	for range 10 {
		if err = s.Add([]byte("0123456789")); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("error %v", err)
	}
	if err := s.Add(nil); err == nil {
		t.Error("a record without a key was taken")
	}
}
