package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/blob"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

const (
	// importBatch is how many bytes of data go into one segment of an import.
	// Besides the one that grows, importWriters+1 are in memory at most.
	// So this bounds the memory of an import, whatever the size of the file.
	importBatch = 24 << 20

	// importRecords bounds a batch of small records, which take more memory than
	// their data.
	importRecords = 1 << 17

	// importPortion is how many bytes of data are looked into at once.
	importPortion = 1 << 20

	importWriters = 2 // batches that are compressed at a time
	importBlobs   = 4 // uploads at a time
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
type Import struct {
	e      *Engine
	exists *oidSet
	last   zodb.Tid
	batch  *importedBatch
	seen   map[zodb.Oid]int // records of one transaction
	group  *errgroup.Group  // writes batches
	before *outcome         // of the batch before the one that grows
	err    error
}

// An outcome is known when done is closed.
type outcome struct {
	done chan struct{}
	err  error
}

// An importedBatch becomes a segment and a table.
type importedBatch struct {
	txns      []importedTxn
	records   int
	bytes     int
	live      int64
	maxOid    zodb.Oid
	portion   []*segment.Record // not yet looked into
	inPortion int
	looking   sync.WaitGroup
	blobs     []importedBlob
	room      []byte // for data
}

type importedTxn struct {
	tid     zodb.Tid
	meta    zodb.TxnMeta
	records []segment.Record
}

type importedBlob struct {
	rec  *segment.Record
	open func() (io.ReadCloser, error)
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
	im := &Import{e: e, exists: newOidSet(), last: last, batch: &importedBatch{}, seen: map[zodb.Oid]int{}, group: new(errgroup.Group)}
	im.group.SetLimit(importWriters)
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
// be added.
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
	b := im.batch
	meta.User, meta.Description, meta.Extension = bytes.Clone(meta.User), bytes.Clone(meta.Description), bytes.Clone(meta.Extension)
	clear(im.seen)
	for i := range records {
		im.seen[records[i].Oid] = i
	}
	out := make([]segment.Record, 0, len(im.seen))
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
		r := segment.Record{K: uint32(len(out)), Oid: rec.Oid, Deleted: rec.Data == nil, Source: rec.Source}
		if !r.Deleted {
			r.Data = b.keep(rec.Data)
		}
		b.live += im.apply(rec.Oid, r.Deleted)
		b.maxOid = max(b.maxOid, rec.Oid)
		out = append(out, r)
		if rec.Blob != nil {
			b.blobs = append(b.blobs, importedBlob{&out[len(out)-1], rec.Blob})
		}
		b.look(&out[len(out)-1])
	}
	b.txns = append(b.txns, importedTxn{tid, meta, out})
	b.records += len(out) + 1
	im.last = tid
	if b.bytes >= importBatch || b.records >= importRecords {
		return im.write(ctx)
	}
	return nil
}

// keep copies data into room that many records share.
func (b *importedBatch) keep(data []byte) []byte {
	if len(data) > importPortion/4 {
		return bytes.Clone(data)
	}
	if cap(b.room)-len(b.room) < len(data) {
		b.room = make([]byte, 0, importPortion)
	}
	n := len(b.room)
	b.room = append(b.room, data...)
	return b.room[n:len(b.room):len(b.room)]
}

// look has records looked into, a portion at a time.
func (b *importedBatch) look(rec *segment.Record) {
	b.portion = append(b.portion, rec)
	b.inPortion += len(rec.Data)
	b.bytes += len(rec.Data)
	if b.inPortion >= importPortion {
		b.lookNow()
	}
}

// looks bounds how many portions of all batches are looked into at once.
var looks = make(chan struct{}, runtime.GOMAXPROCS(0))

func (b *importedBatch) lookNow() {
	portion := b.portion
	b.portion, b.inPortion = make([]*segment.Record, 0, len(portion)), 0
	looks <- struct{}{}
	b.looking.Go(func() {
		for _, rec := range portion {
			describe(rec)
		}
		<-looks
	})
}

// write has the batch written while the next ones grow.
func (im *Import) write(ctx context.Context) error {
	before := im.before
	select {
	case <-before.done:
		if before.err != nil {
			return before.err
		}
	default:
	}
	b := im.batch
	im.batch = &importedBatch{}
	if len(b.txns) == 0 {
		return nil
	}
	b.lookNow()
	own := &outcome{done: make(chan struct{})}
	im.before = own
	im.group.Go(func() error {
		defer close(own.done)
		own.err = im.e.writeBatch(ctx, b, before)
		return own.err
	})
	return nil
}

