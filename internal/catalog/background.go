package catalog

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"s3storage/internal/bucket"
)

const (
	// copiers is how many objects are copied to the store at a time, at most, of
	// all buckets of a catalog together.
	copiers = 6

	// round is how often is looked for what others have left behind, and for
	// what can be forgotten.
	round = time.Second

	// copyTime is how long one copy may take.
	copyTime = 2 * time.Minute
)

// background is what is done for a bucket while nobody waits for it. It begins with
// the first write, so those who only read change nothing.
type background struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	news   chan struct{} // somebody has written
	mu     struct {
		sync.Mutex
		begun, closed bool
	}
}

func (b *Bucket) begin() {
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.news = make(chan struct{}, copiers)
}

// wake says that there is something to copy.
func (b *Bucket) wake() {
	b.mu.Lock()
	if !b.mu.begun && !b.mu.closed {
		b.mu.begun = true
		for range copiers {
			b.wg.Go(b.copyAll)
		}
		b.wg.Go(b.forgetAll)
	}
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default: // all are at work, or will be
	}
}

// Close ends the work in the background, when all that was written is in the
// store, by whomever, or ctx is done. What is left then is in the catalog, and the
// next one who writes copies it.
func (b *Bucket) Close(ctx context.Context) error {
	b.mu.Lock()
	b.mu.closed = true
	begun := b.mu.begun
	b.mu.Unlock()
	defer b.wg.Wait()
	defer b.cancel()
	for n := 1; begun; n++ {
		var left bool
		err := b.catalog.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM s3storage_object
			WHERE bucket = $1 AND stored IS NULL AND size IS NOT NULL)`, b.id).Scan(&left)
		if err != nil || !left {
			return err
		}
		if err := bucket.Sleep(ctx, bucket.Backoff(n)); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for news, or that long.
func (b *Bucket) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-b.news:
	case <-timer.C:
	case <-b.ctx.Done():
	}
}

// copyAll is one copier.
func (b *Bucket) copyAll() {
	for failed := 0; b.ctx.Err() == nil; {
		found, err := b.copyOne()
		switch {
		case err != nil:
			failed++
			_ = bucket.Sleep(b.ctx, bucket.Backoff(failed))
		case !found:
			failed = 0
			b.pause(round)
		default:
			failed = 0
		}
	}
}

// copyOne copies the oldest object that is not in the store, and that nobody else
// copies, and tells whether there was one.
func (b *Bucket) copyOne() (found bool, err error) {
	ctx, cancel := context.WithTimeout(b.ctx, copyTime)
	defer cancel()
	err = pgx.BeginFunc(ctx, b.catalog.writes, func(tx pgx.Tx) error {
		var name string
		var data []byte
		err := tx.QueryRow(ctx, `SELECT name, data FROM s3storage_object
			WHERE bucket = $1 AND stored IS NULL AND size IS NOT NULL
			ORDER BY begun LIMIT 1 FOR UPDATE SKIP LOCKED`, b.id).Scan(&name, &data)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		if err := b.store.Put(ctx, name, data); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE s3storage_object SET stored = clock_timestamp() WHERE bucket = $1 AND name = $2`, b.id, name)
		return err
	})
	return found, err
}

// forgetAll forgets bytes on which the store can be relied upon.
func (b *Bucket) forgetAll() {
	for bucket.Sleep(b.ctx, round) == nil {
		// What fails is done in the next round.
		_, _ = b.catalog.pool.Exec(b.ctx, `UPDATE s3storage_object o SET data = NULL FROM s3storage_bucket b
			WHERE b.id = $1 AND o.bucket = $1 AND o.data IS NOT NULL
			AND o.stored < clock_timestamp() - b.propagation`, b.id)
	}
}
