// Package lease says which node may lead, as far as some system outside this
// program grants it.
//
// Safety does not rest on a lease but on the log alone (invariant I5 of
// doc/design.md). A lease only keeps two nodes from fighting over epochs. So a
// leader that cannot reach its lease system goes on leading until another node
// seals its epoch, and nobody new leads meanwhile. A node calls Acquire only
// when it has reason to believe that nobody leads: waiting may cost requests.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"s3storage/internal/bucket"
)

// DefaultTimeout is how long after its last sign of life a holder has lost the
// lease, unless Options say otherwise.
const DefaultTimeout = 5 * time.Second

// ErrLocation: a lease cannot be opened by what its location says.
var ErrLocation = errors.New("not a location of a lease")

// A Holder is a node that holds a lease. The zero value is nobody, as far as is
// known.
type Holder struct {
	Node, Address string
	Since         time.Time // by the clock of that node
}

// A Lease is held by one node at a time, as long as the system that grants it
// is honest. Held and Holder may be called from any goroutine at any time, the
// other methods one at a time.
type Lease interface {
	// Acquire waits until this node may lead, takes the lease and keeps it in
	// the background until Release or Close. Trouble with reaching the system
	// is logged and waited out: an error is ctx's, or tells of something that
	// waiting does not mend.
	Acquire(ctx context.Context) error

	// Release lets another node acquire the lease at once. It does nothing if
	// this node does not hold it. If it fails, the lease runs out by itself.
	Release(ctx context.Context) error

	// Held tells whether this node holds the lease, as far as it knows. It
	// stays true while the system cannot be reached.
	Held() bool

	// Holder tells who holds the lease.
	Holder(ctx context.Context) (Holder, error)

	// Close stops the background work; the lease runs out by itself.
	Close() error

	// String names the lease for people, without secrets.
	String() string
}

// Options are what leases of all kinds need to know.
type Options struct {
	Database [16]byte      // several databases may share a system
	Node     string        // this node's name, at most 255 bytes
	Address  string        // where it is reached, at most 255 bytes; another node has another name or address
	Bucket   bucket.Bucket // of the database
	Logger   *slog.Logger
	Timeout  time.Duration // until a silent holder has lost the lease; 0: DefaultTimeout
}

// Open returns the lease at a location: "bucket", an object in the bucket of
// the database; postgres://user:password@host:port/database; or "none", which every node holds that wants to, for a server
// that is alone.
func Open(_ context.Context, location string, o Options) (Lease, error) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if len(o.Node) > maxText || len(o.Address) > maxText {
		return nil, fmt.Errorf("open the lease: the name or address of this node is longer than %d bytes", maxText)
	}
	switch location {
	case "bucket":
		return newInBucket(o), nil
	case "none":
		return &alone{options: o}, nil
	}
	if strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://") {
		return newInPostgres(location, o)
	}
	// The location may hold a password, so it is not repeated.
	return nil, fmt.Errorf("open the lease: %w; use bucket, postgres://... or none", ErrLocation)
}