// Flush makes what was added part of the database.
func (im *Import) Flush(ctx context.Context) error {
	if im.err == nil {
		im.err = im.write(ctx)
		if err := im.group.Wait(); im.err == nil {
			im.err = err
		}
	}
	return im.err
}

// Close waits for what is under way. What was added since the last Flush may not
// be part of the database.
func (im *Import) Close() {
	_ = im.group.Wait() // Add or Flush have told
	im.batch.looking.Wait()
}

// writeBatch writes the files of a batch, and has them adopted behind those of the
// batch before.
func (e *Engine) writeBatch(ctx context.Context, batch *importedBatch, before *outcome) error {
	batch.looking.Wait()
	var written []string
	defer func() { e.uploads.remove(written...) }()
	refs, err := e.putBlobs(ctx, batch.blobs)
	for _, ref := range refs {
		if ref != nil {
			written = append(written, ref.ID.Name())
		}
	}
	if err != nil {
		return err
	}
	seg, err := e.writeSegment(ctx, func(w *segment.Writer) error {
		for i := range batch.txns {
			t := &batch.txns[i]
			if err := w.Begin(t.tid, t.meta, uint32(len(t.records))); err != nil {
				return err
			}
			for k := range t.records {
				if err := w.Add(&t.records[k]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	written = append(written, seg.ID.Name())
	<-before.done
	if before.err != nil {
		return before.err
	}
	let, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer let()
	if err := e.flushHeld(ctx); err != nil {
		return err
	}
	b := e.successor()
	b.Segments = append(b.Segments, seg)
	b.Live += batch.live
	for _, ref := range refs {
		b.BlobBytes += ref.Size
	}
	if entries := batch.entries(); len(entries) > 0 {
		table, err := e.writeEntries(ctx, entries)
		if err != nil {
			return err
		}
		written = append(written, table.ID.Name())
		b.Tables = append(b.Tables, table)
		// Before the base: the log has both, or the mark alone.
		e.log.RaiseOidMark(e.oids.stored(batch.maxOid))
	}
	last := batch.txns[len(batch.txns)-1].tid
	_, err = e.adopt(ctx, b, txlog.BaseImport, nil, func() (bool, error) {
		if first := batch.txns[0].tid; first <= e.seq.last {
			return false, fmt.Errorf("transaction %s cannot be imported: %s was committed meanwhile", first, e.seq.last)
		}
		e.seq.last = last
		return true, nil
	})
	return err
}

func (b *importedBatch) entries() []index.Entry {
	entries := make([]index.Entry, 0, b.records)
	for i := range b.txns {
		t := &b.txns[i]
		for k := range t.records {
			rec := &t.records[k]
			entries = append(entries, index.Entry{Oid: rec.Oid, Tid: t.tid, K: rec.K, Deleted: rec.Deleted})
		}
	}
	return entries
}

// putBlobs uploads blobs, and has the records name them. It returns what was put,
// also with an error.
func (e *Engine) putBlobs(ctx context.Context, blobs []importedBlob) ([]*blob.Ref, error) {
	refs := make([]*blob.Ref, len(blobs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(importBlobs)
	for i, from := range blobs {
		group.Go(func() error {
			err := e.putBlob(ctx, from, &refs[i])
			if err != nil {
				return fmt.Errorf("the blob of object %s: %w", from.rec.Oid, err)
			}
			from.rec.Blob = refs[i]
			return nil
		})
	}
	return refs, group.Wait()
}

func (e *Engine) putBlob(ctx context.Context, from importedBlob, ref **blob.Ref) error {
	in, err := from.open()
	if err != nil {
		return err
	}
	defer in.Close()
	up := blob.NewUpload(ctx, e.bucket, e.format.Database)
	name := up.ID().Name()
	e.uploads.add(name)
	_, err = io.Copy(up, in)
	var size int64
	if err == nil {
		size, err = up.Finish()
	}
	if err != nil {
		err = errors.Join(err, up.Abort())
		e.uploads.remove(name)
		return err
	}
	*ref = &blob.Ref{ID: up.ID(), Size: size}
	return nil
}
