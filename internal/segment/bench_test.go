package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"s3storage/internal/zodb"
)

// site returns transactions as a content management system writes them: pages,
// which are text with a dozen fields around it, and more often the buckets of
// trees that index them. The text is that of the documents of this tree.
func site(tb testing.TB, size int) (txns []Txn, total int) {
	names, err := filepath.Glob("../../doc/*.md")
	if err != nil || len(names) == 0 {
		tb.Fatal("no text: ", err)
	}
	var text []byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		text = append(text, b...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var buckets [8][]uint32
	for tid := zodb.Tid(1 << 60); total < size; tid += zodb.Tid(r.IntN(1 << 36)) {
		txn := Txn{Tid: tid, Meta: zodb.TxnMeta{User: []byte("admin"), Description: []byte("/site/news/edit"), Status: ' '}}
		for range 1 + r.IntN(8) {
			rec := Record{K: uint32(len(txn.Records)), Oid: zodb.Oid(r.IntN(1 << 20)), Prev: tid - zodb.Tid(r.IntN(1<<40)), RefsKnown: true}
			if r.IntN(3) == 0 {
				rec.Class = "plone.app.contenttypes.content.Document"
				rec.Data = page(r, text)
			} else {
				rec.Class = "BTrees.IIBTree.IIBucket"
				rec.Data = bucket(r, &buckets[r.IntN(len(buckets))])
			}
			for range r.IntN(5) {
				rec.Refs = append(rec.Refs, zodb.Oid(r.IntN(1<<20)))
			}
			total += len(rec.Data)
			txn.Records = append(txn.Records, rec)
		}
		txn.Committed = uint32(len(txn.Records))
		txns = append(txns, txn)
	}
	return txns, total
}

// page returns the record of a page with some paragraphs of the text.
func page(r *rand.Rand, text []byte) []byte {
	b := []byte("\x80\x03cplone.app.contenttypes.content\nDocument\nq\x01.\x80\x03}q\x02(")
	for _, field := range []string{"id", "title", "description", "text", "portal_type", "creators", "contributors", "rights",
		"language", "subject", "effective_date", "expiration_date", "creation_date", "modification_date", "__parent__",
		"__annotations__", "_owner", "__ac_local_roles__", "workflow_history", "_cmf_uid"} {
		value := make([]byte, 0, 16)
		if field == "text" {
			for range 1 + r.IntN(4) {
				n := 100 + r.IntN(1200)
				from := r.IntN(len(text) - n)
				value = append(value, "<p>"...)
				value = append(value, text[from:from+n]...)
				value = append(value, "</p>"...)
			}
		} else {
			value = binary.LittleEndian.AppendUint64(value, uint64(r.IntN(1<<20)))
		}
		b = append(b, 'X', byte(len(field)), 0, 0, 0)
		b = append(b, field...)
		b = append(b, 'X')
		b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
		b = append(b, value...)
	}
	return append(b, "u."...)
}

// bucket adds an entry to a tree's bucket, and returns its record. Now and then
// the bucket is another one.
func bucket(r *rand.Rand, entries *[]uint32) []byte {
	if len(*entries) == 0 || r.IntN(10) == 0 {
		*entries = nil
		n := uint32(r.IntN(1 << 30))
		for range 30 + r.IntN(60) {
			n += uint32(r.IntN(300))
			*entries = append(*entries, n)
		}
	}
	i := r.IntN(len(*entries))
	*entries = slices.Insert(*entries, i, (*entries)[i])
	b := []byte("\x80\x03cBTrees.IIBTree\nIIBucket\nq\x01.\x80\x03((")
	for _, n := range *entries {
		b = append(b, 'J')
		b = binary.LittleEndian.AppendUint32(b, n)
		b = append(b, 'K', byte(n%20))
	}
	return append(b, "t\x85q\x02."...)
}

func writeAll(tb testing.TB, out io.Writer, txns []Txn, ahead int) Info {
	w := NewWriter(out, database, ID{7}, ahead)
	for i := range txns {
		if err := w.Begin(txns[i].Tid, txns[i].Meta, txns[i].Committed); err != nil {
			tb.Fatal(err)
		}
		for j := range txns[i].Records {
			if err := w.Add(&txns[i].Records[j]); err != nil {
				tb.Fatal(err)
			}
		}
	}
	info, err := w.Close()
	if err != nil {
		tb.Fatal(err)
	}
	return info
}

func BenchmarkWrite(b *testing.B) {
	txns, size := site(b, 16<<20)
	b.SetBytes(int64(size))
	var info Info
	for b.Loop() {
		info = writeAll(b, io.Discard, txns, 0)
	}
	b.ReportMetric(float64(size)/float64(info.Size), "ratio")
	b.ReportMetric(float64(info.Size-info.Scan)/float64(info.Records), "overhead-B/record")
}

// BenchmarkLevel compares the levels of zstd on blocks of such data.
func BenchmarkLevel(b *testing.B) {
	txns, _ := site(b, 4<<20)
	var all []byte
	for _, txn := range txns {
		for _, r := range txn.Records {
			all = append(all, r.Data...)
		}
	}
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression} {
		b.Run(level.String(), func(b *testing.B) {
			e := must(zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)))
			b.SetBytes(int64(len(all)))
			stored := 0
			var out []byte
			for b.Loop() {
				stored = 0
				for from := 0; from < len(all); from += blockSize {
					out = e.EncodeAll(all[from:min(from+blockSize, len(all))], out[:0])
					stored += len(out)
				}
			}
			b.ReportMetric(float64(len(all))/float64(stored), "ratio")
		})
	}
}

func BenchmarkRecord(b *testing.B) {
	txns, _ := site(b, 4<<20)
	file, d := write(b, ID{7}, txns)
	txn := txns[len(txns)/2]
	rec := txn.Records[len(txn.Records)-1]
	b.ReportAllocs()
	for b.Loop() {
		block, _ := d.Find(txn.Tid, rec.K)
		data, err := d.Record(block, stored(file, block), txn.Tid, rec.K, rec.Oid)
		if err != nil || !bytes.Equal(data, rec.Data) {
			b.Fatal(err)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	txns, size := site(b, 16<<20)
	file, d := write(b, ID{7}, txns)
	for name, parts := range map[string]Parts{"headers": HeadersOnly, "references": WithReferences, "all": WithReferences | WithData} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Scan(context.Background(), fetchFrom(file), parts, func(*Txn) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
