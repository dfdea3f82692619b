package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"s3storage/internal/engine"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

type packCmd struct {
	Bucket string `arg:"" optional:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ... Not with --server."`

	Server  string `placeholder:"ADDRESS" help:"Have the server at HOST:PORT do it, and wait."`
	Storage string `default:"1" help:"With --server: the name of the storage there. Default: ${default}."`

	Days   float64 `default:"0" help:"Keep what was current at any time of the last so many days. Default: ${default}."`
	NoGC   bool    `name:"no-gc" help:"Drop old revisions only and keep objects that cannot be reached from the root: for databases that others of a multi-database refer to."`
	DryRun bool    `help:"Say what would be dropped, by class, and write nothing."`

	Stores stores `embed:""`
}

func (*packCmd) Help() string {
	return `Drops old revisions of objects, and objects that cannot be reached any more.

  s3storage pack --server 127.0.0.1:8100 --days 7
  s3storage pack --dry-run ./data
  s3storage pack ./data

While a server runs on the bucket, use --server: without it, pack takes the lead
itself, and the server writes no more. --dry-run only reads, and may run beside a
server. With --server, whether garbage is collected is the server's to say.

Clients go on meanwhile. It takes memory that does not grow with the data, and
room for some 100 bytes a revision where temporary files go (TMPDIR). Ctrl-C
ends it, and nothing is dropped; of a large database, the next pack uses what this
one has written.`
}

// Run implements the subcommand.
func (c *packCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	when := time.Now().Add(-time.Duration(c.Days * float64(24*time.Hour)))
	switch {
	case (c.Server == "") == (c.Bucket == ""):
		return fmt.Errorf("give a bucket, or --server ADDRESS")
	case c.Server != "" && (c.DryRun || c.NoGC):
		return fmt.Errorf("--dry-run and --no-gc need a bucket")
	case c.Server != "":
		return packThroughServer(ctx, c.Server, c.Storage, when)
	}
	opts := leaderOptions("pack", slog.LevelInfo)
	opts.NoPackGC, opts.Unserved = c.NoGC, true
	if c.DryRun {
		return c.dryRun(ctx, opts, zodb.TidAt(when))
	}
	return c.Stores.asLeader(c.Bucket, opts, func(ctx context.Context, e *engine.Engine) error { return e.Pack(ctx, zodb.TidAt(when)) })
}

func packThroughServer(ctx context.Context, address, storage string, when time.Time) error {
	client, err := zeo.Dial(ctx, address, zeo.ClientOptions{Storage: storage})
	if err != nil {
		return err
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	return client.Pack(when)
}

func (c *packCmd) dryRun(ctx context.Context, opts engine.Options, tid zodb.Tid) (err error) {
	defer c.Stores.close(&err)
	b, err := c.Stores.openExisting(ctx, c.Bucket)
	if err != nil {
		return err
	}
	opts.OpenBucket = c.Stores.openFiles
	e, err := engine.OpenReadOnly(ctx, b, opts)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close(ctx) }() // it was only read
	r, err := e.PlanPack(ctx, tid)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "bytes\trevisions\tgarbage objects\t  class\n")
	var sum engine.PackedClass
	for _, p := range r.Classes {
		class := p.Class
		if class == "" {
			class = "(unknown)"
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t  %s\n", p.Bytes, p.Revisions, p.Objects, class)
		sum.Bytes += p.Bytes
		sum.Revisions += p.Revisions
		sum.Objects += p.Objects
	}
	fmt.Fprintf(w, "%d\t%d\t%d\t  in all, before compression\n", sum.Bytes, sum.Revisions, sum.Objects)
	fmt.Fprintf(w, "%d\t%d\t\t  blobs\n", r.BlobBytes, r.Blobs)
	return w.Flush()
}
