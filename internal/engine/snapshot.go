package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A Moment is a state of a database: that of a snapshot if it has a name, else the
// one after the transaction of that tid, or before the next one if there is none
// of that tid.
type Moment struct {
	Tid      zodb.Tid
	Snapshot string
}

// Now is the newest state.
var Now = Moment{Tid: zodb.MaxTid}

func (m Moment) String() string {
	if m.Snapshot != "" {
		return "snapshot " + m.Snapshot
	}
	return m.Tid.Time().Format(time.RFC3339)
}

// maxSnapshotName bounds the name of a snapshot.
const maxSnapshotName = 100

// What the names of snapshots begin with that Branch and Restore make.
const (
	ForBranch     = "branch-"
	BeforeRestore = "before-restore-"
)

// Snapshot gives the present state a name. Nothing that it needs is deleted until
// DeleteSnapshot.
func (e *Engine) Snapshot(ctx context.Context, name string) error {
	if name == "" || len(name) > maxSnapshotName {
		return fmt.Errorf("the name of a snapshot has 1 to %d bytes, %q has %d", maxSnapshotName, name, len(name))
	}
	return e.changeSnapshots(ctx, func(b *base.Base) error {
		if hasSnapshot(b, name) {
			return fmt.Errorf("there is a snapshot %q already: choose another name, or delete it", name)
		}
		b.Snapshots = append(b.Snapshots, e.snapshotNow(name))
		return nil
	})
}

// snapshotNow returns a snapshot of the present base, which has to account for all
// that is settled.
func (e *Engine) snapshotNow(name string) base.Snapshot {
	e.state.RLock()
	defer e.state.RUnlock()
	return base.Snapshot{Name: name, Base: e.state.view.ID, Last: e.state.last, Created: e.opts.Now().UTC().Truncate(time.Second)}
}

// DeleteSnapshot forgets a snapshot. What only it needs is deleted by the next sweep.
func (e *Engine) DeleteSnapshot(ctx context.Context, name string) error {
	return e.changeSnapshots(ctx, func(b *base.Base) error {
		n := len(b.Snapshots)
		b.Snapshots = slices.DeleteFunc(b.Snapshots, func(s base.Snapshot) bool { return s.Name == name })
		if len(b.Snapshots) == n {
			return noSnapshot(name)
		}
		return nil
	})
}

func hasSnapshot(b *base.Base, name string) bool {
	return slices.ContainsFunc(b.Snapshots, func(s base.Snapshot) bool { return s.Name == name })
}

func noSnapshot(name string) error { return fmt.Errorf("there is no snapshot %q", name) }

// changeSnapshots has the log adopt a base with other snapshots, which accounts
// for everything that is settled when edit is called.
func (e *Engine) changeSnapshots(ctx context.Context, edit func(*base.Base) error) error {
	let, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer let()
	if err := e.flushHeld(ctx); err != nil {
		return err
	}
	e.state.RLock()
	empty := e.state.view.Number == 0
	e.state.RUnlock()
	if empty {
		return errors.New("the database is empty")
	}
	b := e.successor()
	if err := edit(b); err != nil {
		return err
	}
	_, err = e.adopt(ctx, b, txlog.BaseSnapshot, nil, nil)
	return err
}

// past returns what the database was at a moment, from the present base, which
// accounts for all that is of interest.
func (e *Engine) past(ctx context.Context, m Moment) (*base.Base, error) {
	e.state.RLock()
	b := e.state.view.Base
	e.state.RUnlock()
	if m.Snapshot != "" {
		i := slices.IndexFunc(b.Snapshots, func(s base.Snapshot) bool { return s.Name == m.Snapshot })
		if i < 0 {
			return nil, noSnapshot(m.Snapshot)
		}
		return base.Read(ctx, e.bucket, e.format.Database, b.Snapshots[i].Base)
	}
	if err := reachesBack(b, m); err != nil {
		return nil, err
	}
	past := b.Until(m.Tid)
	v, err := e.reader.View(ctx, past)
	if err != nil {
		return nil, err
	}
	if v.Last() < e.LastTransaction() { // else nothing is cut off
		if past.Live, err = v.Count(ctx); err != nil {
			return nil, err
		}
	}
	return past, nil
}

// reachesBack returns an error if a pack has dropped what a database was at a moment.
func reachesBack(b *base.Base, m Moment) error {
	if m.Tid < b.Packed {
		return fmt.Errorf("the database was packed to %s: what it was at %s is not there any more, but in snapshots that were made before",
			b.Packed.Time().Format(time.RFC3339), m)
	}
	return nil
}

// Restore takes the database back to what it was at a moment. What it is now
// becomes a snapshot, whose name is returned. All clients have to drop their
// caches; those that are connected to another server are cut off.
func (e *Engine) Restore(ctx context.Context, m Moment) (snapshot string, err error) {
	letFiles, err := e.holdFiles(ctx)
	if err != nil {
		return "", err
	}
	defer letFiles()
	let, err := e.hold(ctx)
	if err != nil {
		return "", err
	}
	err = func() error {
		defer let()
		if err := e.flushHeld(ctx); err != nil {
			return err
		}
		past, err := e.past(ctx, m)
		if err != nil {
			return err
		}
		b := e.successor()
		made := BeforeRestore + e.opts.Now().UTC().Format("20060102T150405Z")
		snapshot = made
		for n := 2; hasSnapshot(b, snapshot); n++ { // another one within the second
			snapshot = fmt.Sprintf("%s-%d", made, n)
		}
		now := e.snapshotNow(snapshot)
		b.Snapshots = append(b.Snapshots, now)
		b.Segments, b.Tables, b.Origins, b.Rewrites = past.Segments, past.Tables, past.Origins, nil
		b.Packed, b.Live, b.BlobBytes = past.Packed, past.Live, past.BlobBytes
		b.Rolled = now.Last + 1
		_, err = e.adopt(ctx, b, txlog.BaseRestore, nil, nil)
		return err
	}()
	if err != nil {
		return "", err
	}
	// Clients that know a later state than the one that is there now have to see
	// that time went on.
	t, err := e.Begin(zodb.TxnMeta{Description: []byte("restored to " + m.String()), Status: ' '}, zodb.NoTid, nil)
	if err != nil {
		return snapshot, err
	}
	if _, err := t.Vote(ctx); err != nil {
		t.Abort()
		return snapshot, err
	}
	done := make(chan error, 1)
	t.Finish(func(_ *zodb.Commit, err error) { done <- err })
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return snapshot, err
}
