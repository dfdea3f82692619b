package engine

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// A pack of a copy of the database in the directory BENCH_DATABASE: see
// doc/performance.md.
func BenchmarkPack(b *testing.B) {
	dir := os.Getenv("BENCH_DATABASE")
	if dir == "" {
		b.Skip("BENCH_DATABASE names no directory")
	}
	for range b.N {
		b.StopTimer()
		copied := b.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			b.Fatal(err)
		}
		d, err := bucket.OpenDirectory(copied, false)
		if err != nil {
			b.Fatal(err)
		}
		e, err := OpenExisting(b.Context(), d, Options{Node: b.Name(), Creator: "test", Unserved: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := e.Pack(b.Context(), zodb.MaxTid); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := e.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
