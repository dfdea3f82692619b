package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"s3storage/internal/engine"
	"s3storage/internal/filestorage"
	"s3storage/internal/pydata"
	"s3storage/internal/zodb"
)

type importCmd struct {
	File        string `arg:"" help:"The Data.fs. It is only read."`
	Bucket      string `arg:"" help:"The bucket: a path, s3://BUCKET/PREFIX, ... A database is made if there is none."`
	LogBucket   string `placeholder:"BUCKET" help:"A bucket for the log alone, fast where the other is cheap, if a database is made: it then knows where it is."`
	Blobs       string `placeholder:"DIR" help:"The directory of the file's blobs."`
	Follow      bool   `help:"At the end of the file, wait for more, until SIGINT or SIGTERM."`
	SkipDamaged bool   `help:"Go on behind damaged places of the file, and without blobs that are missing, and tell at the end what was skipped."`

	Stores      stores `embed:""`
	Propagation *grace `placeholder:"TIME" help:"With --catalog: how long after a write, at most, somebody may not see it in the store. 0s: everybody does at once. Once given, the catalog knows it. Default: 0s."`
}

// Help shows what the command is for.
func (*importCmd) Help() string {
	return `Takes the transactions of a FileStorage with all their history. It leads the
database meanwhile: no server can write to it. If it ends early, run it again: it
goes on behind the last transaction that it has imported.

    s3storage import var/filestorage/Data.fs --blobs var/blobstorage s3://my-bucket/site

To change over with a short pause: start it while the old server runs, stop that
server when it has caught up, end it with Ctrl-C, and start s3storage serve.

    s3storage import Data.fs --follow s3://my-bucket/site`
}

// Run implements the subcommand.
func (c *importCmd) Run() (err error) {
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx := context.Background() // what has begun is brought to its end
	r, err := filestorage.Open(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it was only read
	r.SkipDamaged = c.SkipDamaged
	var blobs *filestorage.BlobDir
	if c.Blobs != "" {
		if blobs, err = filestorage.OpenBlobDir(c.Blobs); err != nil {
			return err
		}
	}
	c.Stores.propagation = c.Propagation
	defer c.Stores.close(&err)
	b, err := c.Stores.openWithLog(ctx, c.Bucket, c.LogBucket, true)
	if err != nil {
		return err
	}
	opts := leaderOptions("import", slog.LevelWarn)
	opts.OpenBucket = c.Stores.openFiles
	e, err := engine.Open(ctx, b, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close(ctx)) }()
	im, err := e.Import(ctx)
	if err != nil {
		return err
	}
	defer im.Close()
	i := &importer{file: c.File, r: r, blobs: blobs, to: im, behind: im.Last(), began: time.Now()}
	if err := i.run(ctx, stop, c.Follow); err != nil {
		return fmt.Errorf("import of %s: %w", c.File, err)
	}
	return nil
}

// An importer copies transactions.
type importer struct {
	file  string
	r     *filestorage.Reader
	blobs *filestorage.BlobDir
	to    *engine.Import

	behind  zodb.Tid // the last transaction of the database, until it was found in the file
	records []engine.ImportRecord
	room    []byte // for data of one transaction

	began, said                 time.Time
	txns, revisions, bytes      int64
	skipped                     int64 // transactions that were there
	first                       int64 // offset in the file where new ones begin
	blobCount, missing, unasked int64
}

// run copies until the file ends, or until stop is done.
func (i *importer) run(ctx, stop context.Context, follow bool) error {
	i.said = i.began
	err := i.copy(ctx, stop)
	for err == nil && follow && stop.Err() == nil {
		select {
		case <-stop.Done():
		case <-time.After(time.Second):
			if err = i.r.Refresh(); err == nil {
				err = i.copy(ctx, stop)
			}
		}
	}
	// What was read before an error is good.
	if flushErr := i.to.Flush(ctx); flushErr != nil {
		err = errors.Join(err, flushErr)
	}
	i.report()
	if err == nil && stop.Err() != nil && !follow {
		err = errors.New("it was ended early; run the same command again to go on")
	}
	return err
}

