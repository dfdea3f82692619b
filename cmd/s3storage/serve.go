package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/engine"
	"s3storage/internal/lease"
	"s3storage/internal/node"
	"s3storage/internal/txlog"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

type serveCmd struct {
	Bucket  string            `placeholder:"BUCKET" help:"Bucket of the storage named 1. Made if it is a directory that does not exist. Default: ./data, or none with --storage."`
	Storage map[string]string `placeholder:"NAME=BUCKET" mapsep:"none" help:"Serve another database under this name. May be given several times."`
	Listen  []string          `placeholder:"ADDRESS" sep:"none" default:"127.0.0.1:8100" help:"HOST:PORT, [IPv6]:PORT, :PORT for all interfaces, or a path (or unix:PATH) for a socket. May be given several times. Default: ${default}."`

	LogBucket string `placeholder:"BUCKET" help:"A bucket for the log alone, fast where the other is cheap. The database in --bucket is made with it, and then knows where it is."`

	Lease     string `placeholder:"LEASE" default:"bucket" help:"Who says which of the servers of a database may write: bucket, postgres://USER:PASSWORD@HOST/DATABASE, memcached://HOST:PORT, sqs+https://.../NAME.fifo, or none for a server that is alone. All servers need the same. See doc/leases.md. Default: ${default}."`
	Advertise string `placeholder:"HOST:PORT" help:"Where other servers of the same databases reach this one. Default: the first --listen, with this machine's name in the place of all interfaces. none: nowhere."`

	ReadOnly       bool       `help:"Nobody may write or pack by this server. It follows the one that writes, and never becomes it."`
	At             *momentArg `placeholder:"MOMENT" help:"With --read-only: serve the databases as they were then. Writes nothing, and may run beside a server, until that has packed to a later time or restored an earlier state: only a snapshot outlasts that."`
	ListenReadOnly []string   `placeholder:"ADDRESS" sep:"none" help:"One more address, for clients that may only read and must not pack. May be given several times."`

	HTTP string `name:"http" placeholder:"HOST:PORT" help:"Serve /healthz, /readyz and /metrics there, without TLS, and /debug/pprof to clients on this machine. Default: do not."`

	TLS tlsFlags `embed:"" prefix:"tls-"`

	Msgpack            bool     `help:"Speak msgpack with clients instead of pickles. Every client must have the Python package msgpack."`
	Memory             byteSize `default:"64MiB" help:"Memory for what was read from the bucket, for each database; what was committed lately comes on top, some 32 MiB. Default: ${default}."`
	CacheDir           string   `placeholder:"DIRECTORY" help:"Keep what was read from the bucket on local disk, in this directory. Default: do not."`
	CacheSize          byteSize `default:"1GiB" help:"How much of the disk that may take, for each database. Default: ${default}."`
	MaxFrame           byteSize `default:"256MiB" help:"Largest message taken from a client, hence the largest object. Default: ${default}."`
	MaxConnections     int      `default:"0" help:"How many clients may be connected at a time. Default: any number."`
	TransactionTimeout duration `help:"How long a client may take from its vote to the end of the transaction. If it takes longer, its connection is closed and the transaction aborted. Default: for ever."`
	PackGrace          grace    `default:"15m" help:"For how long clients can still read what a pack has dropped; then its space is freed. Default: ${default}."`
	NoPackGC           bool     `name:"no-pack-gc" help:"Packs drop old revisions only and keep objects that cannot be reached from the root: for databases that others of a multi-database refer to."`
	StopTimeout        duration `default:"30s" help:"When the server is told to stop: how long clients that have voted may take to finish, and blobs that are being sent to get to their ends. Default: ${default}."`

	LogFormat string `enum:"text,json" default:"text" help:"text or json. Default: ${default}."`
	LogLevel  string `enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error. Default: ${default}."`

	FlushBytes   byteSize `hidden:"" default:"16MiB" help:"Bytes of the log that are written out as a segment, for tests."`
	FlushObjects int      `hidden:"" default:"1024" help:"Likewise, log objects."`
	SweepAfter   duration `hidden:"" default:"10m" help:"How long after the start the first sweep comes, for tests."`

	Inject string `hidden:"" help:"Faults to inject into every bucket, for tests: see internal/buckettest/faults."`
}

