package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

const (
	sweepEvery = 24 * time.Hour
	abandoned  = 24 * time.Hour // how long ago a write was begun that nobody will end
)

// clean deletes what is no longer needed, until ctx is done.
func (e *Engine) clean(ctx context.Context) {
	sweepAt := time.Now().Add(e.opts.SweepAfter)
	for led := true; ; {
		var next time.Time
		var sweep bool
		var err error
		switch leads := e.leads() == nil; {
		case !leads:
			led = false
			next = e.letGo()
		case !led:
			led = true
			sweepAt = time.Now().Add(e.opts.SweepAfter)
			fallthrough
		default:
			next, sweep, err = e.expire(ctx)
		}
		if err == nil && led && (sweep || !time.Now().Before(sweepAt)) {
			err = e.sweep(ctx)
			sweepAt = time.Now().Add(sweepEvery)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, zodb.ErrReadOnly) {
			e.opts.Logger.Warn("could not delete what is no longer needed; it takes up space until the next sweep",
				"bucket", e.bucket.Properties().Location, "err", err)
		}
		if led && (next.IsZero() || sweepAt.Before(next)) {
			next = sweepAt
		}
		if next.IsZero() { // the lead wakes it
			next = time.Now().Add(sweepEvery)
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

// letGo has a node that follows forget the bases whose grace period is over: it is for
// the leader to delete their files. It returns when there will be more to do.
func (e *Engine) letGo() (next time.Time) {
	e.state.Lock()
	defer e.state.Unlock()
	now := time.Now()
	i := slices.IndexFunc(e.state.retired, func(r *retired) bool { return now.Before(r.until) })
	if i < 0 {
		e.state.retired = nil
		return time.Time{}
	}
	e.state.retired = slices.Clone(e.state.retired[i:])
	return e.state.retired[0].until
}

// expire deletes the files of bases whose grace period is over, and what of the log
// is in segments for as long. It returns when there will be more to do (zero for
// not before the next change), and whether a sweep would find something.
func (e *Engine) expire(ctx context.Context) (next time.Time, sweep bool, err error) {
	var old []*retired
	leads := e.leads() == nil
	e.state.Lock()
	for len(e.state.retired) > 0 && !time.Now().Before(e.state.retired[0].until) {
		// Who opens the database may have to begin with it. What another leads is not
		// deleted here, and need not be remembered.
		if leads && e.state.retired[0].view.Number >= e.state.checkpointed {
			break
		}
		old = append(old, e.state.retired[0])
		e.state.retired = slices.Delete(slices.Clone(e.state.retired), 0, 1)
	}
	if len(e.state.retired) > 0 && time.Now().Before(e.state.retired[0].until) {
		next = e.state.retired[0].until
	}
	e.state.Unlock()
	if len(old) == 0 {
		return next, false, nil
	}
	keep, err := e.keep(ctx, false)
	if err != nil {
		return next, false, err
	}
	doomed := make(map[string]struct{})
	for _, r := range old {
		for _, name := range slices.Concat(names(r.view.Base), r.payloads, r.blobs) {
			if _, needed := keep[name]; !needed {
				doomed[name] = struct{}{}
			}
		}
		// What a snapshot needs of a pack's blobs only a sweep knows.
		if len(r.blobs) > 0 && len(r.view.Snapshots) > 0 {
			sweep = true
			for _, name := range r.blobs {
				delete(doomed, name)
			}
		}
	}
	if err := e.proveLead(ctx); err != nil {
		return next, sweep, err
	}
	if err := e.delete(ctx, slices.Sorted(maps.Keys(doomed))); err != nil {
		return next, sweep, err
	}
	_, err = e.log.Trim(ctx, e.opts.PackGrace)
	return next, sweep, err
}

// needed returns the present base and those that were replaced lately, and those of
// snapshots.
func (e *Engine) needed(ctx context.Context) (bases, pinned []*base.View, err error) {
	e.state.RLock()
	bases = append(bases, e.state.view)
	for _, r := range e.state.retired {
		bases = append(bases, r.view)
	}
	for _, a := range e.state.adopting {
		bases = append(bases, a.view)
	}
	snapshots := e.state.view.Snapshots
	e.state.RUnlock()
	for _, s := range snapshots {
		b, err := base.Read(ctx, e.bucket, e.format.Database, s.Base)
		if err != nil {
			return nil, nil, fmt.Errorf("reading what snapshot %s needs: %w", s.Name, err)
		}
		b.Rewrites = nil // only those of the present base are ever used
		v, err := e.reader.View(ctx, b)
		if err != nil {
			return nil, nil, err
		}
		pinned = append(pinned, v)
	}
	return bases, pinned, nil
}

// sweep deletes the files, payload objects and blobs that nothing names: what a
// crash or an aborted transaction has left behind, and the blobs of packed
// revisions. For why it may, see the package comment.
func (e *Engine) sweep(ctx context.Context) error {
	if err := e.ReadOnly(); err != nil {
		return err
	}
	if _, err := e.bucket.CleanUp(ctx, abandoned); err != nil {
		return err
	}
	var found []string
	for _, prefix := range []string{txlog.PayloadPrefix, blob.Prefix, segment.Prefix, index.Prefix, base.Prefix} {
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
	keep, err := e.keep(ctx, slices.ContainsFunc(found, isData))
	if err != nil {
		return err
	}
	return e.delete(ctx, slices.DeleteFunc(found, func(name string) bool {
		_, needed := keep[name]
		return needed
	}))
}

// isData tells whether an object holds data of transactions.
func isData(name string) bool {
	return strings.HasPrefix(name, blob.Prefix) || strings.HasPrefix(name, txlog.PayloadPrefix)
}

// keep returns the names of the objects that are needed: the files of all bases and,
// if data is set, the blobs and payload objects that revisions refer to.
func (e *Engine) keep(ctx context.Context, data bool) (map[string]struct{}, error) {
	reign := e.reign()
	keep := make(map[string]struct{})
	add := func(name string) { keep[name] = struct{}{} }
	if data {
		// The tail first: what leaves it later is in a base by then.
		e.state.RLock()
		for _, t := range e.state.tails {
			for _, txn := range t.txns {
				for _, id := range txn.Payloads {
					add(id.Name())
				}
				for i := range txn.Records {
					if b := txn.Records[i].Blob; b != nil {
						add(b.ID.Name())
					}
				}
			}
		}
		for _, r := range e.state.retired {
			for _, name := range r.payloads {
				add(name)
			}
		}
		e.state.RUnlock()
	}
	bases, pinned, err := e.needed(ctx)
	if err != nil {
		return nil, err
	}
	seen := make(map[segment.ID]struct{})
	for n, v := range slices.Concat(bases, pinned) {
		for _, name := range names(v.Base) {
			add(name)
		}
		for i := range v.Segments {
			if _, again := seen[v.Segments[i].ID]; again || !data {
				continue
			}
			seen[v.Segments[i].ID] = struct{}{}
			err := v.Scan(ctx, i, segment.HeadersOnly, func(t *segment.Txn) error {
				for i := range t.Records {
					if b := t.Records[i].Blob; b != nil {
						add(b.ID.Name())
					}
				}
				return nil
			})
			if err != nil && n < len(bases) && e.outdated(v) && e.leads() == nil && e.reign() == reign {
				break // this node has let go of it, so nobody needs it any more
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return keep, nil
}

// delete deletes objects. Before, a checkpoint names the present base: the one that
// wrote it may have died or failed before that, and what the checkpoint before
// names may be among them.
func (e *Engine) delete(ctx context.Context, doomed []string) error {
	if len(doomed) > 0 {
		if err := e.checkpoint(ctx); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesAsync)
	for _, name := range doomed {
		g.Go(func() error {
			return bucket.Rereading(gctx, func() error { return e.bucket.Delete(gctx, name) })
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(doomed) > 0 {
		e.opts.Logger.Info("deleted objects that are no longer needed", "bucket", e.bucket.Properties().Location, "objects", len(doomed))
	}
	return nil
}

const deletesAsync = 8

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
