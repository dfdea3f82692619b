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
// database of the directory BENCH_DATABASE: see doc/performance.md. Each load is of
// a random object, with a cache that forgets blocks but keeps directories.
func BenchmarkColdLoad(b *testing.B) {
	dir := os.Getenv("BENCH_DATABASE")
	if dir == "" {
		b.Skip("BENCH_DATABASE names no directory")
	}
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
	entries, size := int64(0), int64(0)
	for _, t := range e.state.view.Tables {
		entries, size = entries+t.Entries, size+t.Size
	}
	b.Logf("%d segments; %d index tables, %d bytes, %.2f a revision",
		len(e.state.view.Segments), len(e.state.view.Tables), size, float64(size)/float64(entries))
	top := int64(e.state.view.MaxOid())
	n, bytes, three := requests(), read(), 0
	load := func() {
		before := requests()
		_, _, err := e.LoadBefore(b.Context(), zodb.Oid(rand.Int64N(top)), zodb.MaxTid)
		if err != nil && !isKeyError(err) {
			b.Fatal(err)
		}
		if requests()-before > 2 {
			three++
		}
	}
	const first = 2000
	for range first { // of every segment and table at least the directory
		load()
	}
	b.Logf("the first %d loads: %.2f requests and %d bytes each, %d of them more than 2 requests", first,
		float64(requests()-n)/first, (read()-bytes)/first, three)
	n, bytes, three = requests(), read(), 0
	b.ResetTimer()
	for range b.N {
		load()
	}
	b.ReportMetric(float64(requests()-n)/float64(b.N), "requests/op")
	b.ReportMetric(float64(read()-bytes)/float64(b.N), "bytes/op")
	b.ReportMetric(float64(three)/float64(b.N), "over-two-requests/op")
}
