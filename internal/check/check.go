// Package check looks for damage in the bucket of a database. It writes nothing,
// and a server may be running on the bucket.
//
// The quick check reads what opening reads, and whether all files are there. The
// full one reads every byte of every object, and compares what the objects say of
// each other. Memory does not grow with the number of records; it does, by some 100
// bytes each, with that of the objects in the bucket.
package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Options for Run.
type Options struct {
	Full bool // read everything

	// Open opens the bucket that a location names, for branches.
	Open func(ctx context.Context, location string) (bucket.Bucket, error)
}

// A Finding is something that is wrong.
type Finding struct {
	Object string // of the bucket; empty where it is not one alone
	What   string // what is wrong with it
	Cost   string // what that costs; may be empty
}

func (f Finding) String() string {
	s := f.What
	if f.Object != "" && !strings.Contains(s, f.Object) {
		s = f.Object + ": " + s
	}
	if f.Cost != "" {
		s += "; " + f.Cost
	}
	return s
}

// Findings are the first that were made, and how many there were.
type Findings struct {
	List  []Finding
	Count int
}

// maxFindings is how many are kept of each kind.
const maxFindings = 1000

func (f *Findings) add(object, what, cost string) {
	f.Count++
	if len(f.List) < maxFindings {
		f.List = append(f.List, Finding{object, what, cost})
	}
}

// Strays are objects of one kind that nothing needs.
type Strays struct {
	Prefix  string
	Objects int
	Bytes   int64
}

// A Report is what a check has found.
type Report struct {
	Damage   Findings // something cannot be read, or is not what it should be
	Warnings Findings // nothing is lost by it
	Strays   []Strays // may belong to what a server is about to commit
	Objects  int      // in the bucket
	Bytes    int64    // of these
	Records  int64    // that were compared with the index, in the full check
	Last     zodb.Tid // the newest transaction that can be read
}

// attempts is how often a check that found damage is made anew because the
// database has changed meanwhile, and files may be gone.
const attempts = 3

// Run checks the bucket. The error says that the check could not be made. Damage
// is in the report.
func Run(ctx context.Context, b bucket.Bucket, opts Options) (*Report, error) {
	for n := 1; ; n++ {
		c := &check{bucket: b, opts: opts, report: &Report{}, listed: make(map[string]int64), needed: make(map[string]struct{}), blobs: make(map[blob.ID]struct{})}
		if err := c.run(ctx); err != nil {
			return nil, err
		}
		if c.report.Damage.Count == 0 || n == attempts || !c.changed(ctx) {
			return c.report, nil
		}
	}
}

// A check is one attempt at it.
type check struct {
	bucket bucket.Bucket
	opts   Options
	report *Report
	format *txlog.Format
	reader *base.Reader
	listed map[string]int64 // objects and their sizes
	needed map[string]struct{}
	blobs  map[blob.ID]struct{} // those looked at

	blobBytes int64 // of these

	view   *base.View // nil if the base cannot be read
	pinned []*base.View
	tail   []*txlog.Transaction
}

func (c *check) run(ctx context.Context) error {
	if err := c.open(ctx); err != nil || c.format == nil {
		return err
	}
	if err := c.walk(ctx); err != nil {
		return err
	}
	// After the walk: the files of the base are kept for a while.
	if err := c.list(ctx); err != nil {
		return err
	}
	if err := c.checkpoints(ctx); err != nil {
		return err
	}
	if c.view != nil {
		if err := c.files(ctx, c.view); err != nil {
			return err
		}
		if err := c.rewritten(ctx); err != nil {
			return err
		}
		if err := c.snapshots(ctx); err != nil {
			return err
		}
	}
	if err := c.payloads(ctx); err != nil {
		return err
	}
	if c.opts.Full {
		if err := c.objects(ctx); err != nil {
			return err
		}
		if err := c.allBlobs(ctx); err != nil {
			return err
		}
		if c.view != nil && c.report.Damage.Count == 0 {
			if err := c.records(ctx); err != nil {
				return err
			}
		}
		c.strays()
	}
	return nil
}

// open reads the format. Where it is damaged there is nothing else to be done.
func (c *check) open(ctx context.Context) error {
	f, err := txlog.ReadFormat(ctx, c.bucket)
	if errors.Is(err, txlog.ErrNoDatabase) {
		if listErr := c.list(ctx); listErr != nil {
			return listErr
		}
		for name := range c.listed {
			if strings.HasPrefix(name, txlog.Prefix) || strings.HasPrefix(name, txlog.CheckpointPrefix) || name == txlog.ClaimName {
				c.report.Damage.add(txlog.FormatName, "it is missing", "the database cannot be opened")
				return nil
			}
		}
	}
	if damaged(err) {
		c.report.Damage.add(txlog.FormatName, err.Error(), "the database cannot be opened")
		return nil
	}
	if err != nil {
		return err
	}
	memory, err := cache.New(64 << 20)
	if err != nil {
		return err
	}
	c.format = f
	c.reader = &base.Reader{Bucket: c.bucket, Database: f.Database, Memory: memory, Open: c.opts.Open}
	return nil
}

func (c *check) list(ctx context.Context) error {
	return bucket.Rereading(ctx, func() error {
		clear(c.listed)
		c.report.Objects, c.report.Bytes = 0, 0
		return c.bucket.List(ctx, "", "", func(i bucket.Info) error {
			c.listed[i.Name] = i.Size
			c.report.Objects++
			c.report.Bytes += i.Size
			return nil
		})
	})
}

// damaged tells whether an error is about what is in the bucket, and not about
// reaching it.
func damaged(err error) bool {
	return slices.ContainsFunc([]error{zodb.ErrCorrupt, zodb.ErrNewerFormat, bucket.ErrNotExist, bucket.ErrLost, bucket.ErrTooLarge},
		func(class error) bool { return errors.Is(err, class) })
}

// found takes down an error that is damage, and returns any other.
func (c *check) found(err error, object, cost string) error {
	if err != nil && damaged(err) {
		c.report.Damage.add(object, err.Error(), cost)
		return nil
	}
	return err
}

// span names transactions.
func span(first, last zodb.Tid) string {
	return fmt.Sprintf("transactions from %s (%s) to %s (%s)", first, when(first), last, when(last))
}

func when(tid zodb.Tid) string { return tid.Time().UTC().Format("2006-01-02 15:04:05") }
