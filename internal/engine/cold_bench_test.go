package engine

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// What opening costs, and loads of objects of which nothing is in memory, in the
// database of the directory BENCH_DATABASE: see doc/performance.md. Each load is of a
// random object. "current" loads its current revision; "any", by turns, that and the one
// before the middle of the database; "ahead" does so when directories were read ahead,
// as a server reads them.
func BenchmarkColdLoad(b *testing.B) {
	dir := os.Getenv("BENCH_DATABASE")
	if dir == "" {
		b.Skip("BENCH_DATABASE names no directory")
	}
	for _, name := range []string{"current", "any", "ahead"} {
		b.Run(name, func(b *testing.B) { coldLoad(b, dir, name != "current", name == "ahead") })
	}
}

func coldLoad(b *testing.B, dir string, old, ahead bool) {
	d, err := bucket.OpenDirectory(dir, false)
	if err != nil {
		b.Fatal(err)
	}
	counted := bucket.Observe(d)
	requests := func() (n uint64) {
		for _, k := range counted.Snapshot().Kinds {
			n += k.Count
		}
		return n
	}
	read := func() uint64 { return counted.Snapshot().Kinds[bucket.KindGetRange].Bytes }
	start := time.Now()
	e, err := OpenReadOnly(b.Context(), counted, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("opened in %s, %d requests", time.Since(start), requests())
	v := e.present()
	entries, size, directory := int64(0), int64(0), uint32(0)
	for _, t := range v.Tables {
		entries, size = entries+t.Entries, size+t.Size
	}
	for _, s := range v.Segments {
		directory = max(directory, s.Tail)
	}
	b.Logf("%d segments, the largest directory has %d bytes; %d index tables, %d bytes, %.2f a revision",
		len(v.Segments), directory, len(v.Tables), size, float64(size)/float64(entries))
	n, bytes, three, most := requests(), read(), 0, uint64(0)
	if ahead {
		if err := v.ReadDirectories(b.Context(), e.opts.Memory/2); err != nil {
			b.Fatal(err)
		}
		b.Logf("read ahead: %d requests, %d bytes", requests()-n, read()-bytes)
		n, bytes = requests(), read()
	}
	middle := v.Segments[len(v.Segments)/2].First
	load := func() {
		before, tid := requests(), zodb.MaxTid
		at := read()
		if old && rand.N(2) == 0 {
			tid = middle
		}
		_, _, err := e.LoadBefore(b.Context(), zodb.Oid(rand.Uint64N(uint64(v.MaxOid()))), tid)
		if err != nil && !isKeyError(err) {
			b.Fatal(err)
		}
		if requests()-before > 2 {
			three++
		}
		most = max(most, read()-at)
	}
	const first = 4000
	for range first {
		load()
	}
	b.Logf("the first %d loads: %.2f requests and %d bytes each, %d of them more than 2 requests, at most %d bytes", first,
		float64(requests()-n)/first, (read()-bytes)/first, three, most)
	n, bytes, three = requests(), read(), 0
	b.ResetTimer()
	for range b.N {
		load()
	}
	b.ReportMetric(float64(requests()-n)/float64(b.N), "requests/op")
	b.ReportMetric(float64(read()-bytes)/float64(b.N), "bytes/op")
	b.ReportMetric(float64(three)/float64(b.N), "over-two-requests/op")
}
