package txlog

import (
	"context"
	"encoding/binary"
	"errors"

	"s3storage/internal/bucket"
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// HeadName is the name of the hint that says where the log is read from. It may
// be stale, absent or damaged: that costs time, and nothing else.
const HeadName = "head"

// A head is that hint.
type head struct {
	Database   DatabaseID
	Checkpoint uint64 // number of the newest one, when it was written
	Epoch      Epoch  // the log's last at that time
	Settled    Slot   // all up to this one stood
}

const (
	headMagic = "s3zhed\r\n"
	headSize  = 56

	hintFailed = "cannot write the hint that names the newest checkpoint; opening takes longer"

	// headAttempts is how often it is read when it seems damaged.
	headAttempts = 3
)

func (h *head) encode() []byte {
	b := fileformat.AppendStart(nil, headMagic, formatVersion, 0)
	b = append(b, h.Database[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Checkpoint)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Settled))
	return fileformat.AppendSum(b)
}

func decodeHead(b []byte) (*head, error) {
	r, zero, _, err := fileformat.Open(HeadName, b, headMagic, formatVersion, headSize)
	if err != nil {
		return nil, err
	}
	h := &head{Database: r.ID(), Checkpoint: r.Uint64(), Epoch: Epoch(r.Uint64()), Settled: Slot(r.Uint64())}
	if zero != 0 {
		return nil, r.Corrupt("reserved bytes are not zero")
	}
	return h, r.End()
}

// readHead reads the hint. It is zero where there is none that can be used.
func (h home) readHead(ctx context.Context) (hint head, err error) {
	err = bucket.Retry(ctx, headAttempts, func() error {
		data, err := h.bucket.Get(ctx, HeadName, MaxCheckpointSize)
		if err != nil {
			return err
		}
		got, err := decodeHead(data)
		if err == nil && got.Database == h.db {
			hint = *got
		}
		return err
	})
	for _, unusable := range []error{bucket.ErrNotExist, bucket.ErrTooLarge, zodb.ErrCorrupt, zodb.ErrNewerFormat} {
		if errors.Is(err, unusable) {
			err = nil
		}
	}
	return hint, err
}

// writeHead puts the hint, when the newest checkpoint is c and the log is known
// up to end.
func (h home) writeHead(ctx context.Context, c *Checkpoint, end Position) error {
	hint := head{Database: h.db, Checkpoint: c.Number, Epoch: end.Epoch, Settled: end.Slot - 1}
	return bucket.Rereading(ctx, func() error { return h.bucket.Put(ctx, HeadName, hint.encode()) })
}
