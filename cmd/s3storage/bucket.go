package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/s3bucket"
	"s3storage/internal/txlog"
)

// openExisting opens the bucket that a location names, with that of the log, as
// openBucket does. A directory has to exist.
func (s *stores) openExisting(ctx context.Context, location string) (bucket.Bucket, error) {
	return s.openBucket(ctx, location, false)
}

// openBucket opens the bucket that a location names. If there is a database in it
// whose log is in a bucket of its own, that is opened as well. A directory that does
// not exist is made if create is set.
func (s *stores) openBucket(ctx context.Context, location string, create bool) (bucket.Bucket, error) {
	b, err := s.openListed(ctx, location, create)
	if err != nil {
		return nil, err
	}
	return txlog.WithLog(ctx, b, s.openFiles)
}

// openFiles opens the bucket that a location names, and no other: of the database in
// it, if there is one, only the files are read, or only the log.
func (s *stores) openFiles(ctx context.Context, location string) (bucket.Bucket, error) {
	return s.openListed(ctx, location, false)
}

// openWithLog does what openBucket does. If logLocation is not empty, a database that
// create has it make has its log there, and one that exists has to have it there.
func (s *stores) openWithLog(ctx context.Context, location, logLocation string, create bool) (bucket.Bucket, error) {
	if logLocation == "" {
		return s.openBucket(ctx, location, create)
	}
	if s.Catalog != "" {
		return nil, errors.New("--log-bucket and --catalog do not go together: with a catalog, a commit is written in PostgreSQL; leave out --log-bucket")
	}
	wanted, err := canonical(logLocation)
	if err != nil {
		return nil, fmt.Errorf("--log-bucket: %w", err)
	}
	main, err := openAlone(ctx, location, create)
	if err != nil {
		return nil, err
	}
	found, err := txlog.LogLocation(ctx, main)
	switch {
	case errors.Is(err, txlog.ErrNoDatabase) && create:
		err = createWithLog(ctx, main, location, wanted)
	case err == nil && found == "":
		err = fmt.Errorf("the database in %s has its log there, where it has to stay: leave out --log-bucket; "+
			"or export the database and import it into an empty bucket with --log-bucket", location)
	case err == nil && found != wanted:
		err = fmt.Errorf("the database in %s has its log in %s, where it has to stay, not in %s: leave out --log-bucket", location, found, wanted)
	}
	if err != nil {
		return nil, err
	}
	return txlog.WithLog(ctx, main, s.openFiles)
}

// createWithLog makes a database with its log in a bucket of its own.
func createWithLog(ctx context.Context, main bucket.Bucket, location, logLocation string) error {
	home, err := canonical(location)
	if err != nil {
		return err
	}
	if within(home, logLocation) || within(logLocation, home) {
		return fmt.Errorf("--log-bucket %s and the bucket %s are the same, or one is within the other: choose another place for the log", logLocation, location)
	}
	log, err := openAlone(ctx, logLocation, true)
	if err != nil {
		return err
	}
	return txlog.CreateWithLog(ctx, main, log, txlog.Format{Creator: "s3storage " + version, Created: time.Now(), LogLocation: logLocation})
}

// canonical returns a location in the form that means the same wherever a program is
// started, and however it was written.
func canonical(location string) (string, error) {
	scheme, _, hasScheme := strings.Cut(location, "://")
	switch {
	case scheme == "s3" && hasScheme:
		c, err := s3bucket.ParseURL(location)
		return c.URL(), err
	case scheme == "file" && hasScheme:
		return filePath(location)
	case hasScheme:
		return "", fmt.Errorf("%q has no name that means the same elsewhere: give a path, file://PATH or s3://BUCKET/PREFIX", location)
	}
	return filepath.Abs(location)
}

// within tells whether a canonical location is another one or lies below it.
func within(location, other string) bool {
	location, options, _ := strings.Cut(location, "?")
	other, otherOptions, _ := strings.Cut(other, "?")
	return options == otherOptions && strings.HasPrefix(location+"/", strings.TrimSuffix(other, "/")+"/")
}

// filePath returns the path in a URL of the scheme file.
func filePath(location string) (string, error) {
	u, err := url.Parse(location)
	if err != nil || u.Host != "" || u.Path == "" || u.RawQuery != "" {
		return "", fmt.Errorf("%q is not of the form file:///PATH", location)
	}
	return filepath.Clean(u.Path), nil
}

// openAlone opens the bucket that a location names, whatever is in it.
func openAlone(ctx context.Context, location string, create bool) (bucket.Bucket, error) {
	scheme, _, hasScheme := strings.Cut(location, "://")
	switch {
	case !hasScheme:
		return bucket.OpenDirectory(location, create)
	case scheme == "file":
		path, err := filePath(location)
		if err != nil {
			return nil, err
		}
		return bucket.OpenDirectory(path, create)
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
