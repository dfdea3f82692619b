// Package s3bucket keeps a bucket in Amazon S3 or in anything that speaks its
// API and knows conditional writes. It is the only package that knows an SDK.
//
// Requirements: strong consistency of reads and listings, and PutObject with
// "If-None-Match: *" (s3:GetObject, s3:PutObject, s3:DeleteObject,
// s3:ListBucket, s3:AbortMultipartUpload and s3:ListBucketMultipartUploads are
// the permissions). bucket.Probe tells whether a store keeps the second.
//
// Retries: PutIfAbsent sends one request. It has to, since the answer to a
// second one would be about the first; whoever calls it tells the two apart by
// the bytes. All other operations can be repeated without harm, and are, a few
// times, by the SDK. PutStream repeats its requests itself, and more often:
// nobody else can, for the bytes are gone.
//
// Integrity: a request's body is covered by its signature (SHA-256), also over
// TLS, so the server refuses what was damaged on the way; the trailing
// checksums that newer SDKs send instead are switched off, for many compatible
// stores do not know them. An answer is checked for its length only. What is
// stored carries checksums of its own, which the readers check.
package s3bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/semaphore"

	"s3storage/internal/bucket"
)

const credentialsAdvice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for one of ~/.aws/credentials, " +
	"or run where a role gives them (EC2, ECS, EKS)"

const attempts = 4 // of operations that may be repeated

// Bucket is a bucket in S3, or the part of one under a prefix.
type Bucket struct {
	client   *s3.Client
	name     string
	prefix   string // empty or ends with a slash
	location string
	unsorted bool // listings come in no order (S3 Express directory buckets)

	streams  *semaphore.Weighted // bytes in the buffers of all streams
	silence  time.Duration       // streamSilence, but in tests
	patience int                 // streamPatience, but in tests
}

var _ bucket.Bucket = (*Bucket)(nil)

// Open connects to a bucket, which must exist, with credentials that must be
// good.
func Open(ctx context.Context, c Config) (*Bucket, error) {
	b := &Bucket{
		name: c.Bucket, location: c.URL(), unsorted: strings.HasSuffix(c.Bucket, "--x-s3"),
		streams: semaphore.NewWeighted(streamMemory), silence: streamSilence, patience: streamPatience,
	}
	fail := func(err error) (*Bucket, error) {
		return nil, &bucket.Error{Op: "open", Location: b.location, Err: err}
	}
	if err := c.check(); err != nil {
		b.location = "an S3 bucket"
		return fail(err)
	}
	if c.Prefix != "" {
		b.prefix = c.Prefix + "/"
	}
	options := []func(*config.LoadOptions) error{
		config.WithHTTPClient(httpClient()),
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	if c.AccessKeyID != "" {
		options = append(options, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")))
	}
	sdk, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return fail(fmt.Errorf("reading the AWS configuration: %w", err))
	}
	if sdk.Credentials == nil {
		return fail(errors.New("no credentials: " + credentialsAdvice))
	}
	if _, err := sdk.Credentials.Retrieve(ctx); err != nil {
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		return fail(fmt.Errorf("no credentials: %s (%w)", credentialsAdvice, err))
	}
	b.client = s3.NewFromConfig(sdk, func(o *s3.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
		if o.Region == "" && o.BaseEndpoint != nil {
			o.Region = "us-east-1" // what compatible servers expect
		}
		o.UsePathStyle = c.PathStyle
		o.RetryMaxAttempts = attempts
		o.ContinueHeaderThresholdBytes = -1 // no round trip before large puts
	})
	if b.client.Options().Region == "" {
		return fail(errors.New("no region: set AWS_REGION, or add ?region=... to the bucket's URL"))
	}
	// Not HeadBucket, whose answer does not say what is wrong.
	if _, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.name, MaxKeys: aws.Int32(1)}); err != nil {
		return fail(translate(ctx, bucket.KindList, err))
	}
	return b, nil
}

// Properties implements bucket.Bucket.
func (b *Bucket) Properties() bucket.Properties {
	return bucket.Properties{Location: b.location, Durable: true}
}

func (b *Bucket) fail(k bucket.Kind, name string, err error) error {
	return bucket.NewError(b, k, name, err)
}

func (b *Bucket) key(name string) *string { return aws.String(b.prefix + name) }

func once(o *s3.Options) { o.Retryer = aws.NopRetryer{} }

// PutIfAbsent implements bucket.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := bucket.CheckName(name); err != nil {
		return b.fail(bucket.KindPutIfAbsent, name, err)
	}
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.name, Key: b.key(name), IfNoneMatch: aws.String("*"),
		Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
	}, once)
	if err != nil {
		return b.fail(bucket.KindPutIfAbsent, name, translate(ctx, bucket.KindPutIfAbsent, err))
	}
	return nil
}

// Put implements bucket.Bucket.
func (b *Bucket) Put(ctx context.Context, name string, data []byte) error {
	if err := bucket.CheckName(name); err != nil {
		return b.fail(bucket.KindPut, name, err)
	}
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.name, Key: b.key(name),
		Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
	})
	if err != nil {
		return b.fail(bucket.KindPut, name, translate(ctx, bucket.KindPut, err))
	}
	return nil
}

