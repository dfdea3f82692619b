package s3bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"

	"s3storage/internal/bucket"
)

const (
	partsAtOnce = 2
	abortTime   = 15 * time.Second

	// uploadKey is the metadata of an object that names the upload that made
	// it: the ids of S3 are not to be seen in an object.
	uploadKey = "s3storage-upload"
)

// A multipart is an upload in parts. Every request is one that can be repeated
// without harm, since the bytes of a part stay the same, but for the last: when
// it is not known whether that has made the object, the object tells.
type multipart struct {
	b     *Bucket
	key   *string
	mark  string // in the object's metadata
	id    *string
	parts []types.CompletedPart
	size  int64
}

// upload sends a stream whose first part was read, in parts.
func (b *Bucket) upload(ctx context.Context, name string, s *stream, part []byte) (err error) {
	m := &multipart{b: b, key: b.key(name), mark: rand.Text()}
	if err := m.create(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.abort(ctx)
		}
	}()
	if err := m.send(ctx, s, part); err != nil {
		return err
	}
	return m.complete(ctx)
}

func (m *multipart) create(ctx context.Context) error {
	return bucket.Retry(ctx, m.b.patience, func() error {
		out, err := m.b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: &m.b.name, Key: m.key, Metadata: map[string]string{uploadKey: m.mark},
		}, once)
		if err != nil {
			return translate(ctx, bucket.KindPutStream, err)
		}
		m.id = out.UploadId
		return nil
	})
}

// send sends all parts, of which the first was read.
func (m *multipart) send(ctx context.Context, s *stream, part []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sends, ctx := errgroup.WithContext(ctx)
	sends.SetLimit(partsAtOnce)
	var err error
	for n := 1; len(part) > 0; n++ {
		m.size += int64(len(part))
		m.parts = append(m.parts, types.CompletedPart{PartNumber: aws.Int32(int32(n))})
		data, held := part, s.handOver()
		etag := new(string) // m.parts may move
		m.parts[n-1].ETag = etag
		sends.Go(func() error {
			defer s.memory.Release(held)
			return m.sendPart(ctx, n, data, etag)
		})
		if len(part) < partSize(n) {
			break
		}
		if part, err = s.gather(ctx, partSize(n+1)); err != nil {
			cancel()
			break
		}
	}
	sendErr := sends.Wait()
	switch {
	case s.err != nil:
		return s.err
	case sendErr != nil:
		return sendErr
	}
	return err
}

func (m *multipart) sendPart(ctx context.Context, n int, data []byte, etag *string) error {
	return bucket.Retry(ctx, m.b.patience, func() error {
		out, err := m.b.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &m.b.name, Key: m.key, UploadId: m.id, PartNumber: aws.Int32(int32(n)),
			Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		}, once)
		if err != nil {
			return translate(ctx, bucket.KindPutStream, err)
		}
		*etag = aws.ToString(out.ETag)
		return nil
	})
}

// complete makes the object. An answer that was lost, an error in the middle
// of a success, or that there is no such upload (any more) may all mean that
// it was made.
func (m *multipart) complete(ctx context.Context) error {
	return bucket.Retry(ctx, m.b.patience, func() error {
		_, err := m.b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &m.b.name, Key: m.key, UploadId: m.id,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: m.parts},
		}, once)
		if err == nil {
			return nil
		}
		err = translate(ctx, bucket.KindPutStream, err)
		if !bucket.Final(err) && m.stands(ctx) {
			return nil
		}
		return err
	})
}

// stands reports that the object is there, made by this upload.
func (m *multipart) stands(ctx context.Context) bool {
	out, err := m.b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &m.b.name, Key: m.key})
	return err == nil && aws.ToInt64(out.ContentLength) == m.size && out.Metadata[uploadKey] == m.mark
}

// aborts is how often an upload is aborted: a part that was on its way may be
// stored after the first time (Amazon S3, AbortMultipartUpload).
const aborts = 4

// abort removes the parts, also if ctx is done. Where it fails, CleanUp has to.
func (m *multipart) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	for n := 1; ; n++ {
		_ = m.b.abortUpload(ctx, m.key, m.id)
		if n == aborts || bucket.Sleep(ctx, bucket.Backoff(n+1)) != nil {
			return
		}
	}
}

func (b *Bucket) abortUpload(ctx context.Context, key, id *string) error {
	_, err := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: key, UploadId: id})
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "NoSuchUpload" {
		return nil
	}
	return err
}

// CleanUp implements bucket.Bucket: it aborts uploads in parts, whose parts
// are stored, and paid for, until somebody does.
func (b *Bucket) CleanUp(ctx context.Context, olderThan time.Duration) (int, error) {
	n := 0
	fail := func(err error) (int, error) {
		return n, b.fail(bucket.KindCleanUp, "", translate(ctx, bucket.KindCleanUp, err))
	}
	now, err := b.Now(ctx)
	if err != nil {
		return fail(err)
	}
	input := &s3.ListMultipartUploadsInput{Bucket: &b.name}
	if b.prefix != "" {
		input.Prefix = &b.prefix
	}
	for {
		out, err := b.client.ListMultipartUploads(ctx, input)
		if err != nil {
			return fail(err)
		}
		for _, u := range out.Uploads {
			name, ours := strings.CutPrefix(aws.ToString(u.Key), b.prefix)
			if !ours || bucket.CheckName(name) != nil || u.Initiated == nil || now.Sub(*u.Initiated) < olderThan {
				continue
			}
			if err := b.abortUpload(ctx, u.Key, u.UploadId); err != nil {
				return fail(err)
			}
			n++
		}
		if !aws.ToBool(out.IsTruncated) {
			return n, nil
		}
		if aws.ToString(out.NextKeyMarker) == "" {
			return fail(errors.New("the server's listing of uploads ends in the middle"))
		}
		input.KeyMarker, input.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}
