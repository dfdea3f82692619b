package lease

import (
	"context"
	"sync"
	"time"
)

// alone is the lease of a server that is the only one: nobody else asks for it,
// and nothing can fail.
type alone struct {
	options Options
	mu      struct {
		sync.Mutex
		since time.Time // zero: not held
	}
}

func (a *alone) set(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.since = t
}

func (a *alone) since() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.since
}

func (a *alone) Acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.set(time.Now())
	return nil
}

func (a *alone) Release(context.Context) error { a.set(time.Time{}); return nil }
func (a *alone) Held() bool                    { return !a.since().IsZero() }
func (a *alone) Close() error                  { a.set(time.Time{}); return nil }
func (a *alone) String() string                { return "none" }

func (a *alone) Holder(context.Context) (Holder, error) {
	if t := a.since(); !t.IsZero() {
		return Holder{a.options.Node, a.options.Address, t}, nil
	}
	return Holder{}, nil
}