func (*serveCmd) Help() string {
	return `Clients connect with the <zeoclient> section that is printed at the start.

  s3storage serve
  s3storage serve --bucket /var/lib/zodb --listen :8100 --listen /run/zodb.sock
  s3storage serve --bucket s3://my-bucket/site
  s3storage serve --bucket s3://my-bucket/site --log-bucket s3://my-fast-bucket--use1-az4--x-s3/site
  s3storage serve --bucket 's3://b/site?endpoint=http://127.0.0.1:9000&region=us-east-1&path-style=true'
  s3storage serve --storage main=s3://my-bucket/main --storage temp=mem://
  s3storage serve --listen :8100 --tls-cert zeo.pem --tls-key zeo-key.pem --tls-client-ca clients.pem

Any number of servers can serve one bucket: one leads, the others follow it and pass
writes on. Clients connect to any of them, or are given several. If the one that leads
is lost, another one leads within seconds, and no transaction that was acknowledged is
lost.

SIGTERM stops the server in order: transactions that were voted may finish, and
blobs that are being sent get to their ends. A pack is given up, and drops nothing
unless it was about to end. A server that leads hands over to another one.
SIGHUP, with --tls-cert, has it read all files of TLS again, for new connections.

A client that may only read gets ReadOnlyError unless its configuration says
read-only or read-only-fallback.`
}

// storageName is the name that clients register with unless told otherwise.
const storageName = "1"

// A served database.
type database struct {
	storage interface {
		zodb.Storage
		Work() engine.Work
		Close(context.Context) error
	}
	node   *node.Node // nil for one that shows the past
	bucket *bucket.Observed
}

// Run implements the subcommand.
func (c *serveCmd) Run() error {
	logger := c.logger()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()

	certificates, err := openTLS(&c.TLS, logger)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	if certificates != nil { // else it ends the process, as with other programs
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
	}
	doors, err := c.openDoors(certificates)
	if err != nil {
		return err
	}
	defer closeAll(doors)
	window, err := c.openHTTP()
	if err != nil {
		return err
	}
	defer window.close()
	if c.At != nil && !c.ReadOnly {
		return errors.New("--at shows the past, which nobody can write to: give --read-only as well, or make a branch")
	}
	var server atomic.Pointer[zeo.Server]
	misled := func(storage string) {
		logger.Warn("clients may have cached what is not true any more: they are cut off, and check it when they connect again", "storage", storage)
		if s := server.Load(); s != nil { // else there are no clients yet
			s.HangUp(storage)
		}
	}
	databases, err := c.open(ctx, logger, doors[0], certificates, misled)
	if err != nil {
		return err
	}
	storages := make(map[string]zodb.Storage)
	for name, db := range databases {
		storages[name] = db.storage
	}
	encoding := zeo.Z5
	if c.Msgpack {
		encoding = zeo.M5
	}
	s := zeo.NewServer(storages, zeo.Options{
		Logger:             logger,
		Encoding:           encoding,
		MaxFrame:           int(c.MaxFrame),
		MaxConnections:     c.MaxConnections,
		TransactionTimeout: time.Duration(c.TransactionTimeout),
	})
	server.Store(s)
	failed := make(chan error, len(doors))
	for _, d := range doors {
		go func() { failed <- s.Serve(d.listener, d.access) }()
	}
	window.serve(s, databases, logger)
	announce(os.Stdout, doors, databases)

	var serveErr error
	for running := true; running; {
		select {
		case <-hangup:
			certificates.reload()
		case <-ctx.Done():
			logger.Info("stopping: voted transactions may finish, and blobs be sent to their ends", "timeout", time.Duration(c.StopTimeout))
			running = false
		case serveErr = <-failed:
			logger.Error("cannot take connections any more; stopping", "err", serveErr)
			running = false
		}
	}
	stop() // a second signal ends the process at once
	return errors.Join(serveErr, c.stop(s, databases, logger))
}

// stop ends the service in order.
func (c *serveCmd) stop(server *zeo.Server, databases map[string]database, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.StopTimeout))
	defer cancel()
	for name, db := range databases {
		if db.node != nil && len(server.Followers(name)) > 0 {
			db.node.HandOver(ctx)
		}
	}
	if err := server.Shutdown(ctx); err != nil {
		logger.Warn("the time to stop is over: clients were cut off in the midst of a transaction or a blob, or a pack went on", "err", err)
	}
	var errs []error
	for name, db := range databases {
		errs = append(errs, db.storage.Close(ctx))
		attrs := []any{"storage", name, "commits", db.storage.Stats().Commits}
		for k, s := range db.bucket.Snapshot().Kinds {
			if s.Count > 0 {
				attrs = append(attrs, bucket.Kind(k).String(), s.Count)
			}
		}
		logger.Info("closed database", attrs...)
	}
	return errors.Join(errs...)
}

