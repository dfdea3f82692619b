package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"s3storage/internal/bucket"
)

// ErrUnknown says that a catalog has no bucket of that name.
var ErrUnknown = errors.New("the catalog does not know this bucket")

// A Catalog is a database in PostgreSQL in which the objects of any number of
// buckets are listed. Its methods may be called from any goroutine.
type Catalog struct {
	pool   *pgxpool.Pool
	writes *pgxpool.Pool // for what keeps a connection, and the lock of a row, while it writes to the store
}

const (
	// connections is how many there are to PostgreSQL at a time, at most, besides
	// those that keep a lock.
	connections = 8

	connectTimeout = 5 * time.Second

	// lockTime is after how long PostgreSQL ends a session that keeps a lock and
	// says nothing.
	lockTime = copyTime + 30*time.Second
)

// keepAlive finds connections whose other end is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}

// Connect connects to the catalog at a location, postgres://user@host:port/database.
func Connect(ctx context.Context, location string) (*Catalog, error) {
	config, err := pgxpool.ParseConfig(location)
	if err != nil || !strings.HasPrefix(location, "postgres://") && !strings.HasPrefix(location, "postgresql://") {
		// The location may hold a password, so nothing of it is said.
		return nil, errors.New("open the catalog: that is no location of one; use the form postgres://user@host:port/database")
	}
	config.MaxConns = connections
	conn := config.ConnConfig
	conn.ConnectTimeout = connectTimeout
	conn.DialFunc = (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext
	conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	for name, value := range map[string]string{
		"application_name":                    "s3storage catalog",
		"idle_in_transaction_session_timeout": fmt.Sprint(lockTime.Milliseconds()),
		"synchronous_commit":                  "on",
		"default_transaction_isolation":       "read committed",
	} {
		conn.RuntimeParams[name] = value
	}
	config.BeforeConnect = noCancels
	c := &Catalog{}
	if c.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open the catalog: %w", err)
	}
	config = config.Copy()
	config.MaxConns = copiers
	if c.writes, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		c.pool.Close()
		return nil, fmt.Errorf("open the catalog: %w", err)
	}
	if err := c.prepare(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("open the catalog in the PostgreSQL database %s at %s:%d: %w", conn.Database, conn.Host, conn.Port, err)
	}
	return c, nil
}

// noCancels has a connection send no requests to cancel, as pgx does when a context
// ends: PostgreSQL would end the wait for a synchronous standby, and show to others what
// no standby has.
func noCancels(_ context.Context, config *pgx.ConnConfig) error {
	var connected atomic.Bool
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if connected.Load() {
			return nil, errors.New("no requests to cancel are sent")
		}
		return dial(ctx, network, address)
	}
	config.AfterConnect = func(context.Context, *pgconn.PgConn) error {
		connected.Store(true)
		return nil
	}
	return nil
}

// Close closes the connections. The buckets have to be closed before.
func (c *Catalog) Close() {
	c.writes.Close()
	c.pool.Close()
}

// Open returns a bucket that the catalog knows by a name, whose objects are in a
// store. The error is ErrUnknown where it knows none of that name.
func (c *Catalog) Open(ctx context.Context, store bucket.Bucket, name string) (*Bucket, error) {
	b := &Bucket{catalog: c, store: store, name: name}
	var v int
	err := c.pool.QueryRow(ctx, `SELECT id, version FROM s3storage_bucket WHERE name = $1`, name).Scan(&b.id, &v)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("%w: %s", ErrUnknown, name)
	case err != nil:
		return nil, fmt.Errorf("open %s in the catalog: %w", name, err)
	case v != version:
		return nil, fmt.Errorf("open %s in the catalog: its tables are of version %d, this program knows %d; upgrade it", name, v, version)
	}
	b.begin()
	return b, nil
}

// Create has the catalog know a bucket by a name, with that propagation time, and
// returns it. If it knows it already, nothing changes.
func (c *Catalog) Create(ctx context.Context, store bucket.Bucket, name string, propagation time.Duration) (*Bucket, error) {
	_, err := c.pool.Exec(ctx, `INSERT INTO s3storage_bucket (name, version, propagation) VALUES ($1, $2, $3)
		ON CONFLICT DO NOTHING`, name, version, propagation)
	if err != nil {
		return nil, fmt.Errorf("make %s known to the catalog: %w", name, err)
	}
	return c.Open(ctx, store, name)
}

// SetPropagation sets Tp from now on, for all who use the bucket.
func (b *Bucket) SetPropagation(ctx context.Context, tp time.Duration) error {
	_, err := b.catalog.pool.Exec(ctx, `UPDATE s3storage_bucket SET propagation = $2 WHERE id = $1 AND propagation <> $2`, b.id, tp)
	if err != nil {
		err = fmt.Errorf("set the propagation time of %s in the catalog: %w", b.name, err)
	}
	return err
}

// failure returns the error of an operation that PostgreSQL has failed: of wrong
// users, passwords, databases and missing rights (the classes 28, 3D and 42) it is
// ErrDenied, of all others the outcome is unknown.
func (b *Bucket) failure(k bucket.Kind, name string, err error) error {
	if inStore := (*bucket.Error)(nil); errors.As(err, &inStore) {
		return err // the store has failed
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		for _, class := range []string{"28", "3D", "42"} {
			if strings.HasPrefix(answer.Code, class) {
				err = fmt.Errorf("%w: %w", bucket.ErrDenied, err)
				break
			}
		}
	}
	return bucket.NewError(b, k, name, fmt.Errorf("the catalog: %w", err))
}
