package storagetest

import (
	"bytes"
	"context"
	"io"

	"s3storage/internal/zodb"
)

// A memoryBlob is a blob, and the upload of it.
type memoryBlob struct {
	ctx    context.Context // of the upload
	data   []byte
	stored bool
}

// NewBlob implements zodb.Storage.
func (m *Memory) NewBlob(ctx context.Context) (zodb.BlobUpload, error) {
	if err := m.ReadOnly(); err != nil {
		return nil, err
	}
	return &memoryBlob{ctx: ctx}, nil
}

func (b *memoryBlob) Write(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

func (b *memoryBlob) Abort() {
	if !b.stored {
		b.data = nil
	}
}

// LoadBlob implements zodb.Storage.
func (m *Memory) LoadBlob(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.revisionLocked(oid, serial)
	if r == nil || r.blob == nil {
		return nil, &zodb.POSKeyError{Oid: oid}
	}
	return io.NopCloser(&blobReader{ctx, bytes.NewReader(r.blob.data)}), nil
}

type blobReader struct {
	ctx context.Context
	r   io.Reader
}

func (b *blobReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}
