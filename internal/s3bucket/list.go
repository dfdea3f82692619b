package s3bucket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"s3storage/internal/bucket"
)

// List implements bucket.Bucket. What is no name for an object, because
// somebody else put it there, is not shown.
//
// The directory buckets of S3 Express list in no order, only below a slash,
// and from no given name on: there everything is read first, then sorted.
func (b *Bucket) List(ctx context.Context, prefix, after string, fn func(bucket.Info) error) error {
	if !b.unsorted {
		last := ""
		stopped := false
		err := b.pages(ctx, prefix, after, func(info bucket.Info) error {
			if info.Name <= last {
				return fmt.Errorf("the server's listing is out of order: %q after %q", info.Name, last)
			}
			last = info.Name
			err := fn(info)
			stopped = err != nil
			return err
		})
		if err != nil && !stopped {
			return b.fail(bucket.KindList, "", err)
		}
		return err
	}
	var all []bucket.Info
	err := b.pages(ctx, prefix[:strings.LastIndexByte(prefix, '/')+1], "", func(info bucket.Info) error {
		if strings.HasPrefix(info.Name, prefix) && info.Name > after {
			all = append(all, info)
		}
		return nil
	})
	if err != nil {
		return b.fail(bucket.KindList, "", err)
	}
	slices.SortFunc(all, func(a, b bucket.Info) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range all {
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// pages calls fn for the objects in the order of the server.
func (b *Bucket) pages(ctx context.Context, prefix, after string, fn func(bucket.Info) error) error {
	input := &s3.ListObjectsV2Input{Bucket: &b.name}
	if b.prefix+prefix != "" {
		input.Prefix = b.key(prefix)
	}
	if after != "" {
		input.StartAfter = b.key(after)
	}
	for {
		out, err := b.client.ListObjectsV2(ctx, input)
		if err != nil {
			return translate(ctx, bucket.KindList, err)
		}
		for _, object := range out.Contents {
			name, ours := strings.CutPrefix(aws.ToString(object.Key), b.prefix)
			if !ours || name <= after || bucket.CheckName(name) != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(bucket.Info{Name: name, Size: aws.ToInt64(object.Size)}); err != nil {
				return err
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		if aws.ToString(out.NextContinuationToken) == "" {
			return errors.New("the server's listing ends in the middle")
		}
		input.ContinuationToken = out.NextContinuationToken
	}
}