// Get implements bucket.Bucket.
func (b *Bucket) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	if err := bucket.CheckName(name); err != nil {
		return nil, b.fail(bucket.KindGet, name, err)
	}
	var data []byte
	err := b.repeat(ctx, func() error {
		out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: b.key(name)})
		if err != nil {
			return translate(ctx, bucket.KindGet, err)
		}
		defer out.Body.Close()
		if out.ContentLength == nil {
			return errors.New("the answer does not say how long the object is")
		}
		if *out.ContentLength > limit {
			return fmt.Errorf("%w: %d bytes, limit %d", bucket.ErrTooLarge, *out.ContentLength, limit)
		}
		data, err = readBody(ctx, out.Body, *out.ContentLength)
		return err
	})
	if err != nil {
		return nil, b.fail(bucket.KindGet, name, err)
	}
	return data, nil
}

// GetRange implements bucket.Bucket.
func (b *Bucket) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	err := bucket.CheckName(name)
	if err == nil {
		err = bucket.CheckRange(offset, n)
	}
	if err != nil {
		return nil, b.fail(bucket.KindGetRange, name, err)
	}
	last := max(offset, offset+min(n, math.MaxInt64-offset)-1)
	var data []byte
	err = b.repeat(ctx, func() error {
		out, err := b.client.GetObject(ctx, &s3.GetObjectInput{
			Bucket: &b.name, Key: b.key(name), Range: aws.String(fmt.Sprintf("bytes=%d-%d", offset, last)),
		})
		if pastTheEnd(err) {
			data = []byte{}
			return nil
		}
		if err != nil {
			return translate(ctx, bucket.KindGetRange, err)
		}
		defer out.Body.Close()
		want, err := rangeLength(out, offset, last)
		if err != nil {
			return err
		}
		data, err = readBody(ctx, out.Body, want)
		return err
	})
	if err != nil {
		return nil, b.fail(bucket.KindGetRange, name, err)
	}
	return data, nil
}

// rangeLength returns how many bytes the answer to a request for a range must
// have. It refuses one that is about other bytes, such as the whole object from
// a server or proxy that ignores ranges.
func rangeLength(out *s3.GetObjectOutput, offset, last int64) (int64, error) {
	var from, to, size int64
	if aws.ToInt64(out.ContentLength) == 0 && out.ContentRange == nil {
		return 0, nil // of an empty object, from a server that calls that no error
	}
	if n, _ := fmt.Sscanf(aws.ToString(out.ContentRange), "bytes %d-%d/%d", &from, &to, &size); n != 3 {
		return 0, fmt.Errorf("the server did not answer with a range: Content-Range is %q", aws.ToString(out.ContentRange))
	}
	if from != offset || to != min(last, size-1) || aws.ToInt64(out.ContentLength) != to-from+1 {
		return 0, fmt.Errorf("asked for bytes %d-%d, got an answer for %q of length %d",
			offset, last, *out.ContentRange, aws.ToInt64(out.ContentLength))
	}
	return to - from + 1, nil
}

// readBody reads exactly n bytes; the caller has made sure that n is no more
// than was asked for.
func readBody(ctx context.Context, body io.Reader, n int64) ([]byte, error) {
	data := make([]byte, n)
	if _, err := io.ReadFull(body, data); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &brokenBody{err}
	}
	if extra, _ := io.CopyN(io.Discard, body, 1); extra > 0 {
		return nil, &brokenBody{errors.New("more bytes than announced")}
	}
	return data, nil
}

// A brokenBody is an answer that began well. The SDK no longer repeats the
// request then, so repeat does.
type brokenBody struct{ err error }

func (e *brokenBody) Error() string { return "reading the object's bytes: " + e.err.Error() }
func (e *brokenBody) Unwrap() error { return e.err }

func (b *Bucket) repeat(ctx context.Context, get func() error) error {
	for attempt := 1; ; attempt++ {
		err := get()
		var broken *brokenBody
		if !errors.As(err, &broken) || attempt == attempts || ctx.Err() != nil {
			return err
		}
		if err := bucket.Sleep(ctx, time.Duration(attempt)*20*time.Millisecond); err != nil {
			return err
		}
	}
}

// Delete implements bucket.Bucket.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	if err := bucket.CheckName(name); err != nil {
		return b.fail(bucket.KindDelete, name, err)
	}
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: b.key(name)})
	if err != nil {
		if err := translate(ctx, bucket.KindDelete, err); !errors.Is(err, bucket.ErrNotExist) {
			return b.fail(bucket.KindDelete, name, err)
		}
	}
	return nil
}

// Now implements bucket.Bucket. It is the Date of an answer.
func (b *Bucket) Now(ctx context.Context) (time.Time, error) {
	out, err := b.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
	if err != nil {
		return time.Time{}, b.fail(bucket.KindNow, "", translate(ctx, bucket.KindNow, err))
	}
	now, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !ok || now.IsZero() {
		return time.Time{}, b.fail(bucket.KindNow, "", errors.New("the answer has no date"))
	}
	return now, nil
}