// open opens all databases, or none. misled is called when clients of a storage may
// have cached what is not true.
func (c *serveCmd) open(ctx context.Context, logger *slog.Logger, first door, certificates *tlsFiles, misled func(storage string)) (map[string]database, error) {
	locations := make(map[string]string)
	for name, location := range c.Storage {
		locations[name] = location
	}
	if c.Bucket != "" {
		if _, twice := locations[storageName]; twice {
			return nil, fmt.Errorf("--bucket and --storage %s=... both name a bucket for storage %s: give one", storageName, storageName)
		}
		locations[storageName] = c.Bucket
	}
	if len(locations) == 0 {
		locations[storageName] = "./data"
	}
	if _, there := locations[storageName]; c.LogBucket != "" && !there {
		return nil, errors.New("--log-bucket is for the database in --bucket: make one that is served by --storage with s3storage import --log-bucket, " +
			"or serve it once by --bucket; it needs no option then")
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	injected, err := faults.Parse(c.Inject)
	if err != nil {
		return nil, fmt.Errorf("--inject: %w", err)
	}
	databases := make(map[string]database)
	var all fleet
	for name, location := range locations {
		logBucket := ""
		if name == storageName {
			logBucket = c.LogBucket
		}
		b, err := openWithLog(ctx, location, logBucket, c.At == nil)
		if err != nil {
			return nil, err
		}
		if c.Inject != "" {
			b = faults.New(b, injected)
		}
		observed := bucket.Observe(b)
		if !observed.Properties().Durable {
			logger.Warn("this bucket is not durable: all data is gone when the server stops", "storage", name, "bucket", location)
		}
		opts := engine.Options{
			Memory:       uint64(c.Memory),
			CacheDir:     c.CacheDir,
			CacheSize:    int64(c.CacheSize),
			PackGrace:    time.Duration(c.PackGrace),
			NoPackGC:     c.NoPackGC,
			FlushBytes:   int(c.FlushBytes),
			FlushObjects: c.FlushObjects,
			SweepAfter:   time.Duration(c.SweepAfter),
			Node:         host,
			Address:      c.advertised(first.listener.Addr(), host),
			Creator:      "s3storage " + version,
			OpenBucket:   openFiles,
			OnMisled:     func() { misled(name) },
			Logger:       logger.With("storage", name),

			ReadDirectories: true,
		}
		db := database{bucket: observed}
		if c.At != nil {
			opts.At = c.At.Moment
			db.storage, err = engine.OpenReadOnly(ctx, observed, opts)
		} else {
			db.node, err = node.Open(ctx, observed, node.Options{
				Engine:     opts,
				Storage:    name,
				Dial:       certificates.dialer(first),
				Reluctance: all.reluctance,
				OpenLease:  func(id txlog.DatabaseID) (node.Lease, error) { return c.openLease(ctx, id, observed, &opts) },
			})
			db.storage = db.node
			if err == nil {
				all.add(db.node)
			}
		}
		if errors.Is(err, bucket.ErrDenied) {
			err = fmt.Errorf("%w\na server must be allowed to read, write, list and delete objects in its bucket", err)
		}
		if err != nil {
			return nil, err
		}
		databases[name] = db
	}
	return databases, nil
}

// A fleet is the nodes of all databases of this server.
type fleet struct {
	mu    sync.Mutex
	nodes []*node.Node
}

func (f *fleet) add(n *node.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = append(f.nodes, n)
}

// reluctance is for how long this server leaves it to others to lead a database whose
// leader is lost: the longer, the more databases it leads already. So leaders spread.
func (f *fleet) reluctance() (d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		if n.Status().Leads {
			d += perLed
		}
	}
	return min(d, mostReluctance)
}

const (
	perLed         = 300 * time.Millisecond
	mostReluctance = 2 * perLed
)

// advertised returns where other servers reach this one.
func (c *serveCmd) advertised(first net.Addr, host string) string {
	switch {
	case c.Advertise == "none":
		return ""
	case c.Advertise != "":
		return c.Advertise
	}
	tcp, ok := first.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return first.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// openLease opens the lease of a database. A server for reading never asks for one.
func (c *serveCmd) openLease(ctx context.Context, id txlog.DatabaseID, b bucket.Bucket, opts *engine.Options) (node.Lease, error) {
	if c.ReadOnly {
		return never{}, nil
	}
	return lease.Open(ctx, c.Lease, lease.Options{
		Database: id, Node: opts.Node, Address: opts.Address, Bucket: b, Logger: opts.Logger,
	})
}

// never is the lease of a server that must not lead.
type never struct{}

func (never) Acquire(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}
func (never) Release(context.Context) error { return nil }
func (never) Close() error                  { return nil }
func (never) String() string                { return "never, for this server is for reading only" }

func (c *serveCmd) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked by the enum
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
