package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
)

type snapshotCmd struct {
	Create snapshotCreateCmd `cmd:"" help:"Give the present state a name, and keep it."`
	List   snapshotListCmd   `cmd:"" help:"List snapshots."`
	Delete snapshotDeleteCmd `cmd:"" help:"Forget a snapshot."`
}

type snapshotCreateCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	Name   string `arg:"" help:"A name for it. It must not begin with a digit."`

	Stores stores `embed:""`
}

const takesTheLead = `
This takes the lead: a server that runs on the bucket writes no more from then on.
Stop it first, and start it again afterwards.`

func (*snapshotCreateCmd) Help() string {
	return `Nothing of what the database is now is deleted until the snapshot is, whatever is
packed. It takes a moment and no space at first.
` + takesTheLead
}

// Run implements the subcommand.
func (c *snapshotCreateCmd) Run() error {
	if c.Name == "" || c.Name[0] >= '0' && c.Name[0] <= '9' {
		return fmt.Errorf("the name of a snapshot must not begin with a digit, or it would look like a time")
	}
	return c.Stores.asLeader(c.Bucket, changing("snapshot"), func(ctx context.Context, e *engine.Engine) error { return e.Snapshot(ctx, c.Name) })
}

type snapshotListCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`

	Stores stores `embed:""`
}

// Run implements the subcommand.
func (c *snapshotListCmd) Run() error {
	return c.Stores.inspect(c.Bucket, func(_ context.Context, e *engine.Engine, out io.Writer) error {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "name\tlast transaction\tmade")
		for _, s := range e.Survey().Base.Snapshots {
			fmt.Fprintf(w, "%s\t%s (%s)\t%s\n", s.Name, s.Last, s.Last.Time().Format(time.RFC3339), s.Created.Format(time.RFC3339))
		}
		return w.Flush()
	})
}

type snapshotDeleteCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	Name   string `arg:"" help:"Its name."`

	Stores stores `embed:""`
}

func (*snapshotDeleteCmd) Help() string {
	return `What only the snapshot needed is deleted by the next daily sweep of a server.

Snapshots named branch-... belong to branches, which lose their data with them; so
does a branch that was made of a snapshot by its name. Those named
before-restore-... hold what a restore took back: without them it is gone, and the
restore cannot be taken back any more.
` + takesTheLead
}

// Run implements the subcommand.
func (c *snapshotDeleteCmd) Run() error {
	return c.Stores.asLeader(c.Bucket, changing("snapshot"), func(ctx context.Context, e *engine.Engine) error {
		err := e.DeleteSnapshot(ctx, c.Name)
		if err == nil {
			fmt.Printf("deleted the snapshot %s; %s\n", c.Name, lostWith(c.Name))
		}
		return err
	})
}

// lostWith says what is lost with the snapshot of that name.
func lostWith(name string) string {
	switch {
	case strings.HasPrefix(name, engine.ForBranch):
		return "the branch that was made with it loses its data: do not use it any more"
	case strings.HasPrefix(name, engine.BeforeRestore):
		return "what that restore took back is gone, and the restore cannot be taken back any more"
	}
	return "a branch that was made of it, if there is one, loses its data: do not use it any more"
}

type branchCmd struct {
	New  string     `arg:"" help:"Where the branch will be: an empty bucket, prefix or directory."`
	From string     `required:"" placeholder:"BUCKET" help:"The database that it is a branch of."`
	At   *momentArg `placeholder:"MOMENT" help:"As the database was then. Default: as it is."`

	Stores      stores `embed:""`
	Propagation *grace `placeholder:"TIME" help:"With --catalog: how long after a write, at most, somebody may not see it in the store. 0s: everybody does at once. Once given, the catalog knows it. Default: 0s."`
}

func (*branchCmd) Help() string {
	return `Makes a database of its own that begins as what another one is or was. It shares the
other's files and copies nothing: both can be written to, packed and served. A
snapshot named branch-... in the other keeps what the branch needs; delete it when
the branch is gone. Given again, a command that was broken off goes on.

  s3storage branch ./try --from ./data
  s3storage branch s3://b/tuesday --from s3://b/site --at "2026-11-24 17:00"

` + momentHelp + `
With the name of a snapshot, the other database is only read.
` + takesTheLead
}

// Run implements the subcommand.
func (c *branchCmd) Run() error {
	at := engine.Now
	if c.At != nil {
		at = c.At.Moment
	}
	from, err := canonical(c.From)
	if err != nil {
		return err
	}
	c.Stores.propagation = c.Propagation
	make := func(ctx context.Context, e *engine.Engine) error {
		to, err := c.Stores.openBucket(ctx, c.New, true)
		if err != nil {
			return err
		}
		snapshot, err := e.Branch(ctx, at, to, from)
		if err != nil {
			return err
		}
		fmt.Printf("%s is a branch; %s of %s keeps what it needs\n", c.New, snapshot, c.From)
		return nil
	}
	if at.Snapshot == "" {
		return c.Stores.asLeader(c.From, changing("branch"), make)
	}
	return c.Stores.asReader(c.From, func(ctx context.Context, e *engine.Engine, _ bucket.Bucket) error { return make(ctx, e) })
}

type restoreCmd struct {
	Bucket string    `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	To     momentArg `required:"" placeholder:"MOMENT" help:"What it was then it will be again."`

	Stores stores `embed:""`
}

func (*restoreCmd) Help() string {
	return `Takes a database back, in place. What it is now is kept as a snapshot, so this can
be taken back. Clients drop their caches when they connect again.

  s3storage restore ./data --to "2026-11-24 17:00"

` + momentHelp + `
` + takesTheLead
}

// Run implements the subcommand.
func (c *restoreCmd) Run() error {
	return c.Stores.asLeader(c.Bucket, changing("restore"), func(ctx context.Context, e *engine.Engine) error {
		snapshot, err := e.Restore(ctx, c.To.Moment)
		if err != nil {
			return err
		}
		fmt.Printf("restored; what it was before is the snapshot %s\n", snapshot)
		return nil
	})
}

// changing are the options for commands that change what a server goes on with.
func changing(subcommand string) engine.Options {
	opts := leaderOptions(subcommand, slog.LevelWarn)
	opts.PackGrace = time.Hour // a server that starts next finds what is to be deleted
	return opts
}
