package zeo

import (
	"errors"
	"fmt"
	"io"

	"s3storage/internal/zodb"
)

// StoreBlob stores a new revision with the blob that r reads, over the revision of
// the given serial. Blobs of one client must not be stored at the same time: the
// protocol has no place for a name in their chunks.
func (c *Client) StoreBlob(oid zodb.Oid, serial zodb.Tid, data []byte, r io.Reader, id int64) error {
	if err := c.oneWay("storeBlobStart", Tuple{}); err != nil {
		return err
	}
	chunk := make([]byte, blobChunk)
	for {
		n, err := io.ReadFull(r, chunk)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		if n > 0 {
			if err := c.oneWay("storeBlobChunk", Tuple{chunk[:n]}); err != nil {
				return err
			}
		}
		if last {
			return c.oneWay("storeBlobEnd", Tuple{oid, serial, data, id})
		}
	}
}

// SendBlob writes the blob of the revision to w. It is the goroutine that reads
// the connection which writes: all other replies wait for w. Of one blob only one
// copy can be on its way.
func (c *Client) SendBlob(oid zodb.Oid, serial zodb.Tid, w io.Writer) error {
	key := blobKey{oid, serial}
	in := &clientBlob{w: w}
	c.mu.Lock()
	if c.mu.blobs == nil {
		c.mu.blobs = map[blobKey]*clientBlob{}
	}
	if c.mu.blobs[key] != nil {
		c.mu.Unlock()
		return fmt.Errorf("zeo: the blob of object %s, revision %s, is on its way already", oid, serial)
	}
	c.mu.blobs[key] = in
	c.mu.Unlock()
	c.receiving.Add(1)
	_, err := c.call("sendBlob", Tuple{oid, serial})
	c.receiving.Add(-1)
	c.mu.Lock()
	delete(c.mu.blobs, key)
	c.mu.Unlock()
	switch {
	case err != nil:
		return err
	case in.err != nil:
		return in.err
	case !in.stopped:
		return fmt.Errorf("zeo: the blob of object %s, revision %s, was not sent to its end", oid, serial)
	}
	return nil
}

// A clientBlob takes a blob that the server sends. It belongs to the reader until
// the reply to sendBlob.
type clientBlob struct {
	w       io.Writer
	stopped bool
	err     error
}

// receive looks at a message of the server's about a blob. Those that nobody asked
// for are dropped.
func (c *Client) receive(name string, args Tuple) error {
	if len(args) < 2 {
		return fmt.Errorf("zeo: a malformed %s", name)
	}
	oid, err := oidOf(args[0])
	if err != nil {
		return err
	}
	serial, err := tidOf(args[1], nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	in := c.mu.blobs[blobKey{oid, serial}]
	c.mu.Unlock()
	if in == nil {
		return nil
	}
	return in.take(name, args)
}

func (in *clientBlob) take(name string, args Tuple) error {
	switch {
	case name == "receiveBlobStop":
		in.stopped = true
	case name == "receiveBlobChunk" && len(args) == 3 && in.err == nil:
		chunk, err := bytesOf(args[2], nil)
		if err != nil {
			return err
		}
		_, in.err = in.w.Write(chunk)
	}
	return nil
}
