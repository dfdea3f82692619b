package txlog

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// FormatName is the name of the object that says what a bucket holds.
const FormatName = "format"

const (
	formatFixedSize = 40
	maxFormatSize   = 64 << 10
)

// A Format says which database a bucket holds.
type Format struct {
	Database DatabaseID
	Created  time.Time // to the second
	Creator  string    // name and version of the program

	// LogLocation says where the log is if it is in a bucket of its own, in a
	// way that means the same wherever it is read. Otherwise it is empty.
	LogLocation string

	// Parent says, for people, which database this one is a branch of.
	Parent string

	// Catalog is the name that the bucket has in the catalog that lists its
	// objects, as in bucket.Properties. Otherwise it is empty.
	Catalog string
}

// The names of the fields that a format object need not have, and where they are
// kept, in the order in which they are written.
func (f *Format) fields() []formatField {
	return []formatField{{"log", &f.LogLocation}, {"parent", &f.Parent}, {"catalog", &f.Catalog}}
}

type formatField struct {
	name  string
	value *string
}

func (f *Format) encode() []byte {
	b := fileformat.AppendStart(nil, formatMagic, formatVersion, len(f.Creator))
	b = append(b, f.Database[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(f.Created.Unix()))
	b = append(b, f.Creator...)
	fields := slices.DeleteFunc(f.fields(), func(f formatField) bool { return *f.value == "" })
	b = binary.BigEndian.AppendUint32(b, uint32(len(fields)))
	for _, field := range fields {
		b = fileformat.AppendBytes(b, []byte(field.name))
		b = fileformat.AppendBytes(b, []byte(*field.value))
	}
	return fileformat.AppendSum(b)
}

// decodeFormat reads the format object, or a claim, which is the same.
func decodeFormat(name string, b []byte) (*Format, error) {
	r, count, _, err := fileformat.Open(name, b, formatMagic, formatVersion, formatFixedSize)
	if err != nil {
		return nil, err
	}
	f := &Format{Database: r.ID()}
	f.Created = time.Unix(int64(r.Uint64()), 0).UTC()
	f.Creator = string(r.Bytes(uint32(count)))
	known := f.fields()
	for n := r.Uint32(); n > 0 && r.Err() == nil; n-- {
		field, value := string(r.Bytes(r.Uint32())), string(r.Bytes(r.Uint32()))
		if r.Err() != nil {
			break
		}
		i := slices.IndexFunc(f.fields(), func(f formatField) bool { return f.name == field })
		if i < 0 {
			return nil, fmt.Errorf("%s: unknown field %q: %w; upgrade this program", name, field, zodb.ErrNewerFormat)
		}
		i = slices.IndexFunc(known, func(f formatField) bool { return f.name == field })
		if i < 0 || value == "" {
			return nil, r.Corrupt("the field %q is empty, or not in its place", field)
		}
		*known[i].value = value
		known = known[i+1:]
	}
	return f, r.End()
}

// ErrNoDatabase says that a bucket holds no database.
var ErrNoDatabase = errors.New("there is no s3storage database")

// ReadFormat reads the format object of a bucket. The error is ErrNoDatabase
// where there is none. If the log is in a bucket of its own, b has to be one that
// WithLog has opened; if the objects are in a catalog, one that knows it.
func ReadFormat(ctx context.Context, b bucket.Bucket) (*Format, error) {
	f, err := readFormat(ctx, b, FormatName)
	if err != nil {
		return nil, err
	}
	if p := b.Properties(); (p.Log == "") != (f.LogLocation == "") {
		return nil, fmt.Errorf("%s has become a database with its log in %q while it was being opened with its log in %q: start again",
			p.Location, f.LogLocation, p.Log)
	}
	if p := b.Properties(); p.Catalog == "" && f.Catalog != "" {
		return nil, needsCatalog(p.Location, f)
	} else if p.Catalog != f.Catalog {
		return nil, fmt.Errorf("%s is known to the catalog as %q, but its format says %q: it is not the bucket that the catalog means; put that back in its place",
			p.Location, p.Catalog, f.Catalog)
	}
	return f, nil
}

// readFormat reads the format object, or a claim.
func readFormat(ctx context.Context, b bucket.Bucket, name string) (*Format, error) {
	var f *Format
	err := bucket.Rereading(ctx, func() error {
		data, err := b.Get(ctx, name, maxFormatSize)
		if errors.Is(err, bucket.ErrNotExist) {
			f = nil
			return nil // an answer
		}
		if errors.Is(err, bucket.ErrTooLarge) {
			return fmt.Errorf("%s holds an object named %q, but it is not s3storage's: choose an empty bucket, directory or prefix",
				b.Properties().Location, name)
		}
		if err != nil {
			return err
		}
		f, err = decodeFormat(name, data)
		if err != nil {
			return fmt.Errorf("%s: %w", b.Properties().Location, err)
		}
		return nil
	})
	if err == nil && f == nil {
		err = fmt.Errorf("%w in %s", ErrNoDatabase, b.Properties().Location)
	}
	return f, err
}

// Create makes a bucket the home of a new database like the template, with an id
// of its own, once the bucket has shown that it tells the winner of a race from
// the losers (invariant I2). A bucket in which there are other objects is refused.
// If somebody else was faster, it is their database.
func Create(ctx context.Context, b bucket.Bucket, template Format) (*Format, error) {
	f := template
	_, _ = rand.Read(f.Database[:]) // never fails: crypto/rand
	nothing := func(string) bool { return false }
	if err := create(ctx, b, &f, nothing, func() error { return nil }); err != nil {
		return nil, err
	}
	return ReadFormat(ctx, b)
}

// create does what CreateFilled does. If somebody else was faster, it is their
// database, and no error.
func create(ctx context.Context, b bucket.Bucket, f *Format, begun func(name string) bool, fill func() error) error {
	err := CreateFilled(ctx, b, f, begun, fill)
	if errors.Is(err, ErrTaken) {
		if _, readErr := readFormat(ctx, b, FormatName); readErr == nil {
			return nil
		}
	}
	return err
}

// CreateFilled makes a bucket the home of the database f, as Create does, but one
// that is not empty: fill writes what belongs to it, and may change f. Only then is
// the bucket a database, so nobody sees half of it. Objects that an earlier try may
// have left there, as begun tells of their names, are let alone. The error is
// ErrTaken if there are others, or somebody else was faster.
func CreateFilled(ctx context.Context, b bucket.Bucket, f *Format, begun func(name string) bool, fill func() error) error {
	if err := refuseOthers(ctx, b, begun); err != nil {
		return err
	}
	if err := bucket.Probe(ctx, b); err != nil {
		return err
	}
	if err := fill(); err != nil {
		return err
	}
	f.Created = f.Created.UTC().Truncate(time.Second)
	f.Catalog = b.Properties().Catalog
	data := f.encode()
	err := bucket.Retrying(ctx, func() error { return b.PutIfAbsent(ctx, FormatName, data) })
	if !errors.Is(err, bucket.ErrExist) {
		return err
	}
	// Somebody else was faster, or an earlier try of this.
	theirs, err := readFormat(ctx, b, FormatName)
	if err == nil && theirs.Database != f.Database {
		err = takenBy(b, FormatName)
	}
	return err
}

// refuseOthers returns an error that wraps ErrTaken if there is anything in a bucket
// but what is begun there.
func refuseOthers(ctx context.Context, b bucket.Bucket, begun func(name string) bool) error {
	there, stop := "", errors.New("there is something")
	err := bucket.Rereading(ctx, func() error {
		err := b.List(ctx, "", "", func(i bucket.Info) error {
			if strings.HasPrefix(i.Name, bucket.ProbePrefix) || begun(i.Name) {
				return nil // somebody else is about to create a database, or once was
			}
			there = i.Name
			return stop
		})
		if errors.Is(err, stop) {
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if there != "" {
		return takenBy(b, there)
	}
	return nil
}

// ErrTaken says that there is something in a bucket already, which is no part of
// what was to be created there.
var ErrTaken = errors.New("choose an empty bucket, directory or prefix")

func takenBy(b bucket.Bucket, name string) error {
	return fmt.Errorf("%s is not empty (it holds %s): %w", b.Properties().Location, name, ErrTaken)
}
