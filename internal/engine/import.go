package engine

import (
	"context"
	"fmt"
	"io"
	"math"
	"sync"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/zodb"
)

const (
	// importPortion is how many bytes of data are passed on at once, and
	// portionRecords how many records, which take more memory than their data if they
	// are small. A portion that grows, one that is written, and one for each processor
	// are in memory, and the index entries of importFiles segments.
	importPortion  = 2 << 20
	portionRecords = 1 << 13

	// importRecords is how many records there may be in one segment, about. It bounds
	// the memory of an import, whatever the size of the file.
	importRecords = 1 << 20

	// importTables is how many index tables there may be until they are merged. A
	// merge has some MiB of each in memory.
	importTables = 16

	importFiles = 2 // segments that grow, or are brought to their end
	importBlobs = 4 // uploads at a time
)

// An ImportRecord is what an imported transaction did to an object.
type ImportRecord struct {
	Oid    zodb.Oid
	Data   []byte   // nil where the object does not exist from here on
	Source zodb.Tid // of the revision that it shares data with, or NoTid

	// Blob opens the blob of the revision; nil if it has none. It may be called
	// from another goroutine, until the Import is closed.
	Blob func() (io.ReadCloser, error)
}

// An Import takes transactions from elsewhere into the database. They go into
// segments and tables at once, and not through the log. Nobody else may commit
// meanwhile. It is for one goroutine.
//
// The transactions travel in portions. While one grows, those before it are looked
// into, and one is being written to the segment that grows, whose blocks are
// compressed meanwhile. When that is full, its table is written, and the database
// adopts both, while the next segment grows.
type Import struct {
	e          *Engine
	exists     *oidSet
	last       zodb.Tid
	seen       map[zodb.Oid]int // records of one transaction
	portion    *importedPortion
	file       *importedFile // that grows, or nil
	describing sync.WaitGroup
	group      *errgroup.Group // writes files
	before     *outcome        // of the file begun last
	err        error

	perPortion, perFile int // records
}

// An outcome is known when done is closed.
type outcome struct {
	done chan struct{}
	err  error
}

// Import begins an import behind the last transaction of the database. What is in
// the log is written out first.
func (e *Engine) Import(ctx context.Context) (*Import, error) {
	if err := e.Flush(ctx); err != nil {
		return nil, err
	}
	e.state.RLock()
	v, last := e.state.view, e.state.last
	e.state.RUnlock()
	im := &Import{e: e, exists: newOidSet(), last: last, portion: newPortion(), seen: map[zodb.Oid]int{}, group: new(errgroup.Group),
		perPortion: portionRecords, perFile: importRecords}
	im.group.SetLimit(importFiles)
	im.before = &outcome{done: make(chan struct{})}
	close(im.before.done)
	for entry, err := range v.Entries(ctx, 0) {
		if err != nil {
			return nil, err
		}
		im.apply(entry.Oid, entry.Deleted)
	}
	return im, nil
}

// apply takes note of a revision, and returns by how much it changes the number of
// objects.
func (im *Import) apply(oid zodb.Oid, deleted bool) int64 {
	existed := im.exists.has(oid)
	switch {
	case deleted && existed:
		im.exists.remove(oid)
		return -1
	case !deleted && !existed:
		im.exists.add(oid)
		return 1
	}
	return 0
}

// Last returns the tid of the last transaction that was added, or was there.
func (im *Import) Last() zodb.Tid { return im.last }

// Add adds a transaction; it keeps nothing of what it is given. Its tid lies above
// that of the last one. Where an object has several records, the last one counts.
// It may be part of the database only after Flush. After an error nothing more can
// be added: what a bucket has refused is not there any more to be put again.
func (im *Import) Add(ctx context.Context, tid zodb.Tid, meta zodb.TxnMeta, records []ImportRecord) error {
	if im.err == nil {
		im.err = im.add(ctx, tid, meta, records)
	}
	return im.err
}

func (im *Import) add(ctx context.Context, tid zodb.Tid, meta zodb.TxnMeta, records []ImportRecord) error {
	if tid <= im.last || tid > zodb.MaxTid {
		return fmt.Errorf("transaction %s cannot be imported: it has to follow %s", tid, im.last)
	}
	if len(records) > math.MaxInt32 {
		return fmt.Errorf("transaction %s has too many records: %d", tid, len(records))
	}
	clear(im.seen)
	for i := range records {
		im.seen[records[i].Oid] = i
	}
	p := im.portion
	p.begin(tid, meta)
	for i := range records {
		rec := &records[i]
		if im.seen[rec.Oid] != i {
			continue
		}
		if rec.Oid > maxChosenOid {
			return fmt.Errorf("transaction %s: oid %s is out of range; the highest that can be imported is %s", tid, rec.Oid, maxChosenOid)
		}
		if rec.Source >= tid {
			return fmt.Errorf("transaction %s, object %s: it shares data with %s, which is no earlier one", tid, rec.Oid, rec.Source)
		}
		p.add(rec)
		p.live += im.apply(rec.Oid, rec.Data == nil)
	}
	im.last = tid
	if p.bytes >= importPortion || len(p.records)+len(p.txns) >= im.perPortion {
		return im.pass(ctx)
	}
	return nil
}

// pass passes the portion on to the file that grows.
func (im *Import) pass(ctx context.Context) error {
	if im.file == nil {
		if err := im.begin(ctx); err != nil {
			return err
		}
	}
	f, p := im.file, im.portion
	im.describing.Go(p.describe)
	select {
	case f.portions <- p:
	case <-f.done:
		return f.err
	}
	select {
	case im.portion = <-f.used:
	default:
		im.portion = newPortion()
	}
	if f.full.Load() {
		im.end(true)
	}
	return nil
}

// begin begins a file.
func (im *Import) begin(ctx context.Context) error {
	before := im.before
	select {
	case <-before.done:
		if before.err != nil {
			return before.err
		}
	default:
	}
	f := newImportedFile(im.perFile)
	im.file, im.before = f, &f.outcome
	im.group.Go(func() error {
		defer close(f.done)
		f.err = im.e.writeImported(ctx, f, before)
		if f.err == nil && im.e.tables() >= importTables {
			f.err = im.e.merge(ctx)
		}
		return f.err
	})
	return nil
}

// end ends the file that grows, if there is one.
func (im *Import) end(complete bool) {
	if im.file != nil {
		im.file.complete = complete
		close(im.file.portions)
		im.file = nil
	}
}

// Flush makes what was added part of the database.
func (im *Import) Flush(ctx context.Context) error {
	if im.err == nil && len(im.portion.txns) > 0 {
		im.err = im.pass(ctx)
	}
	if im.err == nil {
		im.end(true)
		im.err = im.group.Wait()
	}
	if im.err == nil {
		im.err = im.e.merge(ctx)
	}
	return im.err
}

// Close waits for what is under way. What was added since the last Flush may not
// be part of the database.
func (im *Import) Close() {
	im.end(false)
	_ = im.group.Wait() // Add or Flush have told
	im.describing.Wait()
}
