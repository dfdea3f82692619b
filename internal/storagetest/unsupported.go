package storagetest

import (
	"context"
	"io"

	"s3storage/internal/zodb"
)

// UndoLog implements zodb.Storage.
func (m *Memory) UndoLog(context.Context, int, int, func(*zodb.TxnInfo) bool) ([]zodb.TxnInfo, error) {
	return nil, zodb.ErrUnsupported
}

// Iterate implements zodb.Storage.
func (m *Memory) Iterate(zodb.Tid, zodb.Tid) zodb.TxnIterator { return nothing{} }

// A nothing is an iterator that is not there yet.
type nothing struct{}

func (nothing) Next(context.Context) (zodb.TxnInfo, error) {
	return zodb.TxnInfo{}, zodb.ErrUnsupported
}

func (nothing) Records() zodb.RecordIterator { return nil }

// NextObject implements zodb.Storage.
func (m *Memory) NextObject(context.Context, zodb.Oid) (zodb.Oid, zodb.Revision, bool, error) {
	return 0, zodb.Revision{}, false, zodb.ErrUnsupported
}

// NewBlob implements zodb.Storage.
func (m *Memory) NewBlob() (zodb.BlobUpload, error) { return nil, zodb.ErrUnsupported }

// LoadBlob implements zodb.Storage.
func (m *Memory) LoadBlob(context.Context, zodb.Oid, zodb.Tid) (io.ReadCloser, error) {
	return nil, zodb.ErrUnsupported
}

// Pack implements zodb.Storage.
func (m *Memory) Pack(context.Context, zodb.Tid) error { return zodb.ErrUnsupported }

// StoreBlob implements zodb.Transaction.
func (t *memoryTxn) StoreBlob(zodb.Oid, zodb.Tid, []byte, zodb.BlobUpload) error {
	return zodb.ErrUnsupported
}

// Delete implements zodb.Transaction.
func (t *memoryTxn) Delete(zodb.Oid, zodb.Tid) error { return zodb.ErrUnsupported }

// Undo implements zodb.Transaction.
func (t *memoryTxn) Undo(zodb.Tid) error { return zodb.ErrUnsupported }

// Restore implements zodb.Transaction.
func (t *memoryTxn) Restore(zodb.Oid, []byte, zodb.Tid) error { return zodb.ErrUnsupported }
