// Package bucket says what a bucket is, as far as this program needs one, and
// keeps one in memory or in a directory.
//
// An object is a name and some bytes, written whole, in one step. Names are
// slash-separated paths of the characters a-z, 0-9, '-', '_' and '.', at most
// 200 bytes long; no element is empty or begins with '.'. No object is named as
// a directory that another lies in ("a" beside "a/b"): a store may refuse the
// second of the two.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Errors that a Bucket's methods wrap in an *Error. Any other error leaves the
// outcome of a write unknown: it may have happened, may never happen, or may
// still happen later.
var (
	// ErrNotExist: there is no object of that name.
	ErrNotExist = errors.New("no such object")

	// ErrExist: PutIfAbsent found an object of that name. It was not changed.
	ErrExist = errors.New("object exists")

	// ErrTooLarge: the object is larger than the caller is ready to read.
	ErrTooLarge = errors.New("object is larger than expected")

	// ErrNoBucket: the bucket itself does not exist or is not a bucket.
	ErrNoBucket = errors.New("no such bucket")

	// ErrDenied: the credentials or file permissions do not allow this.
	ErrDenied = errors.New("permission denied")

	// ErrBadName: no object can have that name, and nothing was done.
	ErrBadName = errors.New("not a name for an object")

	// ErrLost: there is an object of that name, but the store does not have its
	// bytes, or does not show them yet.
	ErrLost = errors.New("the store does not have an object that was written")
)

// An Error says which operation failed on which object of which bucket. It
// unwraps to its cause.
type Error struct {
	Op       string // "get", "put-if-absent", ...
	Location string // the bucket's, as in Properties: Location or Log
	Name     string // the object's; empty where the bucket as a whole is meant
	Err      error
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%s %s: %v", e.Op, e.Location, e.Err)
	}
	return fmt.Sprintf("%s %s in %s: %v", e.Op, e.Name, e.Location, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Properties tell what a bucket is.
type Properties struct {
	Location string // for people, and accepted by the command line: a path or URL, without secrets
	Log      string // the same of the bucket in which the log is, where that is another; else empty
	Catalog  string // the name that the bucket has in a catalog, where that says what objects there are; else empty
	Durable  bool   // whether objects outlive the process
}

// Info describes an object in a listing.
type Info struct {
	Name string
	Size int64
}

// A Bucket stores objects. All methods may be called from any number of
// goroutines, and by any number of processes on the same bucket. After a write
// returned nil, every later read and listing sees it (strong consistency), and
// it survives a crash of the machine if the bucket is durable. Nobody ever sees
// a part of an object. Methods return soon after ctx is done; a write whose
// call failed may still take effect later.
type Bucket interface {
	Properties() Properties

	// PutIfAbsent writes an object unless one of that name exists, in which
	// case the error is ErrExist. Of any number of concurrent calls for one
	// name at most one succeeds (invariant I1). data must not change until
	// it returns, nor afterwards if it returned an error.
	PutIfAbsent(ctx context.Context, name string, data []byte) error

	// Put writes an object, over an older one if there is one. data must not
	// change, as in PutIfAbsent.
	Put(ctx context.Context, name string, data []byte) error

	// PutStream writes an object of all the bytes of r, over an older one if
	// there is one, in memory that does not grow with their number. If r
	// fails, or ctx is done before r has ended, nothing is written: a name that
	// was free stays free, an older object stays as it is. The error then wraps
	// r's, or ctx's. An error after the end of r leaves the outcome unknown, as
	// one of Put does. What an unfinished write has left in the store is
	// removed, as far as that can be reached; else CleanUp finds it.
	//
	// r is read by one goroutine, never after PutStream has returned. A Read
	// that blocks keeps PutStream from returning, also when ctx is done.
	PutStream(ctx context.Context, name string, r io.Reader) error

	// Get reads an object of at most limit bytes, or fails with ErrNotExist
	// or ErrTooLarge. The caller may change what Get and GetRange return.
	Get(ctx context.Context, name string, limit int64) ([]byte, error)

	// GetRange reads n > 0 bytes from the offset on. It returns fewer, or
	// none at all, only where the object ends before.
	GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error)

	// List calls fn for every object whose name starts with prefix and comes
	// after the name after (empty for all), in the byte order of names, until
	// there are no more or fn returns an error, which List then returns.
	List(ctx context.Context, prefix, after string, fn func(Info) error) error

	// Delete removes an object. It is no error if there is none.
	Delete(ctx context.Context, name string) error

	// Now returns the store's own idea of the time, to a second or better.
	Now(ctx context.Context) (time.Time, error)

	// CleanUp removes what unfinished writes, begun or last written to at
	// least that long ago, have left in the store besides objects. It returns
	// how many there were. A write that is still under way fails if it is met,
	// so olderThan must be longer than any write takes.
	CleanUp(ctx context.Context, olderThan time.Duration) (int, error)
}
