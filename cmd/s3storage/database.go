package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
)

// asReader does something with a database as it is now, and the bucket that it is in.
// Nothing is written; a server may be running on the bucket.
func (s *stores) asReader(location string, do func(context.Context, *engine.Engine, bucket.Bucket) error) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer s.close(&err)
	b, err := s.openExisting(ctx, location)
	if err != nil {
		return err
	}
	e, err := engine.OpenReadOnly(ctx, b, engine.Options{OpenBucket: s.openFiles, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return done(do(ctx, e, b), e)
}

// asLeader does something with a database that exists, and leads it meanwhile.
func (s *stores) asLeader(location string, opts engine.Options, do func(context.Context, *engine.Engine) error) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer s.close(&err)
	b, err := s.openExisting(ctx, location)
	if err != nil {
		return err
	}
	opts.OpenBucket = s.openFiles
	e, err := engine.OpenExisting(ctx, b, opts)
	if err != nil {
		return err
	}
	return done(do(ctx, e), e)
}

// done closes a database, and returns why what was done with it failed, or else why
// it could not be closed.
func done(err error, e *engine.Engine) error {
	if closeErr := e.Close(context.Background()); err == nil {
		err = closeErr
	}
	return err
}

// leaderOptions are those of a subcommand that leads a database. It tells people of
// what is at least of that level.
func leaderOptions(subcommand string, level slog.Level) engine.Options {
	return engine.Options{
		Node:    fmt.Sprintf("s3storage %s, process %d", subcommand, os.Getpid()),
		Creator: "s3storage " + version,
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
}
