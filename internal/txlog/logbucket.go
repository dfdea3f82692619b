package txlog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// ClaimName is the name of the object that says whose log a bucket holds. It has
// the bytes of the format object of that database.
//
// A database whose log is in a bucket of its own comes to be in this order: the
// claim in its main bucket, which settles its id; the same claim in the bucket of
// the log, where there is place for one; the format. All are put-if-absent, and one
// that was broken off goes on with what stands. So two databases never share a log,
// and where there is a format there was a claim.
const ClaimName = "claim"

// CreateWithLog makes a bucket the home of a new database like the template, as
// Create does, with the log in another bucket, which template.LogLocation names.
// Both are probed, and refused if there is anything else in them.
func CreateWithLog(ctx context.Context, main, log bucket.Bucket, template Format) error {
	f := template
	_, _ = rand.Read(f.Database[:]) // never fails: crypto/rand
	return create(ctx, main, &f, isClaim, func() error { return claimBoth(ctx, main, log, &f) })
}

func isClaim(name string) bool { return name == ClaimName }

// claimBoth claims both buckets of a database. If that was begun already, f becomes
// the format of the database that was begun.
func claimBoth(ctx context.Context, main, log bucket.Bucket, f *Format) error {
	claimed, err := readFormat(ctx, log, ClaimName) // before main's, which is put first
	if err != nil && !errors.Is(err, ErrNoDatabase) {
		return err
	}
	if claimed != nil {
		begun, err := readFormat(ctx, main, ClaimName)
		if err != nil && !errors.Is(err, ErrNoDatabase) {
			return err
		}
		if begun == nil || begun.Database != claimed.Database {
			return othersLog(log, claimed)
		}
	}
	if err := refuseOthers(ctx, log, isClaim); err != nil {
		return fmt.Errorf("the bucket for the log: %w", err)
	}
	if err := bucket.Probe(ctx, log); err != nil {
		return fmt.Errorf("the bucket for the log: %w", err)
	}
	stands, err := claim(ctx, main, f)
	if err != nil {
		return err
	}
	if stands.LogLocation != f.LogLocation {
		return fmt.Errorf("a database with its log in %s was begun in %s, and not made: name that as the bucket for the log, and it goes on; or empty both",
			stands.LogLocation, main.Properties().Location)
	}
	*f = *stands
	if stands, err = claim(ctx, log, f); err == nil && stands.Database != f.Database {
		err = othersLog(log, stands)
	}
	return err
}

// claim puts the claim of a database, and returns the one that stands.
func claim(ctx context.Context, b bucket.Bucket, f *Format) (*Format, error) {
	data := f.encode()
	err := bucket.Retrying(ctx, func() error { return b.PutIfAbsent(ctx, ClaimName, data) })
	if err != nil && !errors.Is(err, bucket.ErrExist) {
		return nil, err
	}
	return readFormat(ctx, b, ClaimName)
}

func othersLog(log bucket.Bucket, owner *Format) error {
	return fmt.Errorf("%s is for the log of another database, %s: choose another bucket, directory or prefix for the log",
		log.Properties().Location, owner.Database)
}

// LogLocation returns where a database in a bucket has its log, if that is in a
// bucket of its own, else nothing. The error is ErrNoDatabase where there is none.
func LogLocation(ctx context.Context, main bucket.Bucket) (string, error) {
	f, err := readFormat(ctx, main, FormatName)
	if err != nil {
		return "", err
	}
	return f.LogLocation, nil
}

// WithLog returns the bucket of a database with that of its log, if the format says
// that it is in one of its own, which open opens; otherwise main itself. Whatever
// else is in main, or nothing, is left to those who read it.
func WithLog(ctx context.Context, main bucket.Bucket, open func(ctx context.Context, location string) (bucket.Bucket, error)) (bucket.Bucket, error) {
	f, err := readFormat(ctx, main, FormatName)
	if errors.Is(err, ErrNoDatabase) || errors.Is(err, zodb.ErrCorrupt) || errors.Is(err, zodb.ErrNewerFormat) {
		return main, nil
	}
	if err != nil {
		return nil, err
	}
	if f.LogLocation == "" {
		return main, nil
	}
	fail := func(err error) (bucket.Bucket, error) {
		return nil, fmt.Errorf("database %s in %s has its log in %s: %w", f.Database, main.Properties().Location, f.LogLocation, err)
	}
	log, err := open(ctx, f.LogLocation)
	if err != nil {
		return fail(fmt.Errorf("%w\nsee that it can be reached from here under that name; without it the database cannot be opened", err))
	}
	claimed, err := readFormat(ctx, log, ClaimName)
	switch {
	case errors.Is(err, ErrNoDatabase):
		return fail(fmt.Errorf("the object %s is missing there: it is another bucket, or was emptied; put back the bucket of the log, "+
			"from a copy or from earlier versions of its objects", ClaimName))
	case err != nil:
		return fail(err)
	case claimed.Database != f.Database:
		return fail(fmt.Errorf("that is for the log of another database, %s: put the right bucket back in its place", claimed.Database))
	}
	return bucket.Split(main, log), nil
}
