package engine

import (
	"context"
	"errors"
	"fmt"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// OpenReadOnly opens the database in a bucket as it is now, or was, without taking the
// lead or writing anything. It stays as it is: what is committed later is not seen. A
// server may run on the bucket, and delete files: then they are looked for anew. Reads
// fail once that server has packed to a later moment, or taken the database back to
// an earlier one, unless what is shown is a snapshot.
func OpenReadOnly(ctx context.Context, b bucket.Bucket, opts Options) (*Engine, error) {
	opts.setDefaults()
	f, err := txlog.ReadFormat(ctx, b)
	if err != nil {
		return nil, err
	}
	e, err := newEngine(b, f, opts)
	if err != nil {
		return nil, err
	}
	e.seq.readOnly = fmt.Errorf("%w: the database was opened for reading only", zodb.ErrReadOnly)
	err = e.readLog(ctx)
	if now := e.LastTransaction(); opts.At == (Moment{}) || opts.At.Tid > now {
		e.opts.At.Tid = now // also if more is committed
	}
	if err == nil && opts.At != (Moment{}) {
		err = e.goBack(ctx, opts.At)
	}
	if err != nil {
		return nil, errors.Join(err, e.disk.Close())
	}
	e.readAhead()
	return e, nil
}

// readLog has an engine without a log show what the database is now.
func (e *Engine) readLog(ctx context.Context) error {
	lo := (*logObserver)(e)
	_, err := txlog.Walk(ctx, e.bucket, e.format,
		func(c *txlog.Checkpoint) error { return lo.Reset(ctx, c) },
		func(o *txlog.Object, end txlog.Position) error {
			err := lo.Fetch(ctx, o)
			if err == nil {
				lo.Settled(txlog.Settled{Object: o, End: end})
			}
			return err
		})
	return err
}

// goBack has an engine without a log show what the database was at a moment.
func (e *Engine) goBack(ctx context.Context, m Moment) error {
	b, err := e.past(ctx, m)
	if err != nil {
		return err
	}
	v, err := e.reader.View(ctx, b)
	if err != nil {
		return err
	}
	t := newTail(b.Position)
	if m.Snapshot == "" { // else the base accounts for all
		t = e.tailUpTo(b.Position, m.Tid)
	}
	e.state.Lock()
	defer e.state.Unlock()
	e.showLocked(v, t)
	e.state.last = v.Last()
	if n := len(t.txns); n > 0 {
		e.state.last = t.txns[n-1].Tid
	}
	return nil
}

// tailUpTo returns what of the tail does not come after a transaction.
func (e *Engine) tailUpTo(end txlog.Position, tid zodb.Tid) *tail {
	e.state.RLock()
	defer e.state.RUnlock()
	upTo := newTail(end)
	for _, txns := range e.txnsLocked() {
		for _, txn := range txns {
			if txn.Tid <= tid {
				upTo.add(txn)
			}
		}
	}
	return upTo
}

// showLocked puts a base and a tail into the place of what is shown.
func (e *Engine) showLocked(v *base.View, t *tail) {
	e.state.view, e.state.viewBytes = v, v.Bytes()
	e.state.tails = []*tail{t}
}

// renew has an engine that shows the past look for its files anew, of which one was
// lost: a server may have put others into their places. old is the base that the file
// belongs to.
func (e *Engine) renew(ctx context.Context, lost error, old *base.View) error {
	let, err := e.hold(ctx)
	if err != nil {
		return err
	}
	defer let()
	if e.outdated(old) {
		return nil
	}
	now := &Engine{bucket: e.bucket, format: e.format, opts: e.opts, cache: e.cache, disk: e.disk, reader: e.reader, janitor: e.janitor}
	now.state.adopting = make(map[txlog.BaseID]adoption)
	if err := now.readLog(ctx); err != nil {
		return fmt.Errorf("%w; looking for what took its place: %w", lost, err)
	}
	b, at := now.state.view.Base, e.opts.At
	switch {
	case b.ID == old.ID:
		return lost
	case b.Rolled != old.Rolled:
		return fmt.Errorf("the database was taken back to an earlier state since it was opened as it was at %s: open it anew, at a snapshot", at)
	}
	if err := reachesBack(b, at); err != nil {
		return err
	}
	past := b.Until(at.Tid)
	v, err := e.reader.View(ctx, past)
	if err != nil {
		return err
	}
	t := now.tailUpTo(past.Position, at.Tid)
	e.state.Lock()
	defer e.state.Unlock()
	past.Live = e.infoLocked().Objects - t.live // as it was
	e.showLocked(v, t)
	return nil
}

// A Survey tells what makes up a database.
type Survey struct {
	Format       *txlog.Format
	Base         *base.Base
	Objects      int64
	Transactions int64
	Revisions    int64
	Last         zodb.Tid
	End          txlog.Position // of the log

	LogObjects int   // behind the base
	LogBytes   int64 // of these, and of the payload objects that they name
}

// Survey looks at what is settled.
func (e *Engine) Survey() Survey {
	e.state.RLock()
	defer e.state.RUnlock()
	s := Survey{Format: e.format, Base: e.state.view.Base, Objects: e.infoLocked().Objects, Last: e.state.last}
	for i := range s.Base.Segments {
		s.Transactions += s.Base.Segments[i].Txns
		s.Revisions += s.Base.Segments[i].Records
	}
	for _, t := range e.state.tails {
		s.Transactions += int64(len(t.txns))
		for _, txn := range t.txns {
			s.Revisions += int64(len(txn.Records))
		}
		s.LogObjects += len(t.log)
		s.LogBytes += t.bytes()
		s.End = t.end
	}
	return s
}
