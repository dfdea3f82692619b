package engine

import (
	"context"
	"fmt"
	"io"
	"sync"

	"s3storage/internal/blob"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// uploads knows the payload objects and blobs that are put for transactions
// which are not settled. No sweep deletes them.
type uploads struct {
	mu struct {
		sync.Mutex
		names     map[string]struct{}
		announced map[string]int // by other nodes, which put them; in which reign of this one
	}
}

// add takes note of an object before anything of it is put.
func (u *uploads) add(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mu.names[name] = struct{}{}
}

func (u *uploads) remove(names ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range names {
		delete(u.mu.names, name)
	}
}

func (u *uploads) has(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.mu.names[name]
	_, announced := u.mu.announced[name]
	return ok || announced
}

// forget is called when the transaction is settled.
func (u *uploads) forget(t *transaction) {
	for _, id := range t.txn.Payloads {
		u.remove(id.Name())
	}
	for _, b := range t.blobs {
		u.remove(b.name())
	}
}

// An upload is a zodb.BlobUpload.
type upload struct {
	e   *Engine
	id  blob.ID
	out *blob.Upload // nil if another node has put it

	reign int // of this node, in which it was begun

	done chan struct{} // nil until a transaction takes it over; closed when the blob stands or failed
	size int64
	err  error
}

// maxFinishing is how many blobs, taken over by transactions, may wait for the
// bucket. Each holds up to 768 KiB, and clients send the next without waiting.
const maxFinishing = 64

// NewBlob implements zodb.Storage. It waits while too many blobs wait for the
// bucket.
func (e *Engine) NewBlob(ctx context.Context) (zodb.BlobUpload, error) {
	reign := e.reign()
	if err := e.ReadOnly(); err != nil {
		return nil, err
	}
	select {
	case e.finishing <- struct{}{}:
		<-e.finishing // there is room
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	out := blob.NewUpload(ctx, e.bucket, e.format.Database)
	u := &upload{e: e, id: out.ID(), out: out, reign: reign}
	e.uploads.add(u.name()) // the object cannot stand before Finish
	return u, nil
}

func (u *upload) name() string { return u.id.Name() }

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) { return u.out.Write(p) }

// Abort implements zodb.BlobUpload.
func (u *upload) Abort() {
	if u.done == nil {
		u.discard()
	}
}

// discard deletes what was put, behind the caller's back: that may take time.
func (u *upload) discard() {
	u.e.janitor.do(func() {
		if u.done != nil {
			<-u.done
		}
		if err := u.remove(); err != nil && u.e.janitor.ctx.Err() == nil {
			u.e.opts.Logger.Warn("could not delete an aborted blob; a sweep will", "object", u.name(), "err", err)
		}
		u.e.uploads.remove(u.name())
	})
}

// remove deletes what was put.
func (u *upload) remove() error {
	if u.out != nil {
		return u.out.Abort()
	}
	return u.e.bucket.Delete(u.e.janitor.ctx, u.name())
}

// finish has the blob completed while the client goes on.
func (u *upload) finish() {
	u.done = make(chan struct{})
	u.e.janitor.do(func() {
		defer close(u.done)
		u.e.finishing <- struct{}{} // those who have a place leave it by themselves
		defer func() { <-u.e.finishing }()
		u.size, u.err = u.out.Finish()
	})
}

// finished waits until the blob stands.
func (u *upload) finished(ctx context.Context) error {
	select {
	case <-u.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if u.err != nil {
		return fmt.Errorf("storing a blob: %w", u.err)
	}
	return nil
}

// ref is how the log names the blob, once it stands.
func (u *upload) ref() *blob.Ref { return &blob.Ref{ID: u.id, Size: u.size} }

// StoreBlob implements zodb.Transaction.
func (t *transaction) StoreBlob(oid zodb.Oid, serial zodb.Tid, data []byte, b zodb.BlobUpload) error {
	u, ok := b.(*upload)
	if !ok || u.e != t.e || u.done != nil || u.out == nil {
		return fmt.Errorf("the blob of object %s is no open upload to this storage", oid)
	}
	err := t.change(change{
		Record: txlog.Record{Oid: oid, Prev: serial, Kind: txlog.RecordData, Data: data},
		blob:   u,
	})
	if err != nil {
		u.discard()
		return err
	}
	t.blobs = append(t.blobs, u)
	u.finish()
	return nil
}

// LoadBlob implements zodb.Storage.
func (e *Engine) LoadBlob(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (io.ReadCloser, error) {
	r, err := e.one(ctx, oid, serial)
	if err != nil {
		return nil, err
	}
	h, err := e.header(ctx, r)
	if err != nil {
		return nil, err
	}
	if h.blob == nil {
		return nil, &zodb.POSKeyError{Oid: oid}
	}
	e.state.RLock()
	v := e.state.view
	e.state.RUnlock()
	return v.Blob(ctx, h.blob)
}

// discard deletes the payload objects and blobs of a transaction that will not
// be part of the log. What could not be deleted is left to a sweep.
func (t *transaction) discard() {
	for _, u := range t.blobs {
		u.discard()
	}
	for _, id := range t.txn.Payloads {
		t.e.janitor.do(func() {
			if err := t.e.bucket.Delete(t.e.janitor.ctx, id.Name()); err != nil && t.e.janitor.ctx.Err() == nil {
				t.e.opts.Logger.Warn("could not delete the data of an aborted transaction; a sweep will",
					"object", id.Name(), "err", err)
			}
			t.e.uploads.remove(id.Name())
		})
	}
}
