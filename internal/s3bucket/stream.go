package s3bucket

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/semaphore"

	"s3storage/internal/bucket"
)

const (
	// A stream that ends within its first part is put at once, in one request.
	firstPart = 8 << 20

	// The first part is gathered in a buffer of this size, then of the next,
	// then of its own.
	smallBuffer  = 64 << 10
	mediumBuffer = 1 << 20

	// streamMemory bounds the buffers of all streams of a bucket, but for
	// small ones, and for the medium or silent ones that wait for more. A
	// stream takes three parts at most.
	streamMemory = 8 * firstPart

	// A stream that gets no bytes from its reader for this long lets others
	// have its share of the memory until it does.
	streamSilence = 5 * time.Second

	// streamPatience is how often one request of a stream is tried, which
	// takes some ten seconds, and more where requests time out. Whoever put
	// the stream cannot repeat it.
	streamPatience = 16
)

// partSize returns the size of the part n of an upload, which are counted from
// 1. It doubles every 1,000 parts: an upload has 10,000 of them at most. Only
// from 120 GiB on is a part larger than streamMemory; it then goes alone.
func partSize(n int) int { return firstPart << ((n - 1) / 1000) }

// PutStream implements bucket.Bucket. What is longer than one part is sent as
// a multipart upload.
func (b *Bucket) PutStream(ctx context.Context, name string, r io.Reader) error {
	err := bucket.CheckName(name)
	if err == nil {
		err = b.putStream(ctx, name, r)
	}
	if err != nil {
		return b.fail(bucket.KindPutStream, name, err)
	}
	return nil
}

func (b *Bucket) putStream(ctx context.Context, name string, r io.Reader) error {
	s := &stream{r: r, memory: b.streams, silence: b.silence}
	defer s.release()
	part, err := s.gather(ctx, smallBuffer, mediumBuffer, firstPart)
	if err != nil {
		return err
	}
	if len(part) == firstPart {
		return b.upload(ctx, name, s, part)
	}
	return bucket.Retry(ctx, b.patience, func() error {
		_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &b.name, Key: b.key(name),
			Body: bytes.NewReader(part), ContentLength: aws.Int64(int64(len(part))),
		}, once)
		if err != nil {
			return translate(ctx, bucket.KindPutStream, err)
		}
		return nil
	})
}

// A stream gathers what it reads into parts. It never waits for memory while
// it holds some, and those that send a part let go of theirs in the end, so
// that nobody waits forever.
type stream struct {
	r       io.Reader
	err     error // of r
	memory  *semaphore.Weighted
	held    int64 // of memory
	silence time.Duration
}

// gather returns the next part, which is shorter than the last of the sizes
// only where the stream has ended. It goes through buffers of these sizes.
func (s *stream) gather(ctx context.Context, sizes ...int) (part []byte, err error) {
	for _, size := range sizes {
		if err := s.reserve(ctx, size); err != nil {
			return nil, err
		}
		part = append(make([]byte, 0, size), part...)
		for len(part) < size {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			n, err := s.read(ctx, part[len(part):size])
			part = part[:len(part)+n]
			if err == io.EOF { //nolint:errorlint // as the contract of io.Reader has it
				return part, nil
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return part, nil
}

// read reads from r. The memory is free for others while r is silent.
func (s *stream) read(ctx context.Context, p []byte) (int, error) {
	held := s.held
	silent := time.AfterFunc(s.silence, func() { s.memory.Release(held) })
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	if silent.Stop() || held == 0 {
		return n, err
	}
	s.held = 0
	if e := s.memory.Acquire(ctx, held); e != nil {
		return n, e
	}
	s.held = held
	return n, err
}

// reserve waits for the memory of a buffer, in place of what is held.
func (s *stream) reserve(ctx context.Context, size int) error {
	s.release()
	if size <= smallBuffer {
		return nil
	}
	weight := min(int64(size), streamMemory)
	if err := s.memory.Acquire(ctx, weight); err != nil {
		return err
	}
	s.held = weight
	return nil
}

func (s *stream) release() { s.memory.Release(s.handOver()) }

// handOver returns how much memory is held; from then on it is the caller's to
// release.
func (s *stream) handOver() int64 {
	held := s.held
	s.held = 0
	return held
}
