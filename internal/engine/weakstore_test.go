package engine

import (
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/buckettest/weakstore"
)

// What the catalog takes for granted is needed: with a propagation time of zero, on a
// store that has one, a database is soon not to be read.
func TestAStoreThatShowsWritesLaterThanTheCatalogWasToldIsFoundOut(t *testing.T) {
	c := weakstore.Start(t)
	store, name := faults.NewEventual(bucket.NewMemory(), 1, time.Hour, 1), c.Name()
	e := openEngine(t, c.Open(t, store.Reader(), name, 0))
	commit(t, e, stored{1, 0, "one"})
	reader := c.Open(t, store.Reader(), name, 0)
	for n := 1; ; n++ {
		other, err := OpenReadOnly(t.Context(), reader, Options{Node: "reader", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if errors.Is(err, bucket.ErrLost) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		closeEngine(t, other)
		if n > 100 || bucket.Sleep(t.Context(), bucket.Backoff(n)) != nil {
			t.Fatal("it was never found out")
		}
	}
}
