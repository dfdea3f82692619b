package zeo

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"s3storage/internal/zodb"
)

// A blob goes to the client as receiveBlobStart, a receiveBlobChunk for each
// blobChunk bytes, receiveBlobStop and the reply to sendBlob. It is read chunk by
// chunk, and the next chunk is queued only when little else is (addBulk of the
// outbox), so that it holds up no other reply; blobs that are sent at the same
// time take turns.
//
// A stock client appends the chunks to a file that receiveBlobStart has made. If
// that file is there already, it logs an error, and appends to it all the same.
// So a blob that was broken off must never be started again, or the client ends
// up with a blob that begins twice. Therefore
//   - a blob is started only when its first bytes are at hand;
//   - what was broken off by an error is remembered, and the client's next
//     sendBlob goes on from there, without another receiveBlobStart;
//   - a server that shuts down sends to the end what it has started.
//
// A connection that is lost in the midst of a blob leaves such a file behind,
// whatever a server does.
const (
	blobChunk  = 59_000 // bytes, as the reference server sends them
	maxStreams = 4      // blobs on their way to one client at a time; each takes some 8 MiB
	maxAsked   = 1000   // blobs that one client has asked for at a time
	maxPartial = 1000   // blobs broken off that are remembered for one client
)

// A blobKey names the blob of one revision.
type blobKey struct {
	oid    zodb.Oid
	serial zodb.Tid
}

// sendBlob(oid, serial) -> None
func (c *conn) sendBlob(k *call) (any, error) {
	oid, err := k.oid()
	if err != nil {
		return nil, err
	}
	serial, err := k.tid(1)
	if err != nil {
		return nil, err
	}
	if err := c.acquire(c.asked); err != nil {
		return nil, &protocolError{err}
	}
	id, oneWay := slices.Clone(k.id), k.oneWay
	c.tasks.Go(func() {
		defer func() { <-c.asked }()
		s := &stream{c: c, blobKey: blobKey{oid, serial}}
		err := s.send()
		if err != nil {
			s.remember()
		}
		switch {
		case oneWay:
		case err != nil:
			c.fail(id, err)
		default:
			c.reply(id, nil)
		}
		s.end()
	})
	return nil, errLater
}

// A stream is a blob on its way.
type stream struct {
	c *conn
	blobKey
	busy    bool  // the connection must not be hung up
	started bool  // the client has its receiveBlobStart
	sent    int64 // bytes of the blob that are queued
}

func (s *stream) send() error {
	c := s.c
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	s.resume()
	r, err := c.storage.LoadBlob(c.ctx, s.oid, s.serial)
	if errors.As(err, new(*zodb.POSKeyError)) {
		return &Error{classPOSKey, Tuple{"there is no blob of this revision", s.oid, s.serial}}
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, s.sent); err != nil {
		return s.failed(err)
	}
	// Chunks are read into the frame that sends them.
	const name = "receiveBlobChunk"
	frame, err := c.enc.AppendOneWay(nil, name, Tuple{s.oid, s.serial, make([]byte, blobChunk)})
	if err != nil {
		return err
	}
	end := len(frame) - c.enc.tripleTail()
	chunk := frame[end-blobChunk : end]
	for last := false; !last; {
		n, err := io.ReadFull(r, chunk)
		if last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); !last && err != nil {
			return s.failed(err)
		}
		if err := s.start(); err != nil {
			return err
		}
		switch {
		case n == 0:
			continue
		case last:
			err = s.queue(name, Tuple{s.oid, s.serial, chunk[:n]})
		default:
			err = c.out.addBulk(frame)
		}
		if err != nil {
			return err
		}
		s.sent += int64(n)
	}
	return s.queue("receiveBlobStop", Tuple{s.oid, s.serial})
}

func (s *stream) failed(err error) error {
	return fmt.Errorf("read the blob of object %s, revision %s, at byte %d: %w", s.oid, s.serial, s.sent, err)
}

// start tells the client that a blob comes, once, unless the server is about to
// hang up.
func (s *stream) start() error {
	if !s.busy {
		s.c.mu.Lock()
		s.busy = !s.c.draining.Load()
		if s.busy {
			s.c.mu.streams++
		}
		s.c.mu.Unlock()
	}
	switch {
	case !s.busy:
		return &Error{classStorage, Tuple{"the server is being shut down"}}
	case s.started:
		return nil
	}
	s.started = true
	return s.queue("receiveBlobStart", Tuple{s.oid, s.serial})
}

func (s *stream) queue(name string, args Tuple) error {
	frame, err := s.c.enc.AppendOneWay(nil, name, args)
	if err != nil {
		return err
	}
	return s.c.out.addBulk(frame)
}

// resume takes up what was broken off.
func (s *stream) resume() {
	mu := &s.c.mu
	mu.Lock()
	defer mu.Unlock()
	s.sent, s.started = mu.partial[s.blobKey]
	delete(mu.partial, s.blobKey)
}

// remember notes where the blob was broken off, before the client can ask again.
func (s *stream) remember() {
	if !s.started {
		return
	}
	mu := &s.c.mu
	mu.Lock()
	if mu.partial == nil {
		mu.partial = map[blobKey]int64{}
	}
	mu.partial[s.blobKey] = s.sent
	full := len(mu.partial) > maxPartial
	mu.Unlock()
	if full {
		s.c.out.fail(fmt.Errorf("more than %d blobs could not be sent to their ends", maxPartial))
	}
}

// end lets a server that has waited for the stream hang up.
func (s *stream) end() {
	if s.busy {
		s.c.mu.Lock()
		s.c.mu.streams--
		s.c.mu.Unlock()
	}
	if s.c.draining.Load() {
		s.c.drain()
	}
}
