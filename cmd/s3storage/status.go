package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
	"s3storage/internal/lease"
	"s3storage/internal/txlog"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

type statusCmd struct {
	Bucket  string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	Lease   string `default:"bucket" placeholder:"LEASE" help:"The lease that the servers have. Default: ${default}."`
	Storage string `default:"1" placeholder:"NAME" help:"The name under which the servers serve the database. Default: ${default}."`

	Stores stores `embed:""`
}

func (*statusCmd) Help() string {
	return `Reads the end of the log and the lease, and asks the server that leads by the log. Its
exit status is 1 if no server is found that leads.

  s3storage status ./data
  s3storage status s3://my-bucket/site --lease postgres://s3storage@db/leases`
}

// Run implements the subcommand.
func (c *statusCmd) Run() error {
	return c.Stores.asReader(c.Bucket, c.print)
}

func (c *statusCmd) print(ctx context.Context, e *engine.Engine, b bucket.Bucket) error {
	s := e.Survey()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("database", "%s", s.Format.Database)
	if s.Last != zodb.NoTid {
		row("last transaction", "%s (%s)", s.Last, s.Last.Time().Format(time.RFC3339Nano))
	}
	row("log", "epoch %d, slot %d", s.End.Epoch, s.End.Slot)
	row("leader by the log", "%s", place(s.End.Leader.String(), s.End.Leader.Address))
	row("lease", "%s", c.holder(ctx, s.Format.Database, b))
	leads := c.ask(ctx, s.End.Leader, row)
	if err := w.Flush(); err != nil {
		return err
	}
	if !leads {
		return exitStatus(1)
	}
	return nil
}

// holder says who holds the lease.
func (c *statusCmd) holder(ctx context.Context, id txlog.DatabaseID, b bucket.Bucket) string {
	l, err := lease.Open(ctx, c.Lease, lease.Options{Database: id, Node: "status", Bucket: b, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err.Error()
	}
	defer func() { _ = l.Close() }()
	h, err := l.Holder(ctx)
	switch {
	case err != nil:
		return fmt.Sprintf("%s: %v", l, err)
	case h == lease.Holder{}:
		return fmt.Sprintf("%s: held by nobody, as far as is known", l)
	}
	return fmt.Sprintf("%s: held by %s since %s", l, place(h.Node, h.Address), h.Since.UTC().Format(time.RFC3339))
}

// ask asks the server that leads by the log, and tells whether it does.
func (c *statusCmd) ask(ctx context.Context, leader txlog.Node, row func(name, format string, args ...any)) bool {
	if leader.Address == "" {
		row("leader", "none that could be reached")
		return false
	}
	followers, slot, err := c.followers(ctx, leader.Address)
	if err != nil {
		row("leader", "not reached, or leads no more: %v", err)
		return false
	}
	row("leader", "answers; its log ends at slot %d", slot)
	for _, f := range followers {
		row("follower", "%s, %d slots behind", place(f.Name, f.Address), max(0, int64(slot)-int64(f.Applied)))
	}
	if len(followers) == 0 {
		row("followers", "none")
	}
	return true
}

const statusTimeout = 5 * time.Second

func (c *statusCmd) followers(ctx context.Context, address string) (all []zeo.Follower, slot uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	client, err := zeo.Dial(ctx, address, zeo.ClientOptions{Storage: c.Storage, Node: "s3storage status"})
	if err != nil {
		return nil, 0, err
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	if _, slot, err = client.LogEnd(); err == nil {
		all, err = client.Followers()
	}
	return all, slot, errors.Join(err, ctx.Err())
}

// place names a node.
func place(name, address string) string {
	if address == "" {
		return name
	}
	return fmt.Sprintf("%s at %s", name, address)
}
