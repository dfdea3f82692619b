package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"s3storage/internal/bucket"
	"s3storage/internal/s3bucket"
)

// openExisting opens the bucket that a location names. A directory has to exist.
func openExisting(ctx context.Context, location string) (bucket.Bucket, error) {
	return openBucket(ctx, location, false)
}

// openBucket opens the bucket that a location names. A directory that does not
// exist is made if create is set.
func openBucket(ctx context.Context, location string, create bool) (bucket.Bucket, error) {
	scheme, _, hasScheme := strings.Cut(location, "://")
	switch {
	case !hasScheme:
		return bucket.OpenDirectory(location, create)
	case scheme == "file":
		u, err := url.Parse(location)
		if err != nil || u.Host != "" || u.Path == "" || u.RawQuery != "" {
			return nil, fmt.Errorf("%q is not of the form file:///PATH", location)
		}
		return bucket.OpenDirectory(u.Path, create)
	case scheme == "s3":
		c, err := s3bucket.ParseURL(location)
		if err != nil {
			return nil, err
		}
		return s3bucket.Open(ctx, c)
	case location == "mem://":
		return bucket.NewMemory(), nil
	}
	return nil, fmt.Errorf("cannot tell what kind of bucket %q is: give a path, file://PATH, s3://BUCKET/PREFIX or mem://", location)
}
