package zeo

import "s3storage/internal/zodb"

// An upload is a blob that is arriving. A client sends one at a time, and says
// only at its end for which object and transaction it is. It belongs to the
// reading goroutine, which also writes: while the storage cannot take more, the
// client is not read from.
type upload struct {
	blob zodb.BlobUpload // nil after an error
	err  error           // why the vote will fail
}

// write adds a chunk, unless something has failed already.
func (u *upload) write(chunk []byte) {
	if u.err != nil {
		return
	}
	if _, u.err = u.blob.Write(chunk); u.err != nil {
		u.blob.Abort()
		u.blob = nil
	}
}

// dropUpload lets go of a blob that will not be stored.
func (c *conn) dropUpload() {
	if u := c.upload; u != nil && u.blob != nil {
		u.blob.Abort()
	}
	c.upload = nil
}

// storeBlobStart()
func (c *conn) storeBlobStart(*call) (any, error) {
	if c.readOnly {
		return nil, errReadOnlyConnection
	}
	if c.upload != nil {
		return nil, violation("storeBlobStart was called twice without storeBlobEnd")
	}
	u := &upload{}
	u.blob, u.err = c.storage.NewBlob(c.ctx)
	c.upload = u
	return nil, nil
}

// storeBlobChunk(bytes)
func (c *conn) storeBlobChunk(k *call) (any, error) {
	chunk, err := k.bytes(0, "chunk")
	if err != nil {
		return nil, err
	}
	if c.upload == nil {
		return nil, violation("storeBlobChunk was called without storeBlobStart")
	}
	c.out.flush() // it may take a while until the next time
	c.upload.write(chunk)
	return nil, nil
}

// storeBlobEnd(oid, serial, data, id)
func (c *conn) storeBlobEnd(k *call) (any, error) {
	if c.upload == nil {
		return nil, violation("storeBlobEnd was called without storeBlobStart")
	}
	defer c.dropUpload()
	return c.change(k, 3, func(t *txn, oid zodb.Oid, serial zodb.Tid) error {
		data, err := k.ownData()
		if err == nil {
			err = c.upload.err
		}
		if err != nil {
			return err
		}
		blob := c.upload.blob
		c.upload = nil
		return t.inner.StoreBlob(oid, serial, data, blob)
	})
}

// storeBlobShared(oid, serial, data, file name, id) comes from clients that look
// for blobs in a directory of the server's.
func (c *conn) storeBlobShared(k *call) (any, error) {
	t, err := c.writable(k, 4)
	if err != nil {
		return nil, err
	}
	t.spoil(errSharedBlobs)
	return nil, nil
}

var errSharedBlobs = &Error{classUnsupported, Tuple{
	"this server keeps blobs in a bucket and shares no directory with its clients: " +
		"configure `shared-blob-dir false` in the client's <zeoclient>"}}
