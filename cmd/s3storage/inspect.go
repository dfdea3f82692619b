package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
	"s3storage/internal/pydata"
	"s3storage/internal/zodb"
)

// inspect opens the database in a bucket as it is now, and has do write about it.
func (s *stores) inspect(location string, do func(ctx context.Context, e *engine.Engine, w io.Writer) error) error {
	return s.asReader(location, func(ctx context.Context, e *engine.Engine, _ bucket.Bucket) error {
		w := bufio.NewWriter(os.Stdout)
		return errors.Join(do(ctx, e, w), w.Flush())
	})
}

// safe quotes what a client has written, so that it does nothing to a terminal.
func safe(text []byte) string { return strconv.Quote(string(text)) }

func moment(tid zodb.Tid) string { return tid.Time().UTC().Format("2006-01-02T15:04:05.000000Z") }

type logCmd struct {
	Bucket  string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	From    tidArg `help:"First transaction: a tid of 16 hexadecimal digits, or a time such as 2026-01-31T12:00:00Z."`
	To      tidArg `help:"Last transaction, likewise."`
	Limit   int    `help:"At most so many transactions; 0 for all."`
	Reverse bool   `help:"The newest first."`

	Stores stores `embed:""`
}

func (*logCmd) Help() string {
	return `Lists transactions: tid, time, number of records, bytes of their data, user and
description. Writes nothing; a server may be running on the bucket.

  s3storage log ./data --reverse --limit 10
  s3storage log ./data --from 2026-01-31T12:00:00Z`
}

// Run implements the subcommand.
func (c *logCmd) Run() error {
	return c.Stores.inspect(c.Bucket, func(ctx context.Context, e *engine.Engine, w io.Writer) error { return c.print(ctx, e, w) })
}

func (c *logCmd) print(ctx context.Context, e *engine.Engine, w io.Writer) error {
	to := zodb.Tid(c.To)
	if to == zodb.NoTid {
		to = zodb.MaxTid
	}
	n := 0
	return e.Transactions(ctx, zodb.Tid(c.From), to, c.Reverse, func(t zodb.TxnInfo, records int) (more bool, err error) {
		_, err = fmt.Fprintf(w, "%s %s %d records %d bytes %s %s\n", t.Tid, moment(t.Tid), records, t.Size, safe(t.Meta.User), safe(t.Meta.Description))
		n++
		return n != c.Limit, err
	})
}

type lsCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`

	Stores stores `embed:""`
}

func (*lsCmd) Help() string {
	return `Lists the classes of objects, those with the most bytes first: current revisions and
their bytes, all revisions and theirs. Writes nothing; a server may be running on the
bucket.

  s3storage ls ./data`
}

// Run implements the subcommand.
func (c *lsCmd) Run() error {
	return c.Stores.inspect(c.Bucket, func(ctx context.Context, e *engine.Engine, w io.Writer) error {
		classes, err := e.Classes(ctx)
		if err != nil {
			return err
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "OBJECTS\tBYTES\tREVISIONS\tBYTES\tCLASS\n")
		for _, c := range classes {
			name := c.Name
			if name == "" {
				name = "(unknown)"
			}
			fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%s\n", c.Current, c.CurrentBytes, c.All, c.AllBytes, name)
		}
		return t.Flush()
	})
}

type showCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	Oid    oidArg `arg:"" help:"The object: 16 hexadecimal digits, 0x1f, or a decimal number."`
	At     tidArg `help:"As it was after that transaction, or at that time."`

	Stores stores `embed:""`
}

func (*showCmd) Help() string {
	return `Shows what an object is: class, serial, size, references and state, much as Python
would write it. Nothing of it is executed. Writes nothing; a server may be running on
the bucket.

  s3storage show ./data 0
  s3storage show ./data 0x1f --at 2026-01-31T12:00:00Z`
}

// Run implements the subcommand.
func (c *showCmd) Run() error {
	return c.Stores.inspect(c.Bucket, func(ctx context.Context, e *engine.Engine, w io.Writer) error { return c.print(ctx, e, w) })
}

// shown bounds what show writes of a state.
var shown = pydata.Limits{Bytes: 1 << 20, Depth: 20, Text: 4096}

func (c *showCmd) print(ctx context.Context, e *engine.Engine, w io.Writer) error {
	before := zodb.MaxTid
	if c.At != 0 {
		before = zodb.Tid(c.At) + 1
	}
	oid := zodb.Oid(c.Oid)
	rev, ok, err := e.LoadBefore(ctx, oid, before)
	if err == nil && !ok {
		err = fmt.Errorf("object %s did not exist then", oid)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "object %s, revision %s (%s), %d bytes\n", oid, rev.Serial, moment(rev.Serial), len(rev.Data))
	if rev.Next != zodb.NoTid {
		fmt.Fprintf(w, "until revision %s (%s)\n", rev.Next, moment(rev.Next))
	}
	size, has, err := e.BlobSize(ctx, oid, rev.Serial)
	switch {
	case err != nil:
		return err
	case has:
		fmt.Fprintf(w, "blob of %d bytes\n", size)
	}
	if s, err := pydata.Inspect(rev.Data); err != nil {
		fmt.Fprintf(w, "class %s, references unknown: %s\n", safe([]byte(s.Class)), safe([]byte(err.Error())))
	} else {
		fmt.Fprintf(w, "refers to %v\n", s.References)
	}
	fmt.Fprintln(w)
	return pydata.Text(w, rev.Data, shown)
}

type historyCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	Oid    oidArg `arg:"" help:"The object: 16 hexadecimal digits, 0x1f, or a decimal number."`
	Limit  int    `help:"At most so many revisions." default:"1000"`

	Stores stores `embed:""`
}

func (*historyCmd) Help() string {
	return `Lists the revisions of an object, the newest first: serial, time, bytes, user and
description. Writes nothing; a server may be running on the bucket.

  s3storage history ./data 0`
}

// Run implements the subcommand.
func (c *historyCmd) Run() error {
	return c.Stores.inspect(c.Bucket, func(ctx context.Context, e *engine.Engine, w io.Writer) error {
		all, err := e.History(ctx, zodb.Oid(c.Oid), c.Limit)
		if err != nil {
			return err
		}
		for _, t := range all {
			fmt.Fprintf(w, "%s %s %d bytes %s %s\n", t.Tid, moment(t.Tid), t.Size, safe(t.Meta.User), safe(t.Meta.Description))
		}
		return nil
	})
}

// An oidArg is an oid as people write it.
type oidArg zodb.Oid

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *oidArg) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 0, 63)
	if len(text) == 16 {
		n, err = strconv.ParseUint(string(text), 16, 63)
	}
	if err != nil {
		return fmt.Errorf("%q is not an oid: give 16 hexadecimal digits, 0x1f, or a decimal number", text)
	}
	*o = oidArg(n)
	return nil
}

// A tidArg is a tid, or the time of one.
type tidArg zodb.Tid

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *tidArg) UnmarshalText(text []byte) error {
	if at, err := time.Parse(time.RFC3339, string(text)); err == nil {
		*t = tidArg(zodb.TidAt(at))
		return nil
	}
	digits := string(text)
	if len(digits) == 18 && digits[:2] == "0x" {
		digits = digits[2:]
	}
	n, err := strconv.ParseUint(digits, 16, 63)
	if err != nil || len(digits) != 16 {
		return fmt.Errorf("%q is neither a tid, 16 hexadecimal digits, nor a time such as 2026-01-31T12:00:00Z", text)
	}
	*t = tidArg(n)
	return nil
}
