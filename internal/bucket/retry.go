package bucket

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"
)

const (
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
	readAttempts = 8
)

// Backoff returns how long to wait before attempt n+1 at something that failed
// n > 0 times: exponential, with jitter, up to a second.
func Backoff(n int) time.Duration {
	d := min(firstBackoff<<min(n-1, 16), lastBackoff)
	return d/2 + rand.N(d/2+1)
}

// Final reports that trying again does not mend an error.
func Final(err error) bool {
	return Refused(err) || errors.Is(err, ErrNotExist) || errors.Is(err, ErrExist) || errors.Is(err, context.Canceled)
}

// Rereading calls read until it succeeds, a few times at most: what was read
// may have been damaged on the way, or the store may have been out of reach.
func Rereading(ctx context.Context, read func() error) error {
	return Retry(ctx, readAttempts, read)
}

// Retrying calls write until it succeeds or trying again cannot help, for as
// long as ctx lets it.
func Retrying(ctx context.Context, write func() error) error {
	return Retry(ctx, math.MaxInt, write)
}

// Retry calls try until it succeeds, trying again cannot help, or that many
// attempts have failed, and returns the last error.
func Retry(ctx context.Context, attempts int, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || Final(err) || n == attempts {
			return err
		}
		if Sleep(ctx, Backoff(n)) != nil {
			return err
		}
	}
}
