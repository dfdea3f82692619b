package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Branch makes a database in an empty bucket that begins as what this one was at a
// moment. It shares this one's files, which a snapshot keeps; location is where
// others find this one's bucket. It returns the name of the snapshot.
//
// The branch comes to be in this order: its checkpoint, its base, the snapshot, its
// format. A branch of the same state, into the same bucket, goes on with what one
// that was broken off has left there. Nothing is ever deleted or replaced there:
// somebody else may be making the same branch.
func (e *Engine) Branch(ctx context.Context, m Moment, to bucket.Bucket, location string) (snapshot string, err error) {
	f := &txlog.Format{Database: txlog.DatabaseID(base.NewID()), Created: e.opts.Now(), Creator: e.opts.Creator,
		Parent: fmt.Sprintf("database %s in %s at %s", e.format.Database, location, m)}
	made := false
	err = txlog.CreateFilled(ctx, to, f, begunBranch, func() error {
		if m.Snapshot != "" {
			snapshot = m.Snapshot
			past, err := e.past(ctx, m)
			if err != nil {
				return err
			}
			return e.beginBranch(ctx, past, nil, to, f, location)
		}
		err := e.changeSnapshots(ctx, func(b *base.Base) error {
			past, err := e.past(ctx, m)
			if err != nil {
				return err
			}
			if err := e.beginBranch(ctx, past, b, to, f, location); err != nil {
				return err
			}
			if snapshot = ForBranch + f.Database.String(); !hasSnapshot(b, snapshot) {
				b.Snapshots = append(b.Snapshots, e.snapshotNow(snapshot))
			}
			return nil
		})
		made = err == nil
		return err
	})
	switch {
	case err == nil:
		return snapshot, nil
	case !made:
		return "", err
	case errors.Is(err, txlog.ErrTaken): // by another database, so this branch will never be
		return "", errors.Join(err, e.DeleteSnapshot(ctx, snapshot))
	}
	return "", fmt.Errorf("%w; try again, or delete the snapshot %s, which was made for the branch", err, snapshot)
}

// begunBranch tells whether an object may be in a bucket in which a branch was begun.
func begunBranch(name string) bool {
	return strings.HasPrefix(name, base.Prefix) || name == txlog.CheckpointName(1)
}

// beginBranch writes all of a branch but its format: it is no database yet. Where
// that was begun already, f becomes the format of that branch. pins is the base whose
// snapshots keep what branches need, or nil if the branch is one of a snapshot.
func (e *Engine) beginBranch(ctx context.Context, past, pins *base.Base, to bucket.Bucket, f *txlog.Format, location string) error {
	b := past.Elsewhere(e.format.Database, location)
	b.Number, b.Rolled = 1, zodb.NoTid
	b.Position = txlog.Start()
	e.state.RLock()
	b.Position.OidMark = e.state.oidMark
	e.state.RUnlock()
	for i := range b.Segments {
		b.Position.LastTid = max(b.Position.LastTid, b.Segments[i].End())
	}
	c, err := claim(ctx, to, &txlog.Checkpoint{Number: 1, Database: f.Database, Base: base.NewID(), Position: b.Position,
		At: f.Created.UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	same := c.Position.LastTid == b.Position.LastTid
	if same {
		b.ID, b.Position = c.Base, c.Position
		err := bucket.Retrying(ctx, func() error { return to.PutIfAbsent(ctx, base.Name(b.ID), b.Encode(c.Database)) })
		if errors.Is(err, bucket.ErrExist) { // by an earlier try, of this or of another call
			var there *base.Base
			if there, err = base.Read(ctx, to, c.Database, c.Base); err == nil {
				same = pins != nil && hasSnapshot(pins, ForBranch+c.Database.String()) || sameFiles(there, b)
			}
		}
		if err != nil {
			return err
		}
	}
	if !same {
		return fmt.Errorf("another branch was begun in %s and not made, of a database as it was at %s (%s): "+
			"make that one, and it goes on; or empty the place, and delete the snapshot %s%s, if there is one",
			to.Properties().Location, c.Position.LastTid, c.Position.LastTid.Time().Format(time.RFC3339), ForBranch, c.Database)
	}
	f.Database = c.Database
	return nil
}

// claim puts the first checkpoint of a branch, and returns the one that stands: it
// may be that of a branch which was begun before.
func claim(ctx context.Context, to bucket.Bucket, c *txlog.Checkpoint) (*txlog.Checkpoint, error) {
	name := c.Name()
	err := bucket.Retrying(ctx, func() error { return to.PutIfAbsent(ctx, name, c.Encode()) })
	if !errors.Is(err, bucket.ErrExist) {
		return c, err
	}
	err = bucket.Rereading(ctx, func() error {
		data, err := to.Get(ctx, name, txlog.MaxCheckpointSize)
		if err == nil {
			c, err = txlog.DecodeCheckpoint(name, data)
		}
		return err
	})
	return c, err
}

// sameFiles tells whether two bases of branches of one database are the same state in
// the same files.
func sameFiles(a, b *base.Base) bool {
	return len(a.Origins) > 0 && a.Origins[0].Database == b.Origins[0].Database && a.Packed == b.Packed &&
		slices.Equal(a.Segments, b.Segments) && slices.Equal(a.Tables, b.Tables)
}
