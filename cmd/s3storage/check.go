package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"s3storage/internal/check"
	"s3storage/internal/zodb"
)

type checkCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	Full   bool   `help:"Read every byte of the bucket."`

	Stores stores `embed:""`
}

func (*checkCmd) Help() string {
	return `Looks for damage. Writes nothing; a server may be running on the bucket. Without
--full it reads what a server reads when it starts, and whether all files are there.
With --full it reads every byte, compares the index with the records, and follows the
references of all objects; for that it needs space for temporary files (TMPDIR).

The exit status is 0 if all is well, 1 if there is damage, 2 if the check could not
be made. Warnings do not count as damage.

  s3storage check ./data
  s3storage check --full s3://my-bucket/site`
}

// An exitStatus is one with which the program ends, when all was said.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

const (
	statusDamage  exitStatus = 1
	statusNoCheck exitStatus = 2
)

// Run implements the subcommand.
func (c *checkCmd) Run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	defer c.Stores.close(&err)
	b, err := c.Stores.openExisting(ctx, c.Bucket)
	var r *check.Report
	if err == nil {
		r, err = check.Run(ctx, b, check.Options{Full: c.Full, Open: c.Stores.openFiles})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "s3storage: the check could not be made: %v\n", err)
		return statusNoCheck
	}
	printReport(os.Stdout, r)
	if r.Damage.Count > 0 {
		return statusDamage
	}
	return nil
}

func printReport(w io.Writer, r *check.Report) {
	list := func(kind string, f check.Findings) {
		for _, one := range f.List {
			fmt.Fprintf(w, "%s: %s\n", kind, one)
		}
		if more := f.Count - len(f.List); more > 0 {
			fmt.Fprintf(w, "%s: and %d more\n", kind, more)
		}
	}
	list("DAMAGE", r.Damage)
	list("warning", r.Warnings)
	for _, s := range r.Strays {
		fmt.Fprintf(w, "nothing needs %d objects below %s, %d bytes; a server deletes them, unless it is about to commit them\n", s.Objects, s.Prefix, s.Bytes)
	}
	fmt.Fprintf(w, "the bucket holds %d objects, %d bytes\n", r.Objects, r.Bytes)
	if r.Records > 0 {
		fmt.Fprintf(w, "compared %d records with the index\n", r.Records)
	}
	if r.Last != zodb.NoTid {
		fmt.Fprintf(w, "last transaction: %s (%s)\n", r.Last, r.Last.Time().UTC().Format(time.RFC3339))
	}
	if r.Damage.Count == 0 {
		fmt.Fprintln(w, "no damage was found")
	} else {
		fmt.Fprintf(w, "%d DAMAGED\nObjects never change: put back those that are named from a copy of the bucket, or\nfrom their earlier versions, under the same names, and check again.\n", r.Damage.Count)
	}
}
