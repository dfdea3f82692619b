package segment

import (
	"bytes"
	"context"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"s3storage/internal/zodb"
)

// noise returns bytes that cannot be compressed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func TestTransactionOfVeryManyRecordsIsSpreadOverBlocks(t *testing.T) {
	txns := sample()
	many := &txns[1]
	many.Committed = 60_000
	for k := range many.Committed {
		if k%7 > 0 { // the others were dropped
			many.Records = append(many.Records, Record{K: k, Oid: zodb.Oid(k) * 12345, Prev: 40, Deleted: k%5 == 0})
			if k%5 > 0 {
				many.Records[len(many.Records)-1].Data = []byte{byte(k), byte(k >> 8)}
			}
		}
	}
	file, d := write(t, ID{7}, txns)
	if len(d.Headers()) < 3 {
		t.Fatalf("%d header blocks", len(d.Headers()))
	}
	for _, b := range d.Headers() {
		if b.Raw > splitSize+100 {
			t.Errorf("a header block of %d bytes", b.Raw)
		}
	}
	for _, b := range append(d.Data(), d.References()...) {
		if b.Raw > blockSize+100 {
			t.Errorf("a block of %d bytes", b.Raw)
		}
	}
	got, portions := scanAll(t, file, d, WithData)
	if !reflect.DeepEqual(got, expected(txns, WithData)) {
		t.Error("it is read as another one")
	}
	want := len(txns)
	for _, b := range d.Headers() {
		if b.First.K > 0 {
			want++
		}
	}
	if portions != want || want == len(txns) {
		t.Errorf("%d portions, want %d", portions, want)
	}
	if err := d.Check(t.Context(), fetchFrom(file)); err != nil {
		t.Error(err)
	}
	// The caller that begins at a tid gets all of the transaction.
	for _, txn := range txns {
		first, records := -1, 0
		for i := d.FindHeaders(txn.Tid); i < len(d.Headers()); i++ {
			b := d.Headers()[i]
			err := d.DecodeHeaders(b, stored(file, b), func(got *Txn, begins bool) error {
				if got.Tid == txn.Tid {
					if begins {
						first = i
					}
					records += len(got.Records)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if first != d.FindHeaders(txn.Tid) || records != len(txn.Records) {
			t.Errorf("transaction %s: block %d, %d records of %d", txn.Tid, first, records, len(txn.Records))
		}
	}
}

func TestHeadersAreFoundByTid(t *testing.T) {
	var txns []Txn
	for i := range 3000 {
		txns = append(txns, Txn{Tid: zodb.Tid(10 * (i + 1)), Committed: 1,
			Meta:    zodb.TxnMeta{Description: noise(uint64(i), 60), User: []byte{}, Extension: []byte{}},
			Records: []Record{{Oid: zodb.Oid(i), Data: noise(uint64(i), 50)}}})
	}
	file, d := compare(t, txns)
	if len(d.Headers()) < 3 || len(d.References()) < 1 || len(d.Data()) < 3 {
		t.Fatalf("too few blocks: %d, %d, %d", len(d.Headers()), len(d.References()), len(d.Data()))
	}
	for tid := zodb.Tid(1); tid < 30_010; tid++ {
		want := (tid + 9) / 10 * 10 // the first at or after tid
		i := d.FindHeaders(tid)
		if i > 0 && d.Headers()[i].First.Tid > tid {
			t.Fatalf("%d: block %d begins with %d", tid, i, d.Headers()[i].First.Tid)
		}
		if i+1 < len(d.Headers()) && d.Headers()[i+1].First.Tid < want {
			t.Fatalf("%d: block %d is behind that of transaction %d", tid, i, want)
		}
	}
	if _, ok := d.Find(9, 1); ok {
		t.Error("a record before all others is found")
	}
	// Each block holds what the directory says, and can be read alone.
	for _, b := range d.Data() {
		n := 0
		err := d.DecodeData(b, stored(file, b), func(tid zodb.Tid, k uint32, oid zodb.Oid, data []byte) error {
			if n == 0 && (Key{tid, k} != b.First) {
				t.Errorf("%s/%d is the first of the block of %s", tid, k, b.First)
			}
			if n++; !bytes.Equal(data, noise(uint64(oid), 50)) {
				t.Errorf("object %s has other data", oid)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	classes, err := d.DecodeClasses(stored(file, d.ClassTable()))
	if err != nil || !reflect.DeepEqual(classes, []string{""}) {
		t.Errorf("classes %q, %v", classes, err)
	}
	for _, b := range d.References() {
		err := d.DecodeReferences(b, stored(file, b), classes, func(_ zodb.Tid, _ uint32, class string, refs []zodb.Oid, known bool) error {
			if class != "" || refs != nil || known {
				t.Errorf("%q %v %v", class, refs, known)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLargeRecordsAreAloneInTheirBlocks(t *testing.T) {
	meta := zodb.TxnMeta{User: []byte{}, Description: bytes.Repeat([]byte("long "), maxMeta/5), Extension: []byte{}}
	txns := []Txn{{Tid: 5, Meta: meta, Committed: 9, Records: []Record{
		{K: 0, Oid: 1, Data: []byte("small")},
		{K: 1, Oid: 2, Data: noise(1, 9<<20)},
		{K: 2, Oid: 3, Data: []byte("small")},
		{K: 3, Oid: 4, Data: []byte("another")},
		{K: 4, Oid: 5, Data: bytes.Repeat([]byte("text "), 3<<20)},
		{K: 5, Oid: 6, Data: noise(2, blockSize)},
		{K: 6, Oid: 7, Data: noise(3, blockSize-maxDataEntry)},
		{K: 7, Oid: 8, Deleted: true},
	}}}
	file, d := compare(t, txns)
	if n := len(d.Data()); n != 6 {
		t.Errorf("%d data blocks, want 6", n)
	}
	if got, portions := scanAll(t, file, d, WithData); portions != 4 || len(got) != 1 {
		t.Errorf("%d portions, want 4: two for the large records, one as the description fills a block", portions)
	}
}

func TestReferencesAndClassesThatAreTooManyAreUnknown(t *testing.T) {
	txn := Txn{Tid: 5, Committed: maxClasses + 4}
	refs := make([]zodb.Oid, maxReferences+1)
	for i := range refs {
		refs[i] = zodb.Oid(i)
	}
	txn.Records = append(txn.Records,
		Record{K: 0, Oid: 1, Refs: refs, RefsKnown: true, Class: strings.Repeat("x", maxClassName+1)},
		Record{K: 1, Oid: 1, Refs: refs[1:], RefsKnown: true})
	for k := range uint32(maxClasses + 1) {
		txn.Records = append(txn.Records, Record{K: k + 2, Class: string(rune('A' + k)), RefsKnown: true})
	}
	file, d := write(t, ID{7}, []Txn{txn})
	n := 0
	err := d.Scan(t.Context(), fetchFrom(file), WithReferences, func(got *Txn) error {
		for _, r := range got.Records {
			want := txn.Records[r.K]
			if r.K == 0 {
				want.Class, want.Refs, want.RefsKnown = "", nil, false
			}
			if r.K == maxClasses+2 {
				want.Class = ""
			}
			if r.Class != want.Class || r.RefsKnown != want.RefsKnown || !reflect.DeepEqual(r.Refs, want.Refs) {
				t.Errorf("record %d: class %q, %d references, known: %v", r.K, r.Class, len(r.Refs), r.RefsKnown)
			}
			n++
		}
		return nil
	})
	if err != nil || n != len(txn.Records) {
		t.Errorf("%d records, %v", n, err)
	}
}

// The reading ahead is cut into ranges, and none is left behind.
func TestScanFetchesRangesAndNoByteTwice(t *testing.T) {
	var txns []Txn
	for i := range 30 {
		txns = append(txns, Txn{Tid: zodb.Tid(i + 1), Committed: 20})
		for k := range uint32(20) {
			txns[i].Records = append(txns[i].Records, Record{K: k, Data: noise(uint64(k), 30_000)})
		}
	}
	file, d := write(t, ID{7}, txns)
	type call struct{ offset, n int64 }
	calls := make(chan call, 1000)
	fetch := func(ctx context.Context, offset, n int64) ([]byte, error) {
		calls <- call{offset, n}
		return fetchFrom(file)(ctx, offset, n)
	}
	if err := d.Scan(t.Context(), fetch, WithReferences|WithData, func(*Txn) error { return nil }); err != nil {
		t.Fatal(err)
	}
	close(calls)
	total, count := int64(0), 0
	for c := range calls {
		if c.n > rangeSize {
			t.Errorf("%d bytes at once", c.n)
		}
		total += c.n
		count++
	}
	if want := d.ClassTable().End() - startSize; total != want || count > 10 {
		t.Errorf("%d bytes of %d in %d calls", total, want, count)
	}
}

func TestDirectoryServesManyGoroutinesAtOnce(t *testing.T) {
	txns := []Txn{{Tid: 5, Committed: 500}}
	for k := range txns[0].Committed {
		txns[0].Records = append(txns[0].Records, Record{K: k, Oid: zodb.Oid(k), Data: noise(uint64(k), 1000)})
	}
	file, d := write(t, ID{7}, txns)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			if n := serveAll(t, d, file, txns); n != 500 {
				t.Errorf("%d records were served", n)
			}
		})
	}
	readers.Wait()
}
