package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/engine"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

type serveCmd struct {
	Bucket  string            `placeholder:"BUCKET" help:"Bucket of the storage named 1. Made if it is a directory that does not exist. Default: ./data, or none with --storage."`
	Storage map[string]string `placeholder:"NAME=BUCKET" mapsep:"none" help:"Serve another database under this name. May be given several times."`
	Listen  []string          `placeholder:"ADDRESS" sep:"none" default:"127.0.0.1:8100" help:"HOST:PORT, [IPv6]:PORT, :PORT for all interfaces, or a path (or unix:PATH) for a socket. May be given several times. Default: ${default}."`

	ReadOnly       bool       `help:"Nobody may write or pack. The server still takes over its buckets, like every other: it is no replica beside one that writes."`
	At             *momentArg `placeholder:"MOMENT" help:"With --read-only: serve the databases as they were then. Writes nothing, and may run beside a server, until that has packed to a later time or restored an earlier state: only a snapshot outlasts that."`
	ListenReadOnly []string   `placeholder:"ADDRESS" sep:"none" help:"One more address, for clients that may only read and must not pack. May be given several times."`

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
  s3storage serve --bucket 's3://b/site?endpoint=http://127.0.0.1:9000&region=us-east-1&path-style=true'
  s3storage serve --storage main=s3://my-bucket/main --storage temp=mem://
  s3storage serve --listen :8100 --tls-cert zeo.pem --tls-key zeo-key.pem --tls-client-ca clients.pem

One server at a time writes to a bucket. A second one takes over: the first says
so in its log and takes no more writes; no transaction is lost.

SIGTERM stops the server in order: transactions that were voted may finish, and
blobs that are being sent get to their ends. A pack is given up, and drops nothing
unless it was about to end.
SIGHUP, with --tls-cert, has it read all files of TLS again, for new connections.

A client that may only read gets ReadOnlyError unless its configuration says
read-only or read-only-fallback.`
}

// storageName is the name that clients register with unless told otherwise.
const storageName = "1"

// A served database.
type database struct {
	engine *engine.Engine
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
	if c.At != nil && !c.ReadOnly {
		return errors.New("--at shows the past, which nobody can write to: give --read-only as well, or make a branch")
	}
	misled := make(chan error, 1)
	databases, err := c.open(ctx, logger, doors[0].listener.Addr(), misled)
	if err != nil {
		return err
	}
	storages := make(map[string]zodb.Storage)
	for name, db := range databases {
		storages[name] = db.engine
	}
	encoding := zeo.Z5
	if c.Msgpack {
		encoding = zeo.M5
	}
	server := zeo.NewServer(storages, zeo.Options{
		Logger:             logger,
		Encoding:           encoding,
		MaxFrame:           int(c.MaxFrame),
		MaxConnections:     c.MaxConnections,
		TransactionTimeout: time.Duration(c.TransactionTimeout),
	})
	failed := make(chan error, len(doors))
	for _, d := range doors {
		go func() { failed <- server.Serve(d.listener, d.access) }()
	}
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
		case serveErr = <-misled:
			logger.Error("stopping", "err", serveErr)
			running = false
		}
	}
	stop() // a second signal ends the process at once
	return errors.Join(serveErr, c.stop(server, databases, logger))
}

// stop ends the service in order.
func (c *serveCmd) stop(server *zeo.Server, databases map[string]database, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.StopTimeout))
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		logger.Warn("the time to stop is over: clients were cut off in the midst of a transaction or a blob, or a pack went on", "err", err)
	}
	var errs []error
	for name, db := range databases {
		errs = append(errs, db.engine.Close(ctx))
		attrs := []any{"storage", name, "commits", db.engine.Stats().Commits}
		for k, s := range db.bucket.Snapshot().Kinds {
			if s.Count > 0 {
				attrs = append(attrs, bucket.Kind(k).String(), s.Count)
			}
		}
		logger.Info("closed database", attrs...)
	}
	return errors.Join(errs...)
}

// open opens all databases, or none. misled gets an error when clients may have
// cached what is not true.
func (c *serveCmd) open(ctx context.Context, logger *slog.Logger, addr net.Addr, misled chan<- error) (map[string]database, error) {
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
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	injected, err := faults.Parse(c.Inject)
	if err != nil {
		return nil, fmt.Errorf("--inject: %w", err)
	}
	databases := make(map[string]database)
	for name, location := range locations {
		b, err := openBucket(ctx, location, c.At == nil)
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
			Node:         fmt.Sprintf("%s, process %d, %s", host, os.Getpid(), addr),
			Creator:      "s3storage " + version,
			OpenBucket:   openExisting,
			OnMisled: func() {
				select {
				case misled <- fmt.Errorf("another server has taken %s back to an earlier state, or has written so much that this one "+
					"could not follow: clients have to check what they have cached, which they do when they connect again; "+
					"start the server again", location):
				default:
				}
			},
			Logger: logger.With("storage", name),
		}
		open := engine.Open
		if c.At != nil {
			opts.At, open = c.At.Moment, engine.OpenReadOnly
		}
		e, err := open(ctx, observed, opts)
		if errors.Is(err, bucket.ErrDenied) {
			err = fmt.Errorf("%w\na server must be allowed to read, write, list and delete objects in its bucket", err)
		}
		if err != nil {
			return nil, err
		}
		databases[name] = database{e, observed}
	}
	return databases, nil
}

func (c *serveCmd) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked by the enum
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
