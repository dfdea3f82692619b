package blob

import (
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
// Each Upload must be ended by Finish or Abort. It holds up to 768 KiB, and next
// to nothing after Finish.
type Upload struct {
	id     ID
	b      bucket.Bucket
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine that puts the object has ended
	err    error         // of the put, when done is closed

	// Buffers go from empty to out, where they are filled, to full, and back
	// when the bucket has read them.
	empty, full chan []byte
	out         []byte

	ended atomic.Bool // full was closed at the blob's end: the object may stand

	failed error // stays

	size int64  // bytes written so far
	sum  uint32 // of the piece that is being written
}

const (
	uploadBuffer  = 256 << 10 // bytes of the object that are handed over at a time
	uploadBuffers = 3         // one to be filled, one to be read, and one in between
)

// deleteTime bounds how long Abort tries to remove an object.
const deleteTime = 30 * time.Second

// NewUpload begins to upload a blob, under a new id. When ctx is done, the
// upload fails.
func NewUpload(ctx context.Context, b bucket.Bucket, database [16]byte) *Upload {
	u := &Upload{id: NewID(), b: b, done: make(chan struct{})}
	u.ctx, u.cancel = context.WithCancel(ctx)
	u.sum = pieceSum(u.id, 0)
	u.empty, u.full = make(chan []byte, uploadBuffers), make(chan []byte, uploadBuffers)
	for range uploadBuffers - 1 {
		u.empty <- nil
	}
	u.out = appendHeader(nil, database, u.id)
	go func() {
		defer close(u.done)
		u.err = b.PutStream(u.ctx, u.id.Name(), &uploaded{u: u})
	}()
	return u
}

// An uploaded is what the bucket reads.
type uploaded struct {
	u    *Upload
	buf  []byte
	left []byte // of buf
}

// Read implements io.Reader.
func (r *uploaded) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		if r.buf != nil {
			r.u.empty <- r.buf[:0] // there is room for all
		}
		var more bool
		select {
		case r.buf, more = <-r.u.full:
		case <-r.u.ctx.Done():
			return 0, r.u.ctx.Err()
		}
		if !more {
			return 0, io.EOF
		}
		r.left = r.buf
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// ID returns the blob's id.
func (u *Upload) ID() ID { return u.id }

// Write implements io.Writer. It waits while the bucket is slow, and fails
// when the upload has.
func (u *Upload) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		if u.failed == nil {
			u.failed = u.ctx.Err()
		}
		if u.failed == nil && len(u.out) >= uploadBuffer {
			u.failed = u.handOver()
		}
		if u.failed != nil {
			return written, u.fail(u.failed)
		}
		left := pieceSize - u.size%pieceSize
		part := p[written:min(len(p), written+int(left), written+uploadBuffer-len(u.out))]
		u.out = append(u.out, part...)
		written += len(part)
		u.size += int64(len(part))
		u.sum = crc32.Update(u.sum, castagnoli, part)
		if u.size%pieceSize == 0 {
			u.endPiece()
		}
	}
	return written, nil
}

func (u *Upload) endPiece() {
	u.out = binary.BigEndian.AppendUint32(u.out, u.sum)
	u.sum = pieceSum(u.id, pieces(u.size))
}

// handOver gives what has gathered to the bucket, and takes an empty buffer.
func (u *Upload) handOver() error {
	u.full <- u.out // there is room for all
	select {
	case u.out = <-u.empty:
		if u.out == nil {
			u.out = make([]byte, 0, uploadBuffer+crc32.Size)
		}
		return nil
	case <-u.ctx.Done():
		return u.ctx.Err()
	case <-u.done:
		if u.err == nil {
			return errNotRead
		}
		return u.err
	}
}

var errNotRead = errors.New("the bucket did not read it to its end")

// fail says what went wrong.
func (u *Upload) fail(err error) error { return fmt.Errorf("uploading %s: %w", u.id.Name(), err) }

// Finish waits until the object stands, and returns the size of the blob. After
// an error the object may stand nevertheless; Abort then removes it.
func (u *Upload) Finish() (int64, error) {
	if u.failed != nil {
		u.cancel()
		<-u.done
		return 0, u.fail(u.failed)
	}
	if u.size%pieceSize != 0 {
		u.endPiece()
	}
	u.full <- u.out
	u.ended.Store(true)
	close(u.full)
	<-u.done
	u.cancel()
	u.out = nil
	for len(u.empty) > 0 {
		<-u.empty
	}
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
	<-u.done
	if !u.ended.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), deleteTime)
	defer cancel()
	return bucket.Retrying(ctx, func() error { return u.b.Delete(ctx, u.id.Name()) })
}
