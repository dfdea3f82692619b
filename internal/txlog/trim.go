package txlog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// Trim deletes the log objects before the position of the newest checkpoint that
// is at least as old as the grace period. Seals stay. It returns how many there
// were. It is a job for the background: it lists the log.
func (l *Log) Trim(ctx context.Context, grace time.Duration) (deleted int, err error) {
	l.mu.Lock()
	newest, first, leader := l.mu.newest, l.mu.first, l.mu.leader
	if newest == nil || leader == nil {
		l.mu.Unlock()
		return 0, nil
	}
	end := leader.End()
	seals := maps.Clone(l.mu.seals)
	l.mu.Unlock()
	upTo, err := l.oldEnough(ctx, newest, grace)
	if err != nil || upTo == nil {
		return 0, err
	}
	deleted, err = l.trim(ctx, upTo.Position, func(e Epoch, s Slot) bool {
		return e == first.Epoch && s >= first.Slot && s < end.Slot
	}, seals)
	l.mu.Lock()
	maps.Copy(l.mu.seals, seals)
	l.mu.Unlock()
	return deleted, err
}

// oldEnough returns the newest checkpoint that is at least that old, or nil.
func (h home) oldEnough(ctx context.Context, c *Checkpoint, age time.Duration) (*Checkpoint, error) {
	now, err := h.now(ctx)
	for err == nil && now.Sub(c.At) < age {
		if c.Number == 1 {
			return nil, nil
		}
		c, err = h.readCheckpoint(ctx, c.Number-1)
	}
	return c, err
}

// trim deletes the log objects before a position, but for seals: those in which
// the walk of a node could end that knows nothing of the epochs behind. It does
// so in the order of the log. own tells of a slot that there is no seal in it;
// seals remembers the names of those that were found.
func (h home) trim(ctx context.Context, upTo Position, own func(Epoch, Slot) bool, seals map[string]bool) (deleted int, err error) {
	var found []bucket.Info
	err = bucket.Rereading(ctx, func() error {
		found = nil
		return h.bucket.List(ctx, Prefix, "", func(i bucket.Info) error {
			if e, s, ok := parseName(i.Name); ok && e <= upTo.Epoch && s < upTo.Slot && !seals[i.Name] {
				found = append(found, i)
			}
			return nil
		})
	})
	for batch := range slices.Chunk(found, h.atOnce) {
		if err != nil {
			break
		}
		isSeal := make([]bool, len(batch))
		gone := make([]bool, len(batch))
		var g errgroup.Group
		for i, info := range batch {
			g.Go(func() error {
				if e, s, _ := parseName(info.Name); info.Size <= maxSealSize && !own(e, s) {
					o, err := h.readObject(ctx, info.Name)
					switch {
					case errors.Is(err, bucket.ErrNotExist), errors.Is(err, zodb.ErrCorrupt):
						return nil // what is damaged may be a seal
					case err != nil:
						return err
					case o.Seal() != nil:
						isSeal[i] = true
						return nil
					}
				}
				err := bucket.Rereading(ctx, func() error { return h.bucket.Delete(ctx, info.Name) })
				gone[i] = err == nil
				return err
			})
		}
		err = g.Wait()
		for i, info := range batch {
			if isSeal[i] {
				seals[info.Name] = true
			}
			if gone[i] {
				deleted++
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("deleting what the newest checkpoint has made needless in the log of %s, after %d objects: %w", h.location(), deleted, err)
	}
	return deleted, err
}
