package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"s3storage/internal/bench"
)

// benchGroup is what starts with "s3storage bench".
type benchGroup struct {
	Measure benchCmd     `cmd:"" default:"withargs" help:"Measure a server, or two of them by turns."`
	Data    benchDataCmd `cmd:"" help:"Write a Data.fs of any size to measure with."`
}

type benchDataCmd struct {
	Objects int    `required:"" help:"How many objects with text there are; each has two revisions."`
	Out     string `required:"" placeholder:"FILE" help:"The new Data.fs."`
	Garbage bool   `help:"One of twenty objects cannot be reached in the end, so that a pack has something to remove."`
}

// Help shows what the command is for.
func (*benchDataCmd) Help() string {
	return `Writes a FileStorage such as a site has: pages with titles and texts, in folders
of a thousand. The same arguments give the same file.

    s3storage bench data --objects 1000000 --out Data.fs
    s3storage import Data.fs ./data`
}

// Run implements the subcommand.
func (c *benchDataCmd) Run() error {
	if c.Objects < 1 {
		return errors.New("--objects must be at least 1")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return bench.Site{Objects: c.Objects, Garbage: c.Garbage}.Write(ctx, c.Out)
}
