package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
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

	Msgpack        bool     `help:"Speak msgpack with clients instead of pickles. Every client must have the Python package msgpack."`
	Memory         byteSize `default:"64MiB" help:"Data to keep in memory, for each database. Default: ${default}."`
	MaxFrame       byteSize `default:"256MiB" help:"Largest message taken from a client, hence the largest object. Default: ${default}."`
	MaxConnections int      `default:"0" help:"How many clients may be connected at a time. Default: any number."`
	StopTimeout    duration `default:"30s" help:"How long clients that have voted may take to finish when the server is told to stop. Default: ${default}."`

	LogFormat string `enum:"text,json" default:"text" help:"text or json. Default: ${default}."`
	LogLevel  string `enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error. Default: ${default}."`

	Inject string `hidden:"" help:"Faults to inject into every bucket, for tests: see internal/buckettest/faults."`
}

func (*serveCmd) Help() string {
	return `Clients connect with the <zeoclient> section that is printed at the start.

  s3storage serve
  s3storage serve --bucket /var/lib/zodb --listen :8100 --listen /run/zodb.sock
  s3storage serve --bucket s3://my-bucket/site
  s3storage serve --bucket 's3://b/site?endpoint=http://127.0.0.1:9000&region=us-east-1&path-style=true'
  s3storage serve --storage main=s3://my-bucket/main --storage temp=mem://

One server at a time writes to a bucket. A second one takes over: the first says
so in its log and takes no more writes; no transaction is lost.

SIGTERM stops the server in order: transactions that were voted may finish.`
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

	listeners, err := listenAll(c.Listen)
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	databases, err := c.open(ctx, logger, listeners[0].Addr())
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
		Logger:         logger,
		Encoding:       encoding,
		MaxFrame:       int(c.MaxFrame),
		MaxConnections: c.MaxConnections,
	})
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- server.Serve(l, zeo.Access{}) }()
	}
	announce(os.Stdout, listeners, databases)

	var serveErr error
	select {
	case <-ctx.Done():
		logger.Info("stopping: voted transactions may finish", "timeout", time.Duration(c.StopTimeout))
	case serveErr = <-failed:
		logger.Error("cannot take connections any more; stopping", "err", serveErr)
	}
	stop() // a second signal ends the process at once
	return errors.Join(serveErr, c.stop(server, databases, logger))
}

// stop ends the service in order.
func (c *serveCmd) stop(server *zeo.Server, databases map[string]database, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.StopTimeout))
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		logger.Warn("clients were cut off in the midst of a transaction", "err", err)
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

// open opens all databases, or none.
func (c *serveCmd) open(ctx context.Context, logger *slog.Logger, addr net.Addr) (map[string]database, error) {
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
		b, err := openBucket(ctx, location, true)
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
		e, err := engine.Open(ctx, observed, engine.Options{
			Memory:  uint64(c.Memory),
			Node:    fmt.Sprintf("%s, process %d, %s", host, os.Getpid(), addr),
			Creator: "s3storage " + version,
			Logger:  logger.With("storage", name),
		})
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

// listenAll opens all listeners, or none.
func listenAll(addresses []string) (listeners []net.Listener, err error) {
	for _, address := range addresses {
		l, err := listen(address)
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

func listen(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix && !strings.Contains(address, "/") {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("cannot listen on %q: give HOST:PORT, [IPv6]:PORT, :PORT, or a path for a socket", address)
		}
		return net.Listen("tcp", address)
	}
	l, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	// A server that was killed leaves its socket behind.
	if conn, dialErr := net.Dial("unix", path); dialErr == nil {
		conn.Close()
		return nil, fmt.Errorf("another server listens on %s: stop it or give another path", path)
	}
	if info, statErr := os.Lstat(path); statErr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s exists and is no socket: give another path", path)
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// announce prints where the server can be reached, and the client
// configuration to paste.
func announce(w io.Writer, listeners []net.Listener, databases map[string]database) {
	names := make([]string, 0, len(databases))
	for name := range databases {
		names = append(names, name)
	}
	slices.Sort(names)
	var servers strings.Builder
	for _, l := range listeners {
		fmt.Fprintf(w, "listening on %s\n", l.Addr())
		fmt.Fprintf(&servers, "    server %s\n", l.Addr())
	}
	fmt.Fprintf(w, "\nFor zope.conf:\n")
	for _, name := range names {
		fmt.Fprintf(w, `
<zodb_db main>
  mount-point /
  <zeoclient>
%s    storage %s
  </zeoclient>
</zodb_db>
`, servers.String(), name)
	}
}
