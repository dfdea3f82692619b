package engine

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"s3storage/internal/bucket"
)

// A branch of the database in the directory BENCH_DATABASE, into an empty directory: see
// doc/performance.md. BENCH_DELAY, such as all=30ms, slows both down. It leaves nothing in the database but what its log says.
func BenchmarkBranch(b *testing.B) {
	dir := os.Getenv("BENCH_DATABASE")
	if dir == "" {
		b.Skip("BENCH_DATABASE names no directory")
	}
	d, err := bucket.OpenDirectory(dir, false)
	if err != nil {
		b.Fatal(err)
	}
	delays, err := bucket.ParseDelays(os.Getenv("BENCH_DELAY"))
	if err != nil {
		b.Fatal(err)
	}
	from := bucket.Observe(bucket.Slow(d, delays, 1))
	e, err := OpenExisting(b.Context(), from, Options{Node: b.Name(), Creator: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close(context.Background())
	puts := func(s bucket.Stats) float64 {
		return float64(s.Kinds[bucket.KindPut].Count + s.Kinds[bucket.KindPutIfAbsent].Count)
	}
	probed := bucket.Observe(bucket.NewMemory())
	if err := bucket.Probe(b.Context(), probed); err != nil {
		b.Fatal(err)
	}
	probe, all := puts(probed.Snapshot()), 0.0
	for range b.N {
		b.StopTimer()
		d, err := bucket.OpenDirectory(b.TempDir(), false)
		if err != nil {
			b.Fatal(err)
		}
		to, before := bucket.Observe(bucket.Slow(d, delays, 1)), from.Snapshot()
		b.StartTimer()
		snapshot, err := e.Branch(b.Context(), Moment{}, to, dir)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		all += puts(to.Snapshot()) + puts(from.Snapshot().Sub(before))
		if err := e.DeleteSnapshot(b.Context(), snapshot); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(all/float64(b.N)-probe, "puts/op")
	b.ReportMetric(probe, "puts-of-probe/op")
}
