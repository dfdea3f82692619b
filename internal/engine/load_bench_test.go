package engine

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// Loads of objects that are in memory: in the tail, or from a base.
func BenchmarkCachedLoad(b *testing.B) {
	for _, flushed := range []bool{false, true} {
		b.Run(map[bool]string{false: "tail", true: "base"}[flushed], func(b *testing.B) {
			e, err := Open(b.Context(), bucket.NewMemory(), Options{Node: b.Name(), Creator: "test", Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close(context.Background())
			const objects = 10_000
			for i := 0; i < objects; i += 100 {
				txn, err := e.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, nil)
				if err != nil {
					b.Fatal(err)
				}
				for n := range 100 {
					if err := txn.Store(zodb.Oid(i+n), 0, fmt.Appendf(nil, "%01000d", i+n)); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := txn.Vote(b.Context()); err != nil {
					b.Fatal(err)
				}
				done := make(chan error, 1)
				txn.Finish(func(_ *zodb.Commit, err error) { done <- err })
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			if flushed {
				if err := e.Flush(b.Context()); err != nil {
					b.Fatal(err)
				}
				for oid := range zodb.Oid(objects) {
					if _, _, err := e.LoadBefore(b.Context(), oid, zodb.MaxTid); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ResetTimer()
			for range b.N {
				if _, _, hit, err := e.LoadBeforeCached(zodb.Oid(rand.N(objects)), zodb.MaxTid); err != nil || !hit {
					b.Fatal(hit, err)
				}
			}
		})
	}
}
