// Package weakstore makes buckets of weak stores, for tests, with a catalog in a real
// PostgreSQL server on the loopback interface.
package weakstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/buckettest/localserver"
	"s3storage/internal/catalog"
)

// Propagation is Tp of the stores of class C.
const Propagation = 200 * time.Millisecond

// A Catalog lists the objects of buckets.
type Catalog struct {
	Server   *localserver.Server
	Location string
	names    atomic.Int64
}

// Start starts a catalog, which ends with the test.
func Start(t *testing.T) *Catalog {
	t.Helper()
	c := &Catalog{}
	c.Server, c.Location = localserver.Postgres(t)
	return c
}

// Name returns a name that no bucket has.
func (c *Catalog) Name() string { return fmt.Sprintf("bucket-%d", c.names.Add(1)) }

// Open returns the bucket of that name with its objects in a store. It is made if
// there is none. When the test ends, what is not copied yet stays in the catalog.
func (c *Catalog) Open(t *testing.T, store bucket.Bucket, name string, propagation time.Duration) *catalog.Bucket {
	t.Helper()
	connected, err := catalog.Connect(t.Context(), c.Location)
	if err != nil {
		t.Fatal(err)
	}
	b, err := connected.Create(t.Context(), store, name, propagation)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = b.Close(ctx)
		connected.Close()
	})
	return b
}

// ClassB returns a store in memory that shows all writes at once, but to which
// put-if-absent is put.
func ClassB() bucket.Bucket {
	return faults.NewEventual(bucket.NewMemory(), 0, 0, 1).Reader()
}

// ClassC returns a store in memory that is as S3 was in 2006, for any number of
// clients.
func ClassC() *faults.Eventual {
	return faults.NewEventual(bucket.NewMemory(), 1, Propagation, 1)
}

// Buckets returns a function that makes buckets as different clients see the same
// new one, of class C.
func (c *Catalog) Buckets(t *testing.T) func() bucket.Bucket {
	store, name := ClassC(), c.Name()
	return func() bucket.Bucket { return c.Open(t, store.Reader(), name, Propagation) }
}
