// Package cache keeps what was read from a bucket, in memory or on a local disk,
// up to a number of bytes.
package cache

import (
	"context"
	"fmt"

	"github.com/maypok86/otter/v2"
	"github.com/maypok86/otter/v2/stats"
)

// A Key names what is cached: something made of a part of an object of a bucket,
// or the data of a revision. Both do not change, so what is cached never grows
// stale. Which of the two, and what the numbers say, is the caller's to choose.
type Key struct {
	Name string
	A, B uint64
}

// An Item is what is cached. Nobody may change it.
type Item interface {
	// Weight returns about how many bytes of memory it takes.
	Weight() int
}

// Data is an Item that is nothing but bytes.
type Data []byte

// Weight implements Item.
func (d Data) Weight() int { return len(d) }

// Stats tell how a cache has done since it was opened, and how full it is.
type Stats struct {
	Hits   uint64 // what was asked for and was there
	Misses uint64 // what had to be made or read
	Bytes  int64  // that it takes up
	Limit  int64  // up to which it grows; 0 if there is no cache
}

// overhead is about what an entry takes besides its item.
const overhead = 160

// A Cache holds items in memory. It is for any number of goroutines.
type Cache struct {
	entries *otter.Cache[Key, Item]
}

// New returns a cache that holds about maxBytes bytes.
func New(maxBytes uint64) (*Cache, error) {
	entries, err := otter.New(&otter.Options[Key, Item]{
		MaximumWeight: maxBytes,
		Weigher: func(k Key, it Item) uint32 {
			return uint32(min(it.Weight(), 1<<31) + len(k.Name) + overhead)
		},
		StatsRecorder: stats.NewCounter(),
	})
	if err != nil {
		return nil, fmt.Errorf("making a cache of %d bytes: %w", maxBytes, err)
	}
	return &Cache{entries}, nil
}

// Stats returns the numbers of this moment. That Cached found nothing is no miss:
// whoever may have it made asks again by Get.
func (c *Cache) Stats() Stats {
	c.entries.CleanUp() // what was added lately is not weighed yet
	s := c.entries.Stats()
	return Stats{Hits: s.Hits, Misses: s.Loads(), Bytes: int64(c.entries.WeightedSize()), Limit: int64(c.entries.GetMaximum())}
}

// Cached returns what is in the cache.
func (c *Cache) Cached(k Key) (Item, bool) { return c.entries.GetIfPresent(k) }

// Add puts an item into the cache.
func (c *Cache) Add(k Key, it Item) { c.entries.Set(k, it) }

// Get returns an item from the cache or has it made. Of callers that miss the
// same item at the same time, one makes it for all.
func (c *Cache) Get(ctx context.Context, k Key, load func(context.Context) (Item, error)) (Item, error) {
	// It goes on if the caller that happened to come first goes away.
	return c.entries.Get(context.WithoutCancel(ctx), k, otter.LoaderFunc[Key, Item](
		func(ctx context.Context, _ Key) (Item, error) { return load(ctx) }))
}
