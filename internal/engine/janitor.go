package engine

import (
	"context"
	"sync"
)

// A janitor deletes what is no longer needed when its grace period is over. It owns the goroutines that work in the background.
type janitor struct {
	ctx    context.Context // ends with the engine
	cancel context.CancelFunc
	wake   chan struct{} // has room for one; filled when a base was replaced
	flush  chan struct{} // likewise; when the tail has grown

	mu struct {
		sync.Mutex
		stopped bool
	}
	wg sync.WaitGroup
}

func newJanitor() *janitor {
	j := &janitor{wake: make(chan struct{}, 1), flush: make(chan struct{}, 1)}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	return j
}

// do has something done in the background. After end it does nothing: what is
// left behind is for the sweep of a later engine.
func (j *janitor) do(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.mu.stopped {
		j.wg.Go(f)
	}
}

// end has what is done in the background come to an end. The owner waits for wg.
func (j *janitor) end() {
	j.mu.Lock()
	j.mu.stopped = true
	j.mu.Unlock()
	j.cancel()
}

func (j *janitor) poke()      { poke(j.wake) }
func (j *janitor) pokeFlush() { poke(j.flush) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
