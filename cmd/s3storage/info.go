package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

type infoCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
}

func (*infoCmd) Help() string {
	return `Reads the whole log and checks it on the way. Writes nothing; a server may be
running on the bucket.

  s3storage info ./data
  s3storage info s3://my-bucket/site`
}

// Run implements the subcommand.
func (c *infoCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b, err := openBucket(ctx, c.Bucket, false)
	if err != nil {
		return err
	}
	f, err := txlog.ReadFormat(ctx, b)
	if err != nil {
		return err
	}
	s := survey{index: index.NewMemory()}
	end, err := txlog.Walk(ctx, b, f, func(o *txlog.Object) error {
		s.add(o)
		return nil
	})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("bucket", "%s", b.Properties().Location)
	row("database", "%s", f.Database)
	row("created", "%s by %s", f.Created.Format(time.RFC3339), f.Creator)
	if end.LastTid == zodb.NoTid {
		row("last transaction", "none")
	} else {
		row("last transaction", "%s (%s)", end.LastTid, end.LastTid.Time().Format(time.RFC3339Nano))
	}
	row("transactions", "%d", s.transactions)
	row("objects", "%d", s.index.Live())
	row("revisions", "%d", s.revisions)
	if s.packs > 0 {
		row("packed", "%d times, to %s", s.packs, s.packed.Time().Format(time.RFC3339))
	}
	row("oids below", "%s", end.OidMark)
	row("log", "%d objects, %d bytes, next is slot %d of epoch %d", s.logObjects, s.logBytes, end.Slot, end.Epoch)
	if end.Leader != "" {
		row("led by", "%s", end.Leader)
	}
	for _, part := range []struct{ name, prefix string }{
		{"payload", txlog.PayloadPrefix}, {"blobs", blob.Prefix}, {"bucket holds", ""},
	} {
		bytes, objects, err := bucketSize(ctx, b, part.prefix)
		if err != nil {
			return err
		}
		row(part.name, "%d objects, %d bytes", objects, bytes)
	}
	return w.Flush()
}

// A survey counts what a log holds.
type survey struct {
	transactions, revisions, packs, logObjects int
	logBytes                                   int64
	packed                                     zodb.Tid
	index                                      *index.Memory // knows only whether there is data
}

func (s *survey) add(o *txlog.Object) {
	s.logObjects++
	s.logBytes += o.Size
	for _, e := range o.Entries {
		switch {
		case e.Txn != nil:
			s.transactions++
			s.revisions += len(e.Txn.Records)
			for _, r := range e.Txn.Records {
				rev := index.Revision{Serial: e.Txn.Tid, Size: 1}
				if r.Kind == txlog.RecordDeletion {
					rev.Size = 0
				}
				s.index.Add(r.Oid, rev)
			}
		case e.Pack != nil:
			s.packs++
			s.packed = max(s.packed, e.Pack.Tid)
			for _, d := range e.Pack.Dropped {
				if _, ok := s.index.Remove(d.Oid, d.Serial); ok {
					s.revisions--
				}
			}
		}
	}
}

func bucketSize(ctx context.Context, b bucket.Bucket, prefix string) (bytes, objects int64, err error) {
	err = b.List(ctx, prefix, "", func(i bucket.Info) error {
		bytes += i.Size
		objects++
		return nil
	})
	return bytes, objects, err
}
