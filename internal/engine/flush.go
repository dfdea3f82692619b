package engine

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"s3storage/internal/index"
	"s3storage/internal/pydata"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// flushRetry is how long a flush that failed waits for its next try.
const flushRetry = 5 * time.Second

// compact flushes the tail when it has grown, and merges.
func (e *Engine) compact(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-e.janitor.flush:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		err := e.flush(ctx)
		if err == nil {
			err = e.merge(ctx)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, zodb.ErrReadOnly) {
			e.opts.Logger.Error("cannot write out what was committed lately; it stays in the log and in memory; trying again",
				"bucket", e.bucket.Properties().Location, "err", err)
			again = time.After(flushRetry)
		}
	}
}

// Flush writes out as a segment what is in the log only, if there is anything.
func (e *Engine) Flush(ctx context.Context) error {
	if err := e.ReadOnly(); err != nil {
		return err
	}
	return e.flush(ctx)
}

// lastFlush writes out the tail when the engine is closed, so that it opens fast.
func (e *Engine) lastFlush(ctx context.Context) {
	if err := e.flush(ctx); err != nil && e.leads() == nil {
		e.opts.Logger.Warn("what was committed last stays in the log; opening this database will read it there",
			"bucket", e.bucket.Properties().Location, "err", err)
	}
}

func (e *Engine) flush(ctx context.Context) error {
	let, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer let()
	return e.flushHeld(ctx)
}

// flushHeld does it. The caller holds the changes of the base.
func (e *Engine) flushHeld(ctx context.Context) error {
	if err := e.leads(); err != nil {
		return err
	}
	old := e.freeze()
	if len(old) == 0 {
		return nil
	}
	b := e.successor()
	var txns []*txlog.Transaction
	for _, t := range old {
		txns = append(txns, t.txns...)
		b.Live += t.live
		b.BlobBytes += t.blobBytes
	}
	b.Position = old[len(old)-1].end
	var written []string
	defer func() { e.uploads.remove(written...) }()
	if len(txns) > 0 {
		seg, err := e.writeSegment(ctx, math.MaxInt, e.blocksAhead(), func(w *segment.Writer) error { return e.fill(ctx, w, txns) })
		if err != nil {
			return err
		}
		written = append(written, seg.ID.Name())
		b.Segments = append(b.Segments, seg)
	}
	if entries := entriesOf(txns); len(entries) > 0 {
		table, err := e.writeEntries(ctx, entries)
		if err != nil {
			return err
		}
		written = append(written, table.ID.Name())
		b.Tables = append(b.Tables, table)
	}
	_, err := e.adopt(ctx, b, txlog.BaseFlush, nil, nil)
	if err == nil {
		e.roomMade()
	}
	return err
}

// freeze ends the tail that grows, if there is anything in it, and returns the
// tails that do not.
func (e *Engine) freeze() []*tail {
	e.state.Lock()
	defer e.state.Unlock()
	n := len(e.state.tails)
	last := e.state.tails[n-1]
	if n == 1 && (len(last.txns) > 0 || len(last.log) >= e.opts.FlushObjects) {
		e.state.tails = append(slices.Clone(e.state.tails), newTail(last.end))
		n++
	}
	return slices.Clone(e.state.tails[:n-1])
}

func entriesOf(txns []*txlog.Transaction) (entries []index.Entry) {
	for _, txn := range txns {
		for k := range txn.Records {
			rec := &txn.Records[k]
			entries = append(entries, index.Entry{Oid: rec.Oid, Tid: txn.Tid, K: uint32(k), Deleted: rec.Kind == txlog.RecordDeletion})
		}
	}
	return entries
}

// fill writes transactions of the tail into a segment.
func (e *Engine) fill(ctx context.Context, w *segment.Writer, txns []*txlog.Transaction) error {
	payloads := payloadReader{e: e}
	for _, txn := range txns {
		if err := w.Begin(txn.Tid, txn.Meta, uint32(len(txn.Records))); err != nil {
			return err
		}
		for k := range txn.Records {
			out, err := e.recordOf(ctx, &payloads, txn, k)
			if err != nil {
				return err
			}
			if err := w.Add(describe(&out)); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// describe draws from the data of a record what a segment says of it.
func describe(rec *segment.Record) *segment.Record {
	if rec.Deleted {
		return rec
	}
	rec.Size = uint32(len(rec.Data))
	if s, err := pydata.Inspect(rec.Data); err == nil {
		rec.Class, rec.Refs, rec.RefsKnown = s.Class, s.References, true
	}
	return rec
}

// payloadReader reads records of payload objects in the order in which they lie
// there.
type payloadReader struct {
	e      *Engine
	name   string
	offset uint32
	window []byte
}

const payloadWindow = 4 << 20

func (p *payloadReader) read(ctx context.Context, txn *txlog.Transaction, rec *txlog.Record) ([]byte, error) {
	name, at := txn.Payloads[rec.Payload].Name(), rec.Span
	inside := func() bool {
		return name == p.name && at.Offset >= p.offset && uint64(at.Offset)+uint64(at.Size) <= uint64(p.offset)+uint64(len(p.window))
	}
	if at.Size < payloadWindow && !inside() {
		window, err := p.e.bucket.GetRange(ctx, name, int64(at.Offset), payloadWindow)
		if err == nil {
			p.name, p.offset, p.window = name, at.Offset, window
		}
	}
	if inside() {
		if data, err := txlog.DecodeRecord(name, at, p.window[at.Offset-p.offset:][:at.Size], rec.Oid); err == nil {
			return data, nil
		}
	}
	// Alone, and again if it was damaged on the way.
	data, err := txlog.ReadRecord(ctx, p.e.bucket, name, at, rec.Oid)
	return data, p.e.damage(err, rec.Oid, txn.Tid)
}
