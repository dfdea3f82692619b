package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

const (
	firstSweep = 10 * time.Minute // after the start
	sweepEvery = 24 * time.Hour
	abandoned  = 24 * time.Hour // how long ago a write was begun that nobody will end
)

// A janitor forgets what packs dropped when their grace period is over, and
// sweeps. It owns the goroutines that work in the background.
type janitor struct {
	ctx    context.Context // ends with the engine
	cancel context.CancelFunc
	wake   chan struct{} // has room for one; filled when a pack was applied

	mu struct {
		sync.Mutex
		stopped bool
	}
	wg sync.WaitGroup
}

func newJanitor() *janitor {
	j := &janitor{wake: make(chan struct{}, 1)}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	return j
}

// do has something done in the background. After stop it does nothing: what is
// left behind is for the sweep of a later engine.
func (j *janitor) do(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.mu.stopped {
		j.wg.Go(f)
	}
}

func (j *janitor) stop() {
	j.mu.Lock()
	j.mu.stopped = true
	j.mu.Unlock()
	j.cancel()
	j.wg.Wait()
}

func (j *janitor) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (e *Engine) clean(ctx context.Context) {
	sweepAt := time.Now().Add(firstSweep)
	for {
		next, freed := e.expire()
		if freed || !time.Now().Before(sweepAt) {
			if err := e.sweep(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, zodb.ErrReadOnly) {
				e.opts.Logger.Warn("could not delete what is no longer needed; it takes up space until the next sweep",
					"bucket", e.bucket.Properties().Location, "err", err)
			}
			sweepAt = time.Now().Add(sweepEvery)
		}
		if next.IsZero() || sweepAt.Before(next) {
			next = sweepAt
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-e.janitor.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// sweep deletes the payload objects, blobs and lists of packs that nothing in
// the log names: those of packed revisions, and those that a crash has left
// behind. For why it may, see the package comment.
func (e *Engine) sweep(ctx context.Context) error {
	if err := e.ReadOnly(); err != nil {
		return err
	}
	if _, err := e.bucket.CleanUp(ctx, abandoned); err != nil {
		return err
	}
	var found []string
	for _, prefix := range []string{txlog.PayloadPrefix, blob.Prefix, txlog.ListPrefix} {
		err := bucket.Rereading(ctx, func() error {
			return e.bucket.List(ctx, prefix, "", func(i bucket.Info) error {
				found = append(found, i.Name)
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	if len(found) == 0 {
		return nil
	}
	if err := e.proveLead(ctx); err != nil {
		return err
	}
	// In this order: what is settled in between is found to be needed.
	found = slices.DeleteFunc(found, e.uploads.has)
	needed := e.needed()
	deleted := 0
	for _, name := range found {
		if _, ok := needed[name]; ok {
			continue
		}
		if err := bucket.Rereading(ctx, func() error { return e.bucket.Delete(ctx, name) }); err != nil {
			return fmt.Errorf("after %d objects were deleted: %w", deleted, err)
		}
		deleted++
	}
	if deleted > 0 {
		e.opts.Logger.Info("deleted objects that are no longer needed", "bucket", e.bucket.Properties().Location, "objects", deleted)
	}
	return nil
}

// needed returns the names of the objects that must stay.
func (e *Engine) needed() map[string]struct{} {
	names := make(map[string]struct{})
	e.state.RLock()
	defer e.state.RUnlock()
	for _, o := range e.state.objects {
		if o.refs > 0 {
			names[o.name] = struct{}{}
		}
	}
	for _, name := range e.state.lists {
		names[name] = struct{}{}
	}
	for id := range e.state.blobs {
		names[id.Name()] = struct{}{}
	}
	return names
}

// proveLead writes an object to the log and waits until it is settled. Then
// this node knows everything that was committed up to there.
func (e *Engine) proveLead(ctx context.Context) error {
	e.oids.mu.Lock()
	e.oids.asked++
	mark := e.oids.asked
	e.oids.mu.Unlock()
	e.log.RaiseOidMark(mark)
	return e.await(ctx, func() bool { return e.state.oidMark >= mark })
}
