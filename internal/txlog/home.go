package txlog

import (
	"context"
	"time"

	"s3storage/internal/bucket"
)

// A home is where the log of a database is.
type home struct {
	bucket bucket.Bucket
	db     DatabaseID
	atOnce int // how many objects are read or deleted at the same time, at most
}

// parallel is the usual home.atOnce.
const parallel = 32

func (h home) location() string { return h.bucket.Properties().Location }

// now returns the store's time.
func (h home) now(ctx context.Context) (now time.Time, err error) {
	err = bucket.Rereading(ctx, func() error {
		now, err = h.bucket.Now(ctx)
		return err
	})
	return now, err
}

// readObject reads a log object. It does so several times if it is damaged: it
// may have been only on the way here.
func (h home) readObject(ctx context.Context, name string) (o *Object, err error) {
	err = bucket.Rereading(ctx, func() error {
		data, err := h.bucket.Get(ctx, name, MaxObjectSize)
		if err != nil {
			return err
		}
		o, err = Decode(name, data)
		return err
	})
	return o, err
}

// readPutID finds out whose object stands in a slot and, for a seal, the name
// of its node.
func (h home) readPutID(ctx context.Context, name string) (id PutID, by Node, err error) {
	head, err := h.bucket.GetRange(ctx, name, 0, headerSize)
	if err != nil {
		return id, by, err
	}
	if id, err = decodePutID(name, head); err != nil {
		return id, by, err
	}
	// The header alone may have been damaged on the way: nothing is decided
	// before the whole object was checked.
	o, err := h.readObject(ctx, name)
	if err != nil {
		return id, by, err
	}
	if s := o.Seal(); s != nil {
		by = s.By
	}
	return o.Put, by, nil
}
