package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// hold has no other change of the base made until let is called.
func (e *Engine) hold(ctx context.Context) (let func(), err error) {
	select {
	case e.changing <- struct{}{}:
		e.making = e.reign()
		return func() { <-e.changing }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// holdSince is hold for a change that was begun in a reign of this node. If another
// node has led since, it fails: that may have swept away files of the change, and
// committed what the change has not seen.
func (e *Engine) holdSince(ctx context.Context, reign int) (let func(), err error) {
	if let, err = e.hold(ctx); err != nil {
		return nil, err
	}
	if e.making != reign {
		let()
		return nil, errLedMeanwhile
	}
	return let, nil
}

// holdFiles has no pack and no merge go on until let is called: they count on the
// files that they began with. It comes before hold.
func (e *Engine) holdFiles(ctx context.Context) (let func(), err error) {
	select {
	case e.packing <- struct{}{}:
		return func() { <-e.packing }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// successor returns a base like the present one, to be changed.
func (e *Engine) successor() *base.Base {
	e.state.RLock()
	b := *e.state.view.Base
	b.Position = e.state.position
	e.state.RUnlock()
	b.ID = base.NewID()
	b.Number++
	b.Origins = slices.Clone(b.Origins)
	b.Segments = slices.Clone(b.Segments)
	b.Tables = slices.Clone(b.Tables)
	b.Snapshots = slices.Clone(b.Snapshots)
	b.Rewrites = slices.Clone(b.Rewrites)
	return &b
}

// grown returns an error unless a base has the files of another one and some more
// behind them: if another node has led meanwhile, it may have joined or packed them.
func grown(b, from *base.Base) error {
	same := len(b.Segments) >= len(from.Segments) && len(b.Tables) >= len(from.Tables)
	for i := 0; same && i < len(from.Segments); i++ {
		same = b.Segments[i].ID == from.Segments[i].ID
	}
	for i := 0; same && i < len(from.Tables); i++ {
		same = b.Tables[i].ID == from.Tables[i].ID
	}
	if !same {
		return fmt.Errorf("%w: another server has changed the files of this database meanwhile", zodb.ErrNotCommitted)
	}
	return nil
}

// adopt has the log adopt a successor of the present base, and waits until it has.
// The caller holds the changes of the base. If ready is given, it decides under the
// lock that orders transactions whether it may be put into the log now; where it
// may not, adopt returns false. blobs are the names of those that are not needed any
// more.
//
// The context is for the writing of the base; then there is no way back: the next
// change must not be made of an older base.
func (e *Engine) adopt(ctx context.Context, b *base.Base, why txlog.BaseKind, blobs []string, ready func() (bool, error)) (bool, error) {
	v, err := e.reader.View(ctx, b)
	if err != nil {
		return false, err
	}
	name := base.Name(b.ID)
	e.uploads.add(name)
	defer e.uploads.remove(name) // by then it is adopted, or may be, or will not be
	if err := b.Write(ctx, e.bucket, e.format.Database); err != nil {
		return false, err
	}
	e.state.Lock()
	e.state.adopting[b.ID] = adoption{view: v, blobs: blobs}
	e.state.Unlock()
	e.seq.Lock()
	err = e.leadsLocked()
	if err == nil {
		err = e.sameReignLocked(e.making)
	}
	ok := true
	if err == nil && ready != nil {
		ok, err = ready()
	}
	if err == nil && ok {
		e.log.AppendBase(txlog.BaseChange{ID: b.ID, Why: why})
		if why == txlog.BasePack || why == txlog.BaseRestore {
			e.seq.packs++
		}
	}
	e.seq.Unlock()
	if err != nil || !ok {
		e.state.Lock()
		delete(e.state.adopting, b.ID)
		e.state.Unlock()
		return false, err
	}
	if err := e.awaitLead(context.WithoutCancel(ctx), e.making, func() bool { return e.state.view == v }); err != nil {
		return false, fmt.Errorf("%w; whether the log has adopted %s will be known when the database is opened again", err, name)
	}
	if err := e.checkpoint(ctx); err != nil {
		// Nothing is lost: the log is longer than it has to be.
		e.opts.Logger.Warn("could not write a checkpoint; opening this database will read more of the log",
			"bucket", e.bucket.Properties().Location, "err", err)
		return true, nil
	}
	e.janitor.poke() // what was replaced may go, in time
	return true, nil
}

// checkpoint has a checkpoint name the present base, if none does.
func (e *Engine) checkpoint(ctx context.Context) error {
	e.state.Lock()
	v := e.state.view
	named := v.Number <= e.state.checkpointed
	if t := e.growingLocked(); !named && len(e.state.tails) == 1 && len(t.txns) == 0 {
		// There is no transaction behind the base: the log need not be read.
		e.state.position = t.end
	}
	position := e.state.position
	e.state.Unlock()
	if named {
		return nil
	}
	if err := e.log.WriteCheckpoint(ctx, v.ID, position); err != nil {
		return err
	}
	e.state.Lock()
	e.state.checkpointed = max(e.state.checkpointed, v.Number)
	e.state.Unlock()
	return nil
}

// blocksAhead is how many blocks of a segment are compressed at a time beside who
// writes it. One processor is left to commits and loads, if there are any.
func (e *Engine) blocksAhead() int {
	if e.opts.Unserved {
		return runtime.GOMAXPROCS(0)
	}
	return max(runtime.GOMAXPROCS(0)-2, 0)
}

// writeSegment puts a segment of what fill writes, with blocks compressed ahead. In
// one attempt fill is called once.
func (e *Engine) writeSegment(ctx context.Context, attempts, ahead int, fill func(*segment.Writer) error) (base.Segment, error) {
	id := segment.NewID()
	var info segment.Info
	err := e.writeFile(ctx, attempts, id.Name(), func(out io.Writer) (err error) {
		w := segment.NewWriter(out, e.format.Database, id, ahead)
		defer w.Abort()
		if err = fill(w); err == nil {
			info, err = w.Close()
		}
		return err
	})
	return base.Segment{Info: info}, err
}

// writeTable puts an index table of the entries.
func (e *Engine) writeTable(ctx context.Context, entries func(func(index.Entry, error) bool)) (base.Table, error) {
	id := index.NewID()
	var info index.Info
	err := e.writeFile(ctx, math.MaxInt, id.Name(), func(out io.Writer) (err error) {
		w := index.NewWriter(out, e.format.Database, id)
		for entry, err := range entries {
			if err == nil {
				err = w.Add(entry)
			}
			if err != nil {
				return err
			}
		}
		info, err = w.Close()
		return err
	})
	return base.Table{Info: info}, err
}

// writeEntries puts an index table of entries in any order, which it sorts.
func (e *Engine) writeEntries(ctx context.Context, entries []index.Entry) (base.Table, error) {
	slices.SortFunc(entries, func(a, b index.Entry) int {
		return cmp.Or(cmp.Compare(a.Oid, b.Oid), cmp.Compare(a.Tid, b.Tid))
	})
	return e.writeTable(ctx, func(yield func(index.Entry, error) bool) {
		for _, entry := range entries {
			if !yield(entry, nil) {
				return
			}
		}
	})
}

// writeFile puts an object of random name of what fill writes, in memory that does
// not grow with it. Until it is part of the base, or forgotten, no sweep
// deletes it.
func (e *Engine) writeFile(ctx context.Context, attempts int, name string, fill func(io.Writer) error) error {
	e.uploads.add(name)
	err := bucket.Retry(ctx, attempts, func() error {
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := fill(w)
			done <- err
			w.CloseWithError(err)
		}()
		err := e.bucket.PutStream(ctx, name, r)
		r.CloseWithError(errWriteEnded)
		if filled := <-done; filled != nil && !errors.Is(filled, errWriteEnded) {
			err = &fillError{filled}
		}
		return err
	})
	var failed *fillError
	if errors.As(err, &failed) {
		err = failed.error
	}
	if err != nil {
		e.uploads.remove(name)
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

var errWriteEnded = errors.New("the write has ended")

// A fillError is of what was to be written, and not of the bucket.
type fillError struct{ error }

// Unwrap hides the error from those who would try again.
func (e *fillError) Unwrap() []error { return []error{context.Canceled} }

// names returns the names of the files of a base.
func names(b *base.Base) (all []string) {
	if b.Number > 0 { // else it is that of an empty database, and no object
		all = append(all, base.Name(b.ID))
	}
	for i := range b.Segments {
		if b.Segments[i].Origin == 0 {
			all = append(all, b.Segments[i].ID.Name())
		}
	}
	for i := range b.Tables {
		if b.Tables[i].Origin == 0 {
			all = append(all, b.Tables[i].ID.Name())
		}
	}
	for _, s := range b.Rewritten() {
		all = append(all, s.ID.Name())
	}
	return all
}
