package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"s3storage/internal/blob"
	"s3storage/internal/zodb"
)

var database = [16]byte{1, 2, 3}

// write returns the segment with the transactions.
func write(t interface{ Fatal(...any) }, id ID, txns []Txn) ([]byte, *Directory) {
	var b bytes.Buffer
	w := NewWriter(&b, database, id, 0)
	for _, txn := range txns {
		if err := w.Begin(txn.Tid, txn.Meta, txn.Committed); err != nil {
			t.Fatal(err)
		}
		for i := range txn.Records {
			if err := w.Add(&txn.Records[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	d, err := ReadDirectory(database, info, tailOf(b.Bytes(), info))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), d
}

func tailOf(file []byte, info Info) []byte { return file[len(file)-int(info.Tail):] }

func fetchFrom(file []byte) Fetch {
	return func(_ context.Context, offset, n int64) ([]byte, error) {
		if offset+n > int64(len(file)) {
			return nil, io.ErrUnexpectedEOF
		}
		return file[offset:][:n:n], nil
	}
}

func stored(file []byte, b Block) []byte { return file[b.Offset:b.End()] }

// scan returns what Scan delivers, portions put together.
func scanAll(t interface{ Fatal(...any) }, file []byte, d *Directory, parts Parts) (txns []Txn, portions int) {
	err := d.Scan(context.Background(), fetchFrom(file), parts, func(txn *Txn) error {
		portions++
		if n := len(txns); n > 0 && txns[n-1].Tid == txn.Tid {
			if !reflect.DeepEqual(txns[n-1].Meta, txn.Meta) || txns[n-1].Committed != txn.Committed {
				return fmt.Errorf("portions of transaction %s differ", txn.Tid)
			}
			txns[n-1].Records = append(txns[n-1].Records, txn.Records...)
			return nil
		}
		copied := *txn
		copied.Records = append([]Record(nil), txn.Records...)
		txns = append(txns, copied)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return txns, portions
}

// expected returns what Scan is to deliver.
func expected(txns []Txn, parts Parts) (want []Txn) {
	for _, txn := range txns {
		records := txn.Records
		txn.Records = nil
		for _, r := range records {
			r.Size = uint32(len(r.Data))
			if r.Deleted || parts&WithReferences == 0 {
				r.Class, r.Refs, r.RefsKnown = "", nil, false
			}
			if parts&WithData == 0 {
				r.Data = nil
			}
			txn.Records = append(txn.Records, r)
		}
		want = append(want, txn)
	}
	return want
}

func sample() []Txn {
	meta := zodb.TxnMeta{User: []byte("anna"), Description: []byte("naïve"), Extension: []byte("}."), Status: 'p'}
	none := zodb.TxnMeta{User: []byte{}, Description: []byte{}, Extension: []byte{}, Status: ' '}
	return []Txn{
		{Tid: 50, Meta: meta, Committed: 9, Records: []Record{
			{K: 0, Oid: 1, Prev: 7, Data: []byte("some data"), Class: "a.B", Refs: []zodb.Oid{9, 2, 1 << 63}, RefsKnown: true},
			{K: 2, Oid: 2, Prev: 8, Deleted: true},
			{K: 3, Oid: 1<<64 - 1, Data: []byte{}},
			{K: 8, Oid: 5, Prev: 51, Data: []byte("a blob"), Blob: &blob.Ref{ID: blob.ID{4, 5}, Size: 1<<63 - 1}, Class: "a.C"},
		}},
		{Tid: 51, Meta: none},
		{Tid: zodb.MaxTid, Meta: meta, Committed: 2, Records: []Record{
			{K: 1, Oid: 6, Prev: 50, Source: 40, Data: []byte("shared"), Class: "a.B", RefsKnown: true},
		}},
	}
}

func TestSegmentIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var txns []Txn
		tid := zodb.NoTid
		texts := rapid.SliceOfN(rapid.Byte(), 0, 20)
		for range rapid.IntRange(0, 5).Draw(t, "transactions") {
			tid += zodb.Tid(rapid.Uint64Range(1, 1<<60).Draw(t, "step"))
			txn := Txn{Tid: tid, Meta: zodb.TxnMeta{Status: rapid.Byte().Draw(t, "status"), User: texts.Draw(t, "user"),
				Description: texts.Draw(t, "description"), Extension: texts.Draw(t, "extension")}}
			next := uint32(0)
			for range rapid.IntRange(0, 20).Draw(t, "records") {
				r := Record{K: next + rapid.Uint32Range(0, 3).Draw(t, "gap")}
				next = r.K + 1
				r.Oid = zodb.Oid(rapid.Uint64().Draw(t, "oid"))
				r.Prev = zodb.Tid(rapid.Uint64().Draw(t, "prev"))
				r.Source = zodb.Tid(rapid.Uint64().Draw(t, "source"))
				if r.Deleted = rapid.Bool().Draw(t, "deleted"); !r.Deleted {
					r.Data = make([]byte, rapid.SampledFrom([]int{0, 1, 100, 20_000, 65_000, 70_000}).Draw(t, "size"))
					r.Class = rapid.SampledFrom([]string{"", "a", "b.C", strings.Repeat("x", maxClassName)}).Draw(t, "class")
					if r.RefsKnown = rapid.Bool().Draw(t, "known"); r.RefsKnown {
						for range rapid.IntRange(0, 5).Draw(t, "references") {
							r.Refs = append(r.Refs, zodb.Oid(rapid.Uint64().Draw(t, "ref")))
						}
					}
					if rapid.Bool().Draw(t, "blob") {
						r.Blob = &blob.Ref{ID: blob.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
							Size: rapid.Int64Min(0).Draw(t, "blob size")}
					}
					for i := range min(len(r.Data), 8) {
						r.Data[i] = byte(next >> (i * 4))
					}
				}
				txn.Records = append(txn.Records, r)
			}
			txn.Committed = next + rapid.Uint32Range(0, 3).Draw(t, "dropped at the end")
			txns = append(txns, txn)
		}
		compare(t, txns)
	})
}

// compare writes the transactions and reads them in every way there is.
func compare(t rapid.TB, txns []Txn) ([]byte, *Directory) {
	file, d := write(t, ID{7}, txns)
	if d.Info().Size != int64(len(file)) {
		t.Fatalf("%d bytes, by its info %d", len(file), d.Info().Size)
	}
	if err := d.Check(context.Background(), fetchFrom(file)); err != nil {
		t.Fatal(err)
	}
	for _, parts := range []Parts{HeadersOnly, WithReferences, WithData, WithData | WithReferences} {
		if got, _ := scanAll(t, file, d, parts); !reflect.DeepEqual(got, expected(txns, parts)) {
			t.Fatalf("parts %d\ngot  %+v\nwant %+v", parts, got, expected(txns, parts))
		}
	}
	served := map[Key][]byte{}
	for _, txn := range txns {
		for _, r := range txn.Records {
			b, ok := d.Find(txn.Tid, r.K)
			if r.Deleted {
				continue
			}
			if !ok {
				t.Fatalf("record %d of %s is not found", r.K, txn.Tid)
			}
			data, err := d.Record(b, stored(file, b), txn.Tid, r.K, r.Oid)
			if err != nil {
				t.Fatal(err)
			}
			served[Key{txn.Tid, r.K}] = data
			if _, err := d.Record(b, stored(file, b), txn.Tid, r.K, r.Oid+1); !errors.Is(err, zodb.ErrCorrupt) {
				t.Fatalf("record %d of %s is served as another object's: %v", r.K, txn.Tid, err)
			}
			if _, err := d.Record(b, stored(file, b), txn.Tid, 1<<32-1, r.Oid); !errors.Is(err, zodb.ErrCorrupt) {
				t.Fatalf("a record that is not there: %v", err)
			}
		}
	}
	for _, txn := range txns {
		for _, r := range txn.Records {
			if data := served[Key{txn.Tid, r.K}]; !bytes.Equal(data, r.Data) {
				t.Fatalf("record %d of %s has %d other bytes in the end", r.K, txn.Tid, len(data))
			}
		}
	}
	return file, d
}
