package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// roomPatience is how long a vote waits for the tail to be written out.
const roomPatience = 30 * time.Second

var errNoRoom = errors.New("too much that was committed is in the log and in memory only, and has not been written out as segments")

// waitForRoom waits while the tail takes up too much memory. The log may take
// transactions for long while flushes fail.
func (e *Engine) waitForRoom(ctx context.Context) error {
	limit := int64(e.opts.MaxUnflushed)
	e.state.RLock()
	held := e.heldLocked()
	e.state.RUnlock()
	if held < limit {
		return nil
	}
	e.janitor.pokeFlush()
	start := time.Now()
	defer func() { e.Took(StageRoom, time.Since(start)) }()
	wait, cancel := context.WithTimeoutCause(ctx, roomPatience, errNoRoom)
	defer cancel()
	err := e.await(wait, func() bool {
		held = e.heldLocked()
		return held < limit
	})
	if !errors.Is(err, errNoRoom) {
		return err
	}
	if !e.noRoom.Swap(true) {
		e.opts.Logger.Error("REFUSING COMMITS until what was committed lately could be written out as segments: see that the bucket takes new objects",
			"bucket", e.bucket.Properties().Location, "bytes", held, "limit", limit)
	}
	return fmt.Errorf("cannot commit now: %w (%d bytes, the limit is %d): try again when the bucket takes new objects", err, held, limit)
}

// roomMade is called after a flush.
func (e *Engine) roomMade() {
	if e.noRoom.Swap(false) {
		e.opts.Logger.Info("taking commits again: what was committed has been written out", "bucket", e.bucket.Properties().Location)
	}
}

// heldLocked returns about how many bytes of memory the tail takes up.
func (e *Engine) heldLocked() (n int64) {
	for _, t := range e.state.tails {
		n += t.logBytes
	}
	return n
}
