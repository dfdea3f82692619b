package txlog

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"s3storage/internal/bucket"
)

const (
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
	readAttempts = 8
)

// backoff returns how long to wait before attempt n+1 at something that
// failed n > 0 times: exponential, with jitter.
func backoff(n int) time.Duration {
	d := min(firstBackoff<<min(n-1, 16), lastBackoff)
	return d/2 + rand.N(d/2+1)
}

// final tells errors that trying again does not mend.
func final(err error) bool {
	return bucket.Refused(err) || errors.Is(err, bucket.ErrNotExist) || errors.Is(err, bucket.ErrExist) ||
		errors.Is(err, ErrNoDatabase) || errors.Is(err, context.Canceled)
}

// rereading calls read until it succeeds, a few times at most: what was read
// may have been damaged on the way, or the store may have been out of reach.
func rereading(ctx context.Context, read func() error) error {
	for n := 1; ; n++ {
		err := read()
		if err == nil || final(err) || n == readAttempts {
			return err
		}
		if bucket.Sleep(ctx, backoff(n)) != nil {
			return err
		}
	}
}

// retrying calls write until it succeeds or trying again cannot help, for as
// long as ctx lets it.
func retrying(ctx context.Context, write func() error) error {
	for n := 1; ; n++ {
		err := write()
		if err == nil || final(err) {
			return err
		}
		if bucket.Sleep(ctx, backoff(n)) != nil {
			return err
		}
	}
}
