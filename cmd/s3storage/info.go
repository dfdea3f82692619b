package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"s3storage/internal/bucket"
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
	s := survey{deleted: make(map[zodb.Oid]bool)}
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
	row("objects", "%d", s.objects())
	row("revisions", "%d", s.revisions)
	row("oids below", "%s", end.OidMark)
	row("log", "%d objects, %d bytes, next is slot %d of epoch %d", s.logObjects, s.logBytes, end.Slot, end.Epoch)
	if end.Leader != "" {
		row("led by", "%s", end.Leader)
	}
	row("payload", "%d objects, %d bytes of records", s.payloads, s.payloadBytes)
	total, count, err := bucketSize(ctx, b)
	if err != nil {
		return err
	}
	row("bucket holds", "%d objects, %d bytes", count, total)
	return w.Flush()
}

// A survey counts what a log holds.
type survey struct {
	transactions, revisions, logObjects, payloads int
	logBytes, payloadBytes                        int64
	deleted                                       map[zodb.Oid]bool // every oid, and whether its newest revision is a deletion
}

func (s *survey) add(o *txlog.Object) {
	s.logObjects++
	s.logBytes += o.Size
	for _, e := range o.Entries {
		if e.Txn == nil {
			continue
		}
		s.transactions++
		s.revisions += len(e.Txn.Records)
		s.payloads += len(e.Txn.Payloads)
		for _, r := range e.Txn.Records {
			s.deleted[r.Oid] = r.Kind == txlog.RecordDeletion
			if r.Kind == txlog.RecordPayload {
				s.payloadBytes += int64(r.Span.Size)
			}
		}
	}
}

func (s *survey) objects() (n int) {
	for _, deleted := range s.deleted {
		if !deleted {
			n++
		}
	}
	return n
}

func bucketSize(ctx context.Context, b bucket.Bucket) (bytes, objects int64, err error) {
	err = b.List(ctx, "", "", func(i bucket.Info) error {
		bytes += i.Size
		objects++
		return nil
	})
	return bytes, objects, err
}
