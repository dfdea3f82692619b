package txlog

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/fileformat"
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
}

func (f *Format) encode() []byte {
	b := fileformat.AppendStart(nil, formatMagic, formatVersion, len(f.Creator))
	b = append(b, f.Database[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(f.Created.Unix()))
	b = append(b, f.Creator...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// DecodeFormat reads the format object.
func DecodeFormat(b []byte) (*Format, error) {
	r, count, _, err := fileformat.Open(FormatName, b, formatMagic, formatVersion, formatFixedSize)
	if err != nil {
		return nil, err
	}
	f := &Format{Database: r.ID()}
	f.Created = time.Unix(int64(r.Uint64()), 0).UTC()
	f.Creator = string(r.Bytes(uint32(count)))
	return f, r.End()
}

// ErrNoDatabase says that a bucket holds no database.
var ErrNoDatabase = errors.New("there is no s3storage database")

// ReadFormat reads the format object of a bucket. The error is ErrNoDatabase
// where there is none.
func ReadFormat(ctx context.Context, b bucket.Bucket) (*Format, error) {
	var f *Format
	err := bucket.Rereading(ctx, func() error {
		data, err := b.Get(ctx, FormatName, maxFormatSize)
		if errors.Is(err, bucket.ErrNotExist) {
			f = nil
			return nil // an answer
		}
		if errors.Is(err, bucket.ErrTooLarge) {
			return fmt.Errorf("%s holds an object named %q, but it is not s3storage's: choose an empty bucket, directory or prefix",
				b.Properties().Location, FormatName)
		}
		if err != nil {
			return err
		}
		f, err = DecodeFormat(data)
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

// Create makes a bucket the home of a new database, once it has shown that it
// tells the winner of a race from the losers (invariant I2). A bucket in which
// there are other objects is refused. If somebody else was faster, it is their
// database.
func Create(ctx context.Context, b bucket.Bucket, creator string, now time.Time) (*Format, error) {
	found := errors.New("found")
	err := bucket.Rereading(ctx, func() error {
		return b.List(ctx, "", "", func(i bucket.Info) error {
			if strings.HasPrefix(i.Name, bucket.ProbePrefix) {
				return nil // somebody else is about to create a database, or once was
			}
			return fmt.Errorf("%w: %s", found, i.Name)
		})
	})
	if errors.Is(err, found) {
		// Another server may just have been faster.
		if f, err := ReadFormat(ctx, b); err == nil {
			return f, nil
		}
		return nil, fmt.Errorf("%s holds no s3storage database, but it is not empty (%w): choose an empty bucket, directory or prefix",
			b.Properties().Location, err)
	}
	if err != nil {
		return nil, err
	}
	if err := bucket.Probe(ctx, b); err != nil {
		return nil, err
	}
	f := &Format{Created: now.UTC().Truncate(time.Second), Creator: creator}
	_, _ = rand.Read(f.Database[:]) // never fails: crypto/rand
	err = bucket.Retrying(ctx, func() error {
		err := b.PutIfAbsent(ctx, FormatName, f.encode())
		if errors.Is(err, bucket.ErrExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return ReadFormat(ctx, b)
}
