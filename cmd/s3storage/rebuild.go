package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"s3storage/internal/txlog"
)

type rebuildCmd struct {
	Bucket      string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	Propagation grace  `required:"" placeholder:"TIME" help:"How long after a write, at most, somebody may not see it in the store; 0s: everybody does at once."`

	Stores stores `embed:""`
}

func (*rebuildCmd) Help() string {
	return `For a database whose catalog is lost for ever: lists what its store has in a new
one. Stop all servers first, and wait until the propagation time is over. What was not
copied to the store yet is lost: the last transactions, usually those of some tenths of
a second. Log objects behind the first gap are deleted. Run check --full afterwards.

  s3storage rebuild-catalog s3://b/site --catalog postgres://zodb@db/zodb --propagation 1m

If the PostgreSQL database can be had back from a standby or a backup that is up to
date, take that instead.`
}

// Run implements the subcommand.
func (c *rebuildCmd) Run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if c.Stores.Catalog == "" {
		return errors.New("give --catalog, the database in PostgreSQL where the new catalog shall be")
	}
	defer c.Stores.close(&err)
	store, err := openAlone(ctx, c.Bucket, false)
	if err != nil {
		return err
	}
	name, err := txlog.CatalogName(ctx, store)
	if err == nil && name == "" {
		err = fmt.Errorf("the database in %s is in no catalog", c.Bucket)
	}
	if err != nil {
		return err
	}
	if err := c.Stores.connect(ctx); err != nil {
		return err
	}
	n, err := c.Stores.catalog.Rebuild(ctx, store, name, time.Duration(c.Propagation))
	if err != nil {
		return err
	}
	b, err := c.Stores.openExisting(ctx, c.Bucket)
	if err != nil {
		return err
	}
	f, err := txlog.ReadFormat(ctx, b)
	if err != nil {
		return err
	}
	cut, err := txlog.Cut(ctx, b, f)
	if err != nil {
		return err
	}
	fmt.Printf("the catalog lists %d objects of database %s\n", n, f.Database)
	for _, name := range cut {
		fmt.Printf("lost, because one before it is: %s\n", name)
	}
	return nil
}
