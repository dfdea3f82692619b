package lease

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A granter is a system that grants leases, as one node sees it. Its methods
// are called one at a time, but for holder, which may be called at any time.
type granter interface {
	// take asks for the lease once, and tells whether this node has it now.
	take(ctx context.Context) (got bool, err error)

	// renew shows that the holder lives. It takes the lease again if it is free
	// because the system has lost it; it is lost when another node has it.
	renew(ctx context.Context) (lost bool, err error)

	// free lets another node have the lease at once.
	free(ctx context.Context) error

	// drop ends what take and renew have begun and left open.
	drop()

	// holder tells who has the lease.
	holder(ctx context.Context) (Holder, error)

	// hopeless tells of errors that waiting does not mend.
	hopeless(err error) bool

	String() string
}

// A keeper is the Lease that a granter grants: it asks until it gets it, and
// renews it in the background.
type keeper struct {
	Options
	granter
	poll func() time.Duration // until take is called again
	look time.Duration        // until renew is called again

	stop func()        // ends keep; nil: it was not started
	done chan struct{} // closed when keep has ended

	mu struct {
		sync.Mutex
		held bool
	}
}

func (k *keeper) set(held bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.held = held
}

// Held implements Lease.
func (k *keeper) Held() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.held
}

// Acquire implements Lease.
func (k *keeper) Acquire(ctx context.Context) error {
	if k.Held() {
		return nil
	}
	k.end()
	for down := false; ; {
		round, cancel := context.WithTimeout(ctx, k.Timeout)
		got, err := k.take(round)
		cancel()
		switch {
		case got:
			k.set(true)
			k.start()
			return nil
		case ctx.Err() != nil:
			k.drop()
			return fmt.Errorf("wait for the lease, %s: %w", k, ctx.Err())
		case k.hopeless(err):
			k.drop()
			return fmt.Errorf("acquire the lease, %s: %w", k, err)
		case err != nil && !down:
			k.Logger.Warn("cannot reach the lease; nobody new leads until that works again", "lease", k.String(), "err", err)
		}
		down = err != nil
		pause(ctx, k.poll())
	}
}

func (k *keeper) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	k.stop, k.done = cancel, done
	go func() {
		defer close(done)
		k.keep(ctx)
	}()
}

// end ends the background work and waits for it.
func (k *keeper) end() {
	if k.stop != nil {
		k.stop()
		<-k.done
		k.stop = nil
	}
}

// keep renews the lease until another node has it.
func (k *keeper) keep(ctx context.Context) {
	for down := false; ; {
		pause(ctx, k.look)
		if ctx.Err() != nil {
			return
		}
		// A sign of life must not come later than the timeout.
		round, cancel := context.WithTimeout(ctx, k.Timeout-k.look)
		lost, err := k.renew(round)
		cancel()
		if lost {
			k.Logger.Warn("another node has taken the lease", "lease", k.String())
			k.set(false)
			return
		}
		if err != nil && !down && ctx.Err() == nil {
			k.Logger.Warn("cannot reach the lease; this node leads on", "lease", k.String(), "err", err)
		}
		down = err != nil
	}
}

// Release implements Lease.
func (k *keeper) Release(ctx context.Context) error {
	k.end()
	if !k.Held() {
		return nil
	}
	k.set(false)
	defer k.drop()
	if err := k.free(ctx); err != nil {
		return fmt.Errorf("release the lease, %s: %w", k, err)
	}
	return nil
}

// Close implements Lease.
func (k *keeper) Close() error {
	k.end()
	k.set(false)
	k.drop()
	return nil
}

// Holder implements Lease.
func (k *keeper) Holder(ctx context.Context) (Holder, error) {
	h, err := k.holder(ctx)
	if err != nil {
		return Holder{}, fmt.Errorf("who holds the lease, %s: %w", k, err)
	}
	return h, nil
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
