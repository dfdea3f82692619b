package blob

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"
	"time"

	"s3storage/internal/bucket"
)

// An Upload writes a new blob object from a stream of bytes.
//
// Write and Finish are for one goroutine; Abort may be called from another.
// Each Upload must be ended by Finish or Abort.
type Upload struct {
	id     ID
	b      bucket.Bucket
	ctx    context.Context
	cancel context.CancelFunc
	pipe   *io.PipeWriter
	done   chan struct{} // closed when the goroutine that puts the object has ended
	err    error         // of the put, when done is closed

	ended atomic.Bool // the pipe was closed at the blob's end: the object may stand

	size int64  // bytes written so far
	sum  uint32 // of the piece that is being written
}

// deleteTime bounds how long Abort tries to remove an object.
const deleteTime = 30 * time.Second

// NewUpload begins to upload a blob, under a new id. When ctx is done, the
// upload fails.
func NewUpload(ctx context.Context, b bucket.Bucket, database [16]byte) *Upload {
	u := &Upload{id: NewID(), b: b, done: make(chan struct{})}
	u.ctx, u.cancel = context.WithCancel(ctx)
	u.sum = pieceSum(u.id, 0)
	r, w := io.Pipe()
	u.pipe = w
	stop := context.AfterFunc(u.ctx, func() { w.CloseWithError(u.ctx.Err()) })
	stream := io.MultiReader(bytes.NewReader(appendHeader(nil, database, u.id)), r)
	go func() {
		defer close(u.done)
		defer stop()
		u.err = b.PutStream(u.ctx, u.id.Name(), stream)
		r.CloseWithError(u.err) // fails what is written from now on
	}()
	return u
}

// ID returns the blob's id.
func (u *Upload) ID() ID { return u.id }

// Write implements io.Writer. It waits while the bucket is slow, and fails
// when the upload has.
func (u *Upload) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		left := pieceSize - u.size%pieceSize
		part := p[written:min(len(p), written+int(left))]
		n, err := u.pipe.Write(part)
		written += n
		u.size += int64(n)
		u.sum = crc32.Update(u.sum, castagnoli, part[:n])
		if err == nil && u.size%pieceSize == 0 {
			err = u.endPiece()
		}
		if err != nil {
			return written, u.fail(err)
		}
	}
	return written, nil
}

func (u *Upload) endPiece() error {
	_, err := u.pipe.Write(binary.BigEndian.AppendUint32(nil, u.sum))
	u.sum = pieceSum(u.id, pieces(u.size))
	return err
}

// fail says what went wrong when a write to the pipe fails.
func (u *Upload) fail(err error) error {
	if errors.Is(err, io.ErrClosedPipe) && u.ctx.Err() != nil {
		err = u.ctx.Err()
	}
	return fmt.Errorf("uploading %s: %w", u.id.Name(), err)
}

// Finish waits until the object stands, and returns the size of the blob. After
// an error the object may stand nevertheless; Abort then removes it.
func (u *Upload) Finish() (int64, error) {
	if u.size%pieceSize != 0 {
		if err := u.endPiece(); err != nil {
			return 0, u.fail(err)
		}
	}
	u.ended.Store(true)
	u.pipe.CloseWithError(io.EOF)
	<-u.done
	u.cancel()
	if u.err != nil {
		return 0, u.fail(u.err)
	}
	return u.size, nil
}

// Abort ends the upload, waits for that, and removes the object, also if it
// was finished. The error is about the removal: garbage is left then. A put
// whose outcome is unknown may still leave some later.
func (u *Upload) Abort() error {
	u.cancel()
	u.pipe.CloseWithError(context.Canceled)
	<-u.done
	if !u.ended.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), deleteTime)
	defer cancel()
	return bucket.Retrying(ctx, func() error { return u.b.Delete(ctx, u.id.Name()) })
}
