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

// OpenReadOnly opens the database in a bucket as it is now, without taking the
// lead or writing anything. It stays as it is: what is committed later is not
// seen. What it needs is kept by a server for its grace period only.
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
	lo := (*logObserver)(e)
	_, err = txlog.Walk(ctx, b, f,
		func(c *txlog.Checkpoint) error { return lo.Reset(ctx, c) },
		func(o *txlog.Object, end txlog.Position) error {
			err := lo.Fetch(ctx, o)
			if err == nil {
				lo.Settled(txlog.Settled{Object: o, End: end})
			}
			return err
		})
	if err == nil && opts.At != (Moment{}) {
		err = e.goBack(ctx, opts.At)
	}
	if err != nil {
		return nil, errors.Join(err, e.disk.Close())
	}
	return e, nil
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
	e.state.Lock()
	defer e.state.Unlock()
	all := e.txnsLocked()
	e.state.view, e.state.viewBytes = v, b.Bytes()
	e.state.tails = []*tail{newTail(b.Position)}
	e.state.last = v.Last()
	for _, txns := range all {
		for _, txn := range txns {
			if m.Snapshot == "" && txn.Tid <= m.Tid {
				e.state.tails[0].add(txn)
				e.state.last = txn.Tid
			}
		}
	}
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
		s.LogObjects += t.objects
		s.LogBytes += t.bytes
		s.End = t.end
	}
	return s
}
