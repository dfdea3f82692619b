package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/engine"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

type infoCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`

	Stores stores `embed:""`
}

func (*infoCmd) Help() string {
	return `Reads what a server reads when it starts, and lists the bucket. Writes nothing; a
server may be running on the bucket. See check for damage.

  s3storage info ./data
  s3storage info s3://my-bucket/site`
}

// Run implements the subcommand.
func (c *infoCmd) Run() error {
	return c.Stores.asReader(c.Bucket, c.print)
}

func (c *infoCmd) print(ctx context.Context, e *engine.Engine, b bucket.Bucket) error {
	s := e.Survey()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("bucket", "%s", b.Properties().Location)
	if log := b.Properties().Log; log != "" {
		row("log in", "%s", log)
	}
	if name := b.Properties().Catalog; name != "" {
		row("in the catalog as", "%s", name)
	}
	row("database", "%s", s.Format.Database)
	row("created", "%s by %s", s.Format.Created.Format(time.RFC3339), s.Format.Creator)
	if s.Last == zodb.NoTid {
		row("last transaction", "none")
	} else {
		row("last transaction", "%s (%s)", s.Last, s.Last.Time().Format(time.RFC3339Nano))
	}
	row("transactions", "%d", s.Transactions)
	row("objects", "%d", s.Objects)
	row("revisions", "%d", s.Revisions)
	if s.Base.Packed != zodb.NoTid {
		row("packed to", "%s", s.Base.Packed.Time().Format(time.RFC3339))
	}
	if n := len(s.Base.Rewrites); n > 0 {
		row("pack to go on with", "%d segments written, %d bytes", n, s.Base.RewrittenBytes())
	}
	for _, snapshot := range s.Base.Snapshots {
		row("snapshot", "%s, to %s", snapshot.Name, snapshot.Last.Time().Format(time.RFC3339))
	}
	row("oids below", "%s", s.End.OidMark)
	row("log to be read", "%d objects, %d bytes, next is slot %d of epoch %d", s.LogObjects, s.LogBytes, s.End.Slot, s.End.Epoch)
	if s.End.Leader.Name != "" {
		row("led by", "%s", s.End.Leader.Name)
	}
	for _, part := range []struct{ name, prefix string }{
		{"segments", segment.Prefix}, {"index tables", index.Prefix}, {"log", txlog.Prefix}, {"payload", txlog.PayloadPrefix}, {"blobs", blob.Prefix}, {"bucket holds", ""},
	} {
		bytes, objects, err := bucketSize(ctx, b, part.prefix)
		if err != nil {
			return err
		}
		row(part.name, "%d objects, %d bytes", objects, bytes)
	}
	return w.Flush()
}

func bucketSize(ctx context.Context, b bucket.Bucket, prefix string) (bytes, objects int64, err error) {
	err = b.List(ctx, prefix, "", func(i bucket.Info) error {
		bytes += i.Size
		objects++
		return nil
	})
	return bytes, objects, err
}
