package filestorage

import (
	"bytes"
	"io"
	"testing"

	"s3storage/internal/zodb"
)

const (
	benchTransactions = 1000
	benchRecords      = 100
)

// benchWrite writes records of 200 bytes.
func benchWrite(b *testing.B, w *Writer) {
	data := bytes.Repeat([]byte("x"), 200)
	for i := range benchTransactions {
		if err := w.Begin(w.Last()+1, zodb.TxnMeta{Status: ' '}); err != nil {
			b.Fatal(err)
		}
		for j := range benchRecords {
			if err := w.Record(zodb.Oid(i*benchRecords/2+j), data, zodb.NoTid); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.End(); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Sync(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkReader(b *testing.B) {
	w, name := created(b)
	benchWrite(b, w)
	b.ReportAllocs()
	for b.Loop() {
		r, err := Open(name)
		if err != nil {
			b.Fatal(err)
		}
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
			for {
				if _, err := r.NextRecord(); err == io.EOF {
					break
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}
		r.Close()
	}
	b.ReportMetric(float64(b.N)*benchTransactions*benchRecords/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkWriter(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		w, _ := created(b)
		benchWrite(b, w)
	}
	b.ReportMetric(float64(b.N)*benchTransactions*benchRecords/b.Elapsed().Seconds(), "records/s")
}
