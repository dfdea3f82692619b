package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// An importedPortion is some transactions of an import. Its memory is used again.
type importedPortion struct {
	txns      []importedTxn
	records   []segment.Record
	blobs     []importedBlob
	bytes     int
	live      int64 // by how much it changes the number of objects
	maxOid    zodb.Oid
	room      []byte        // for data
	described chan struct{} // gets a value when the records have been looked into
}

type importedTxn struct {
	tid     zodb.Tid
	meta    zodb.TxnMeta
	records int // at which record of the portion it begins
}

type importedBlob struct {
	record int // of the portion
	open   func() (io.ReadCloser, error)
}

func newPortion() *importedPortion {
	return &importedPortion{described: make(chan struct{}, 1), room: make([]byte, 0, importPortion+importPortion/4)}
}

func (p *importedPortion) begin(tid zodb.Tid, meta zodb.TxnMeta) {
	meta.User, meta.Description, meta.Extension = bytes.Clone(meta.User), bytes.Clone(meta.Description), bytes.Clone(meta.Extension)
	p.txns = append(p.txns, importedTxn{tid, meta, len(p.records)})
}

// add adds a record to the transaction begun last.
func (p *importedPortion) add(rec *ImportRecord) {
	if rec.Blob != nil {
		p.blobs = append(p.blobs, importedBlob{len(p.records), rec.Blob})
	}
	k := len(p.records) - p.txns[len(p.txns)-1].records
	r := segment.Record{K: uint32(k), Oid: rec.Oid, Deleted: rec.Data == nil, Source: rec.Source}
	if !r.Deleted {
		r.Data = p.keep(rec.Data)
	}
	p.records = append(p.records, r)
	p.bytes += len(rec.Data)
	p.maxOid = max(p.maxOid, rec.Oid)
}

// keep copies data, into the room if there is some.
func (p *importedPortion) keep(data []byte) []byte {
	n := len(p.room)
	if cap(p.room)-n < len(data) {
		return append([]byte{}, data...)
	}
	p.room = append(p.room, data...)
	return p.room[n:len(p.room):len(p.room)]
}

func (p *importedPortion) describe() {
	for i := range p.records {
		describe(&p.records[i])
	}
	p.described <- struct{}{}
}

// of returns the records of a transaction of the portion.
func (p *importedPortion) of(txn int) []segment.Record {
	end := len(p.records)
	if txn+1 < len(p.txns) {
		end = p.txns[txn+1].records
	}
	return p.records[p.txns[txn].records:end]
}

// clear makes a portion that was written an empty one.
func (p *importedPortion) clear() {
	clear(p.txns)
	clear(p.records)
	clear(p.blobs)
	*p = importedPortion{txns: p.txns[:0], records: p.records[:0], blobs: p.blobs[:0], room: p.room[:0], described: p.described}
}

// An importedFile becomes a segment and a table.
type importedFile struct {
	outcome
	portions chan *importedPortion
	complete bool                  // when portions is closed: there are no more; else it is given up
	used     chan *importedPortion // that were written
	most     int                   // records that it may have, about
	full     atomic.Bool

	// Of what was written.
	entries   []index.Entry
	live      int64
	maxOid    zodb.Oid
	blobs     []string
	blobBytes int64
}

func newImportedFile(most int) *importedFile {
	ahead := runtime.GOMAXPROCS(0)
	return &importedFile{
		outcome:  outcome{done: make(chan struct{})},
		portions: make(chan *importedPortion, ahead),
		used:     make(chan *importedPortion, ahead+2),
		most:     most,
	}
}

var errGivenUp = errors.New("the import was given up")

// writeImported writes the files of what is imported, and has them adopted behind
// those before.
func (e *Engine) writeImported(ctx context.Context, f *importedFile, before *outcome) error {
	var written []string
	defer func() { e.uploads.remove(append(written, f.blobs...)...) }()
	seg, err := e.writeSegment(ctx, 1, 2*runtime.GOMAXPROCS(0), func(w *segment.Writer) error {
		for p := range f.portions {
			if err := e.writePortion(ctx, f, p, w); err != nil {
				return err
			}
			f.full.Store(w.Size() >= fullSegment || len(f.entries) >= f.most)
		}
		if !f.complete {
			return errGivenUp
		}
		return nil
	})
	if err != nil {
		return err
	}
	written = append(written, seg.ID.Name())
	var tables []base.Table
	if len(f.entries) > 0 {
		table, err := e.writeEntries(ctx, f.entries)
		if err != nil {
			return err
		}
		written = append(written, table.ID.Name())
		tables = append(tables, table)
	}
	f.entries = nil
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
	b.Tables = append(b.Tables, tables...)
	b.Live += f.live
	b.BlobBytes += f.blobBytes
	if len(tables) > 0 {
		// Before the base: the log has both, or the mark alone.
		e.log.RaiseOidMark(e.oids.stored(f.maxOid))
	}
	_, err = e.adopt(ctx, b, txlog.BaseImport, nil, func() (bool, error) {
		if seg.First <= e.seq.last {
			return false, fmt.Errorf("transaction %s cannot be imported: %s was committed meanwhile", seg.First, e.seq.last)
		}
		e.seq.last = seg.Last
		return true, nil
	})
	return err
}

func (e *Engine) writePortion(ctx context.Context, f *importedFile, p *importedPortion, w *segment.Writer) error {
	<-p.described
	if err := e.putBlobs(ctx, f, p); err != nil {
		return err
	}
	for i := range p.txns {
		t, records := &p.txns[i], p.of(i)
		if err := w.Begin(t.tid, t.meta, uint32(len(records))); err != nil {
			return err
		}
		for k := range records {
			rec := &records[k]
			if err := w.Add(rec); err != nil {
				return err
			}
			f.entries = append(f.entries, index.Entry{Oid: rec.Oid, Tid: t.tid, K: rec.K, Deleted: rec.Deleted})
		}
	}
	f.live += p.live
	f.maxOid = max(f.maxOid, p.maxOid)
	p.clear()
	select {
	case f.used <- p:
	default:
	}
	return nil
}

// putBlobs uploads the blobs of a portion, and has the records name them.
func (e *Engine) putBlobs(ctx context.Context, f *importedFile, p *importedPortion) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(importBlobs)
	for _, from := range p.blobs {
		rec := &p.records[from.record]
		group.Go(func() error {
			err := e.putBlob(gctx, from, &rec.Blob)
			if err != nil {
				return fmt.Errorf("the blob of object %s: %w", rec.Oid, err)
			}
			return nil
		})
	}
	err := group.Wait()
	for _, from := range p.blobs {
		if ref := p.records[from.record].Blob; ref != nil {
			f.blobs = append(f.blobs, ref.ID.Name())
			f.blobBytes += ref.Size
		}
	}
	return err
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
