package bucket

import (
	"context"
	"io"
	"strings"
	"time"
)

// split is a bucket made of two.
type split struct{ main, log Bucket }

// Split returns a bucket whose log is kept in another one than the rest: the
// objects below log/ and checkpoint/ and the object head are in log, all others
// in main. What one of the two holds of the other's names is not seen. The
// location is main's, with that of log beside it; it is durable if both are. Now
// is the time of main. An error names the bucket in which something failed.
func Split(main, log Bucket) Bucket { return &split{main: main, log: log} }

// logRanges are the names of what is in the log's bucket, in byte order: all that
// begin with one of these if that ends with a slash, else the name itself.
var logRanges = []string{"checkpoint/", "head", "log/"}

// inLog tells whether an object of that name is in the log's bucket.
func inLog(name string) bool {
	for _, r := range logRanges {
		if name == r || strings.HasSuffix(r, "/") && strings.HasPrefix(name, r) {
			return true
		}
	}
	return false
}

// of returns the bucket for an object of that name.
func (s *split) of(name string) Bucket {
	if inLog(name) {
		return s.log
	}
	return s.main
}

// Properties implements Bucket.
func (s *split) Properties() Properties {
	main, log := s.main.Properties(), s.log.Properties()
	return Properties{Location: main.Location, Log: log.Location, Durable: main.Durable && log.Durable}
}

// PutIfAbsent implements Bucket.
func (s *split) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return s.of(name).PutIfAbsent(ctx, name, data)
}

// Put implements Bucket.
func (s *split) Put(ctx context.Context, name string, data []byte) error {
	return s.of(name).Put(ctx, name, data)
}

// PutStream implements Bucket.
func (s *split) PutStream(ctx context.Context, name string, r io.Reader) error {
	return s.of(name).PutStream(ctx, name, r)
}

// Get implements Bucket.
func (s *split) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	return s.of(name).Get(ctx, name, limit)
}

// GetRange implements Bucket.
func (s *split) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	return s.of(name).GetRange(ctx, name, offset, n)
}

// List implements Bucket. It shows what is in main, and before the first name
// there that comes after one of the log's ranges, that range of log.
func (s *split) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	ranges := logRanges
	show := func(before string) error {
		for len(ranges) > 0 && (before == "" || ranges[0] < before) {
			r := ranges[0]
			ranges = ranges[1:]
			within := strings.HasPrefix(prefix, r)
			if !within && !strings.HasPrefix(r, prefix) || after > r && !strings.HasPrefix(after, r) {
				continue
			}
			narrow := r
			if within {
				narrow = prefix
			}
			err := s.log.List(ctx, narrow, after, func(i Info) error {
				if !inLog(i.Name) {
					return nil
				}
				return fn(i)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if !strings.HasPrefix(prefix, "log/") && !strings.HasPrefix(prefix, "checkpoint/") { // else there is nothing of main's
		err := s.main.List(ctx, prefix, after, func(i Info) error {
			if inLog(i.Name) {
				return nil
			}
			if err := show(i.Name); err != nil {
				return err
			}
			return fn(i)
		})
		if err != nil {
			return err
		}
	}
	return show("")
}

// Delete implements Bucket.
func (s *split) Delete(ctx context.Context, name string) error {
	return s.of(name).Delete(ctx, name)
}

// Now implements Bucket.
func (s *split) Now(ctx context.Context) (time.Time, error) { return s.main.Now(ctx) }

// CleanUp implements Bucket. It cleans both.
func (s *split) CleanUp(ctx context.Context, olderThan time.Duration) (int, error) {
	n, err := s.main.CleanUp(ctx, olderThan)
	if err != nil {
		return n, err
	}
	m, err := s.log.CleanUp(ctx, olderThan)
	return n + m, err
}
