package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/buckettest/localserver"
	"s3storage/internal/catalog"
)

// tp is the propagation time of the stores here that have one.
const tp = 200 * time.Millisecond

// A world is a catalog for tests.
type world struct {
	server   *localserver.Server
	location string
	names    atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	w.server, w.location = localserver.Postgres(t)
	return w
}

func (w *world) connect(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Connect(t.Context(), w.location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// bucket returns a bucket that is new to the catalog.
func (w *world) bucket(t *testing.T, store bucket.Bucket, propagation time.Duration) *catalog.Bucket {
	t.Helper()
	return w.open(t, store, fmt.Sprintf("bucket-%d", w.names.Add(1)), propagation)
}

func (w *world) open(t *testing.T, store bucket.Bucket, name string, propagation time.Duration) *catalog.Bucket {
	t.Helper()
	b, err := w.connect(t).Create(t.Context(), store, name, propagation)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNow(b) })
	return b
}

// closeNow has what is not copied yet stay in the catalog.
func closeNow(b *catalog.Bucket) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = b.Close(ctx)
}

func TestConformance(t *testing.T) {
	w := newWorld(t)
	t.Run("ClassB", func(t *testing.T) {
		buckettest.Conformance(t, func(t *testing.T) bucket.Bucket {
			// What is put is seen at once, but put-if-absent is put.
			return w.bucket(t, faults.NewEventual(bucket.NewMemory(), 0, 0, 1).Reader(), 0)
		})
	})
	t.Run("ClassC", func(t *testing.T) {
		buckettest.Conformance(t, func(t *testing.T) bucket.Bucket {
			return w.bucket(t, faults.NewEventual(bucket.NewMemory(), 1, tp, 1).Reader(), tp)
		})
	})
}

func TestAStoreWithoutCatalogIsRefusedByTheProbe(t *testing.T) {
	for class, store := range map[string]bucket.Bucket{
		"B": faults.NewEventual(bucket.NewMemory(), 0, 0, 1).Reader(),
		"C": faults.NewEventual(bucket.NewMemory(), 1, tp, 1).Reader(),
	} {
		if err := bucket.Probe(t.Context(), store); !errors.Is(err, bucket.ErrNoConditionalPut) {
			t.Errorf("class %s: %v", class, err)
		}
	}
}
