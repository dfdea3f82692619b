package filestorage

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"s3storage/internal/zodb"
)

func FuzzReader(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, file []byte, skip bool) { readDamaged(t, file, skip) })
}

// What is read, damaged or not, can be written, and reads the same then.
func FuzzWriter(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, file []byte, skip bool) {
		all := readDamaged(t, file, skip)
		w, name := created(t)
		write(t, w, all)
		written, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		again := readAll(t, reader(t, written))
		if len(again) != len(all) {
			t.Fatalf("%d transactions became %d", len(all), len(again))
		}
		for i, txn := range all {
			for j, rec := range txn.records {
				if got := again[i].records[j]; got.Oid != rec.Oid || !bytes.Equal(got.Data, rec.Data) || (got.Data == nil) != (rec.Data == nil) {
					t.Fatalf("record %v became %v", rec, got)
				}
			}
		}
	})
}

// seed adds the small files of FileStorage.
func seed(f *testing.F) {
	for _, fixture := range fixtures(f) {
		if len(fixture.File) < 1<<16 {
			f.Add(fixture.File, false)
			f.Add(fixture.File, true)
		}
	}
}

// readDamaged returns what a reader finds in a file of any kind, and checks that
// it keeps its promises.
func readDamaged(t *testing.T, file []byte, skip bool) (all []*transactionRead) {
	r, err := NewReader(bytes.NewReader(file), int64(len(file)), "Data.fs")
	if err != nil {
		return nil
	}
	r.SkipDamaged = skip
	var size int64
	for {
		txn, err := next(r)
		if err == io.EOF {
			break
		}
		if err != nil {
			if !errors.Is(err, zodb.ErrCorrupt) && !errors.Is(err, zodb.ErrUnsupported) {
				t.Fatal(err)
			}
			break
		}
		if len(all) > 0 && txn.Tid <= all[len(all)-1].Tid || int64(len(txn.records)) != txn.Records {
			t.Fatalf("%+v after others", txn.Transaction)
		}
		size += txn.Size
		all = append(all, txn)
	}
	for _, gap := range r.Gaps() {
		size += gap.Size
	}
	if size > int64(len(file)) {
		t.Fatalf("%d bytes of transactions and gaps in a file of %d", size, len(file))
	}
	return all
}
