package txlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A Checkpoint is a fact about a log: it has adopted a base, and that base
// accounts for everything before a position. It stays true whoever puts it and
// however late.
type Checkpoint struct {
	Number   uint64 // from 1, without a gap
	Database DatabaseID
	Base     BaseID
	Adopted  Slot      // in which the log adopted the base; 0 for one that a database began with
	Position Position  // from which on the log has to be read
	At       time.Time // when it was put, to the second, by the store's clock
}

// CheckpointPrefix is what the names of all checkpoints start with.
const CheckpointPrefix = "checkpoint/"

// CheckpointName returns the name of the checkpoint of that number.
func CheckpointName(number uint64) string { return fmt.Sprintf("%s%016x", CheckpointPrefix, number) }

// Name returns the checkpoint's name in the bucket.
func (c *Checkpoint) Name() string { return CheckpointName(c.Number) }

const (
	checkpointMagic     = "s3zckp\r\n"
	checkpointFixedSize = 72

	// MaxCheckpointSize is how many bytes a checkpoint has at most.
	MaxCheckpointSize = 16 << 10
)

// Encode returns the bytes of the checkpoint.
func (c *Checkpoint) Encode() []byte {
	b := fileformat.AppendStart(nil, checkpointMagic, formatVersion, 0)
	b = append(b, c.Database[:]...)
	b = binary.BigEndian.AppendUint64(b, c.Number)
	b = binary.BigEndian.AppendUint64(b, uint64(c.At.Unix()))
	b = append(b, c.Base[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Adopted))
	return fileformat.AppendSum(c.Position.AppendTo(b))
}

// DecodeCheckpoint reads a checkpoint.
func DecodeCheckpoint(name string, b []byte) (*Checkpoint, error) {
	r, zero, _, err := fileformat.Open(name, b, checkpointMagic, formatVersion, checkpointFixedSize)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{Database: r.ID(), Number: r.Uint64()}
	c.At = time.Unix(int64(r.Uint64()), 0).UTC()
	c.Base = r.ID()
	c.Adopted = Slot(r.Uint64())
	c.Position = ReadPosition(r)
	if zero != 0 {
		return nil, r.Corrupt("reserved bytes are not zero")
	}
	return c, r.End()
}

// readCheckpoint reads the checkpoint of that number, or fails with
// bucket.ErrNotExist.
func (h home) readCheckpoint(ctx context.Context, number uint64) (c *Checkpoint, err error) {
	name := CheckpointName(number)
	err = bucket.Rereading(ctx, func() error {
		data, err := h.bucket.Get(ctx, name, MaxCheckpointSize)
		if err != nil {
			return err
		}
		c, err = DecodeCheckpoint(name, data)
		if err == nil && (c.Number != number || c.Database != h.db) {
			err = fmt.Errorf("%s in %s is %w: it says that it is %s of database %s",
				name, h.location(), zodb.ErrCorrupt, c.Name(), c.Database)
		}
		return err
	})
	return c, err
}

// newestAfter returns the newest checkpoint of those with a number above a
// known one, or nil if there is none. The known one exists, or is 0. Because
// numbers have no gap and checkpoints are never deleted, it need not list them.
// An older one that is damaged does no harm.
func (h home) newestAfter(ctx context.Context, known uint64) (newest *Checkpoint, err error) {
	// All up to low exist, high was free a moment ago.
	low, high := known, uint64(0)
	var damage error
	for step := uint64(1); high == 0 || high-low > 1; {
		ask := low + step
		if high != 0 {
			ask = low + (high-low)/2
		}
		c, err := h.readCheckpoint(ctx, ask)
		switch {
		case errors.Is(err, bucket.ErrNotExist):
			high = ask
		case err == nil, errors.Is(err, zodb.ErrCorrupt):
			newest, damage = c, err
			low, step = ask, 2*step
		default:
			return nil, fmt.Errorf("looking for the newest checkpoint of %s: %w", h.location(), err)
		}
	}
	if damage != nil {
		return nil, fmt.Errorf("the newest checkpoint of %s: %w; restore the object from a copy of the bucket (its versions or replica)",
			h.location(), damage)
	}
	return newest, nil
}

// putCheckpoint puts the next checkpoint behind the newest that is known (nil
// for none), unless one stands that is as new. It returns the newest.
func (h home) putCheckpoint(ctx context.Context, newest *Checkpoint, base BaseID, adopted Slot, p Position) (*Checkpoint, error) {
	now, err := h.now(ctx)
	for err == nil {
		c := &Checkpoint{Number: 1, Database: h.db, Base: base, Adopted: adopted, Position: p, At: now.UTC().Truncate(time.Second)}
		if newest != nil {
			if newest.Adopted >= adopted {
				return newest, nil
			}
			if newest.Position.Slot > p.Slot {
				return nil, fmt.Errorf("base %s was adopted after base %s and accounts for less of the log: this is a bug", base, newest.Base)
			}
			c.Number = newest.Number + 1
		}
		data := c.Encode()
		err = bucket.Retrying(ctx, func() error { return h.bucket.PutIfAbsent(ctx, c.Name(), data) })
		if err == nil {
			return c, nil
		}
		if errors.Is(err, bucket.ErrExist) {
			// Somebody else was faster, or an earlier try of this one.
			newest, err = h.readCheckpoint(ctx, c.Number)
		}
	}
	return nil, fmt.Errorf("writing a checkpoint to %s: %w", h.location(), err)
}

// WriteCheckpoint says in the bucket that the log has adopted a base, of which
// the observer has been told, and that it accounts for everything before p. If
// there is a checkpoint of a base that was adopted later, nothing is done. When
// it returns nil, the log need not be read before p, and what only older bases
// need may go, after a grace period.
func (l *Log) WriteCheckpoint(ctx context.Context, base BaseID, p Position) error {
	l.mu.Lock()
	newest := l.mu.newest
	adopted, ok := l.mu.adopted[base]
	end := l.mu.leader.End()
	l.mu.Unlock()
	if !ok {
		return fmt.Errorf("the log has not adopted base %s", base)
	}
	newest, err := l.putCheckpoint(ctx, newest, base, adopted, p)
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.mu.newest == nil || l.mu.newest.Number < newest.Number {
		l.mu.newest = newest
		l.mu.leader.Checkpointed(newest)
	}
	l.mu.Unlock()
	if err := l.writeHead(ctx, newest, end); err != nil {
		l.logger.Warn(hintFailed, "object", HeadName, "err", err)
	}
	return nil
}
