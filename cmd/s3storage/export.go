package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
	"s3storage/internal/filestorage"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

type exportCmd struct {
	Bucket string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ..."`
	File   string `arg:"" help:"The Data.fs. If it exists, what is newer is appended to it."`
	Blobs  string `placeholder:"DIR" help:"Directory for blobs. It is made if there is none."`
	From   tid    `placeholder:"TID" help:"First transaction: 16 hexadecimal digits. Default: the first of all, or that behind the last one of the file."`
	To     tid    `placeholder:"TID" help:"Last transaction: 16 hexadecimal digits. Default: the last of all."`

	Stores stores `embed:""`
}

// Help shows what the command is for.
func (*exportCmd) Help() string {
	return `Writes a file that ZODB's FileStorage opens. A server may be running on the
bucket; what is committed after the export has begun is not in it. Run it again to
append what is new:

    s3storage export s3://my-bucket/site backup/Data.fs --blobs backup/blobs`
}

// exportSync is after how many bytes of data the file is made durable.
const exportSync = 256 << 20

// Run implements the subcommand.
func (c *exportCmd) Run() error {
	return c.Stores.asReader(c.Bucket, func(ctx context.Context, e *engine.Engine, _ bucket.Bucket) error { return c.export(ctx, e) })
}

func (c *exportCmd) export(ctx context.Context, e *engine.Engine) (err error) {
	x := &exporter{e: e, began: time.Now()}
	if c.Blobs != "" {
		if x.blobs, err = filestorage.CreateBlobDir(c.Blobs); err != nil {
			return err
		}
	}
	name := c.File
	_, err = os.Stat(c.File)
	switch {
	case err == nil:
		var cut int64
		if x.w, cut, err = filestorage.Append(c.File); err == nil && cut > 0 {
			fmt.Fprintf(os.Stderr, "cut off %d bytes at the end of %s, of a transaction that was not finished\n", cut, c.File)
		}
	case errors.Is(err, fs.ErrNotExist):
		// It gets its name when it is whole.
		name = c.File + ".part"
		if err = os.Remove(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			x.w, err = filestorage.Create(name)
		}
	}
	if err != nil {
		return err
	}
	err = x.run(ctx, zodb.Tid(c.From), zodb.Tid(c.To))
	err = errors.Join(err, x.w.Close())
	if name != c.File {
		if err != nil {
			return errors.Join(err, os.Remove(name), os.Remove(name+".lock"))
		}
		err = errors.Join(os.Rename(name, c.File), os.Remove(name+".lock"))
	}
	if err == nil {
		x.report()
	}
	return err
}

// An exporter writes transactions.
type exporter struct {
	e     *engine.Engine
	w     *filestorage.Writer
	blobs *filestorage.BlobDir

	open     zodb.Tid // the transaction that is being written
	unsynced int

	began                             time.Time
	txns, records, bytes, count, left int64
}

func (x *exporter) run(ctx context.Context, from, to zodb.Tid) error {
	last := x.w.Last()
	if from <= last && from != zodb.NoTid {
		return fmt.Errorf("the file has transactions up to %s: --from must lie above that", last)
	}
	if to == zodb.NoTid {
		to = zodb.MaxTid
	}
	if last != zodb.NoTid && x.e.LastTransaction() < last {
		return fmt.Errorf("the last transaction of the file is %s, that of the database %s: they do not belong together", last, x.e.LastTransaction())
	}
	err := x.e.Export(ctx, max(from, last+1), to, func(t *segment.Txn) error { return x.portion(ctx, t) })
	if err == nil {
		err = x.end()
	}
	if err != nil {
		return err
	}
	return x.sync()
}

func (x *exporter) portion(ctx context.Context, t *segment.Txn) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.Tid != x.open {
		if err := x.end(); err != nil {
			return err
		}
		if err := x.w.Begin(t.Tid, t.Meta); err != nil {
			return err
		}
		x.open = t.Tid
	}
	for i := range t.Records {
		rec := &t.Records[i]
		if err := x.w.Record(rec.Oid, rec.Data, rec.Source); err != nil {
			return err
		}
		x.records++
		x.bytes += int64(len(rec.Data))
		x.unsynced += len(rec.Data)
		if rec.Blob == nil {
			continue
		}
		if x.blobs == nil {
			x.left++
			continue
		}
		if err := x.blob(ctx, rec.Oid, t.Tid); err != nil {
			return err
		}
	}
	return nil
}

// end ends the open transaction, if there is one.
func (x *exporter) end() error {
	if x.open == zodb.NoTid {
		return nil
	}
	x.open = zodb.NoTid
	x.txns++
	if err := x.w.End(); err != nil {
		return err
	}
	if x.unsynced < exportSync {
		return nil
	}
	return x.sync()
}

func (x *exporter) sync() error {
	x.unsynced = 0
	if x.blobs != nil {
		if err := x.blobs.Sync(); err != nil {
			return err
		}
	}
	return x.w.Sync()
}

func (x *exporter) blob(ctx context.Context, oid zodb.Oid, tid zodb.Tid) error {
	in, err := x.e.LoadBlob(ctx, oid, tid)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := x.blobs.Create(oid, tid)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(fmt.Errorf("the blob of object %s, transaction %s: %w", oid, tid, err), out.Abort())
	}
	x.count++
	return out.Commit()
}

func (x *exporter) report() {
	fmt.Fprintf(os.Stderr, "exported %d transactions, %d records, %s, %d blobs in %s; the last one is %s\n",
		x.txns, x.records, megabytes(x.bytes), x.count, time.Since(x.began).Round(time.Millisecond), x.w.Last())
	if x.left > 0 {
		fmt.Fprintf(os.Stderr, "WARNING: %d blobs were not written: --blobs was not given\n", x.left)
	}
}
