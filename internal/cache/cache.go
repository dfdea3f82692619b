// Package cache keeps what was read from a bucket, in memory or on a local disk,
// up to a number of bytes.
package cache

import (
	"context"
	"fmt"

	"github.com/maypok86/otter/v2"
)

// A Key names a piece of an object of a bucket. Objects do not change, so what
// is cached never grows stale.
type Key struct {
	Name   string
	Offset uint32
}

// overhead is about what an entry takes besides its bytes.
const overhead = 160

// A Cache holds pieces of objects in memory. It is for any number of
// goroutines. The bytes it holds must not be changed by anybody.
type Cache struct {
	entries *otter.Cache[Key, []byte]
}

// New returns a cache that holds about maxBytes bytes.
func New(maxBytes uint64) (*Cache, error) {
	entries, err := otter.New(&otter.Options[Key, []byte]{
		MaximumWeight: maxBytes,
		Weigher: func(k Key, v []byte) uint32 {
			return uint32(min(len(v), 1<<31) + len(k.Name) + overhead)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("making a cache of %d bytes: %w", maxBytes, err)
	}
	return &Cache{entries}, nil
}

// Cached returns what is in the cache.
func (c *Cache) Cached(k Key) ([]byte, bool) { return c.entries.GetIfPresent(k) }

// Add puts a piece into the cache.
func (c *Cache) Add(k Key, data []byte) { c.entries.Set(k, data) }

// Get returns a piece from the cache or has it read. Of callers that miss the
// same piece at the same time, one reads for all.
func (c *Cache) Get(ctx context.Context, k Key, read func(context.Context) ([]byte, error)) ([]byte, error) {
	// The read goes on if the caller that happened to come first goes away.
	return c.entries.Get(context.WithoutCancel(ctx), k, otter.LoaderFunc[Key, []byte](
		func(ctx context.Context, _ Key) ([]byte, error) { return read(ctx) }))
}
