package segment

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"s3storage/internal/zodb"
)

func TestScanWithoutLeavesOutOnlyDataThatIsNotWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var txns []Txn
		var without []Key
		unwanted := make(map[Key]bool)
		for i := range rapid.IntRange(1, 8).Draw(t, "transactions") {
			txn := Txn{Tid: zodb.Tid(10 + i), Committed: 40}
			all := rapid.Bool().Draw(t, "all of it is unwanted")
			for k := range uint32(rapid.IntRange(0, 40).Draw(t, "records")) {
				r := Record{K: k, Oid: zodb.Oid(k), Deleted: rapid.IntRange(0, 9).Draw(t, "deleted") == 0}
				if !r.Deleted {
					n := rapid.SampledFrom([]int{0, 9, 9000, blockSize / 2, blockSize}).Draw(t, "size")
					r.Data = bytes.Repeat([]byte{byte(i), byte(k)}, n/2)
				}
				txn.Records = append(txn.Records, r)
				if key := (Key{txn.Tid, k}); all || rapid.IntRange(0, 3).Draw(t, "unwanted") == 0 {
					without, unwanted[key] = append(without, key), true
				}
			}
			txns = append(txns, txn)
		}
		without = append([]Key{{Tid: 1}}, append(without, Key{Tid: 99})...) // of other segments
		file, d := write(t, NewID(), txns)
		next := make(map[zodb.Tid]int)
		err := d.ScanWithout(t.Context(), fetchFrom(file), WithData, without, func(txn *Txn) error {
			want := txns[txn.Tid-10].Records
			for _, r := range txn.Records {
				w := want[next[txn.Tid]]
				next[txn.Tid]++
				left := r.Data == nil && unwanted[Key{txn.Tid, r.K}]
				if r.K != w.K || r.Size != uint32(len(w.Data)) || !left && !bytes.Equal(r.Data, w.Data) {
					t.Fatalf("record %d of %s: %d bytes, unwanted: %v; written: number %d, %d bytes",
						r.K, txn.Tid, len(r.Data), unwanted[Key{txn.Tid, r.K}], w.K, len(w.Data))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range txns {
			if got := next[txns[i].Tid]; got != len(txns[i].Records) {
				t.Fatalf("transaction %s: %d of %d records", txns[i].Tid, got, len(txns[i].Records))
			}
		}
	})
}

func TestScanWithoutDoesNotDecompressABlockOfWhichNothingIsWanted(t *testing.T) {
	var txns []Txn
	var without []Key
	for i := range 3 {
		txns = append(txns, Txn{Tid: zodb.Tid(1 + i), Committed: 1, Records: []Record{{Oid: 1, Data: make([]byte, blockSize)}}})
	}
	without = append(without, Key{Tid: 1}, Key{Tid: 3})
	file, d := write(t, NewID(), txns)
	err := d.ScanWithout(t.Context(), fetchFrom(file), WithData, without, func(txn *Txn) error {
		if wanted := txn.Tid == 2; (txn.Records[0].Data != nil) != wanted {
			t.Errorf("transaction %s: data is wanted: %v, there are %d bytes", txn.Tid, wanted, len(txn.Records[0].Data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