// copy copies what is in the file now.
func (i *importer) copy(ctx, stop context.Context) error {
	was := i.txns
	for stop.Err() == nil {
		t, err := i.r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if t.Tid <= i.behind {
			if t.Tid == i.behind {
				i.behind, i.first = zodb.NoTid, i.r.Position().Offset
			}
			i.skipped++
			continue
		}
		if i.behind != zodb.NoTid {
			return otherFile(i.behind)
		}
		if err := i.transaction(ctx, t); err != nil {
			return err
		}
		i.progress()
	}
	if stop.Err() == nil && i.behind != zodb.NoTid {
		return otherFile(i.behind)
	}
	if i.txns == was {
		return nil
	}
	return i.to.Flush(ctx)
}

func otherFile(last zodb.Tid) error {
	return fmt.Errorf("it has no transaction %s, which is the last one of the database: the database was made from another file, or was written to since", last)
}

func (i *importer) transaction(ctx context.Context, t *filestorage.Transaction) error {
	i.records, i.room = i.records[:0], i.room[:0]
	for {
		rec, err := i.r.NextRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		out := engine.ImportRecord{Oid: rec.Oid, Source: rec.DataTxn}
		if rec.Data != nil {
			// Data that a growing room leaves behind stays what it is.
			n := len(i.room)
			i.room = append(i.room, rec.Data...)
			out.Data = i.room[n:len(i.room):len(i.room)]
			if out.Blob, err = i.blob(rec.Oid, t.Tid, out.Data); err != nil {
				return err
			}
		}
		i.records = append(i.records, out)
		i.bytes += int64(len(rec.Data))
	}
	if err := i.to.Add(ctx, t.Tid, t.Meta, i.records); err != nil {
		return err
	}
	i.txns++
	i.revisions += int64(len(i.records))
	return nil
}

// blob returns what opens the blob of a revision, or nil.
func (i *importer) blob(oid zodb.Oid, tid zodb.Tid, data []byte) (func() (io.ReadCloser, error), error) {
	if !filestorage.MayHaveBlob(data) {
		return nil, nil
	}
	if i.blobs == nil {
		i.unasked++
		return nil, nil
	}
	path := i.blobs.Path(oid, tid)
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		class := ""
		if s, err := pydata.Inspect(data); err == nil {
			class = s.Class
		}
		if class != "ZODB.blob.Blob" {
			return nil, nil // it only refers to one
		}
		if !i.r.SkipDamaged {
			return nil, fmt.Errorf("the blob of object %s, revision %s is missing: there is no file %s; put it there, or import without it by --skip-damaged", oid, tid, path)
		}
		i.missing++
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i.blobCount++
	return func() (io.ReadCloser, error) { return os.Open(path) }, nil
}

// progress tells every few seconds how far it has come.
func (i *importer) progress() {
	if time.Since(i.said) < 3*time.Second {
		return
	}
	i.said = time.Now()
	at, size := i.r.Position().Offset, i.r.Size()
	took := time.Since(i.began)
	left := time.Duration(float64(took) * float64(size-at) / float64(max(at-i.first, 1)))
	fmt.Fprintf(os.Stderr, "%d transactions, %d records, %s, %.1f %%, %.0f records/s, %s left\n", i.txns, i.revisions, megabytes(i.bytes),
		100*float64(at)/float64(size), float64(i.revisions)/took.Seconds(), left.Round(time.Second))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// report says what was done.
func (i *importer) report() {
	took := time.Since(i.began)
	fmt.Fprintf(os.Stderr, "imported %d transactions, %d records, %s, %d blobs in %s (%.0f records/s); %d transactions were there before; the last one is %s\n",
		i.txns, i.revisions, megabytes(i.bytes), i.blobCount, took.Round(time.Millisecond), float64(i.revisions)/took.Seconds(), i.skipped, i.to.Last())
	if i.missing > 0 {
		fmt.Fprintf(os.Stderr, "WARNING: %d records are of blobs, but there are no files for them in the directory of blobs\n", i.missing)
	}
	if i.unasked > 0 {
		fmt.Fprintf(os.Stderr, "WARNING: %d records look as if they had blobs; these were not imported: --blobs was not given\n", i.unasked)
	}
	for _, gap := range i.r.Gaps() {
		fmt.Fprintf(os.Stderr, "WARNING: skipped %d bytes at %d: %v\n", gap.Size, gap.Pos, gap.Err)
	}
	if n := i.r.Unfinished(); n > 0 {
		fmt.Fprintf(os.Stderr, "%s ends with %d bytes of a transaction that was not finished\n", i.file, n)
	}
}
