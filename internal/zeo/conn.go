package zeo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"s3storage/internal/zodb"
)

const (
	maxTasks = 64 // reads of the storage under way for one connection

	maxHello   = 64      // bytes of the first frame
	maxUnknown = 4 << 10 // bytes of a frame before register
	maxLabel   = 200     // bytes of a client's label

	ruok = "ruok"
)

// A conn is one client. Its fields belong to the reading goroutine, but for
// out, tasks and what mu guards.
type conn struct {
	srv    *Server
	nc     net.Conn // a *tls.Conn where the listener asks for TLS
	access Access
	log    *slog.Logger
	frames *FrameReader
	out    *outbox

	ctx    context.Context // done when the connection is at its end
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	slots  chan struct{} // for reads of the storage

	asked, streams chan struct{} // for blobs that are to be sent, and are being sent
	undoing        chan struct{} // held by the undo log that is being read

	// After the handshake.
	enc         Encoding
	mayOnlyRead string // why, "" if it may write too

	// After register.
	name     string
	storage  zodb.Storage
	cached   zodb.CachedLoader // nil where the storage is none
	news     *news
	readOnly bool
	label    string
	upload   *upload // the blob that is arriving, or nil

	draining   atomic.Bool
	registered atomic.Pointer[string] // name, for others to see

	mu struct {
		sync.Mutex
		txn       *txn       // the one begun last, nil when it is at its end
		finishing int        // transactions handed to Finish, not yet done
		streams   int        // blobs of which the client has a part
		peer      *otherNode // nil but for another node's

		partial      map[blobKey]int64 // of blobs that were broken off, the bytes sent
		iterators    map[int64]*iterator
		nextIterator int64
	}
}

func newConn(s *Server, nc net.Conn, a Access) *conn {
	c := &conn{
		srv:    s,
		nc:     nc,
		access: a,
		log:    s.opts.Logger.With("peer", peerName(nc)),
		frames: NewFrameReader(nc, maxHello),
		slots:  make(chan struct{}, maxTasks),

		asked:   make(chan struct{}, maxAsked),
		streams: make(chan struct{}, maxStreams),
		undoing: make(chan struct{}, 1),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.out = newOutbox(nc, s.opts.MaxInvalidations, c.cancel)
	return c
}

// A protocolError is something no correct client does. It ends the connection.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

func violation(format string, args ...any) error {
	return &protocolError{fmt.Errorf(format, args...)}
}

// serve lives as long as the connection.
func (c *conn) serve() {
	go c.out.write()
	err := c.run()
	var bad *protocolError
	if why := c.out.reason(); why != nil && !errors.As(err, &bad) {
		err = why
	}
	c.out.fail(errTornDown) // cancels ctx
	if c.storage != nil {
		c.storage.Unsubscribe(c)
		if p := c.peer(); p != nil {
			p.leave(c)
		}
	}
	c.dropUpload()
	aborted := c.abandon()
	c.tasks.Wait()
	<-c.out.finished
	c.nc.Close()
	c.logEnd(err, aborted)
}

func (c *conn) logEnd(err error, aborted bool) {
	log := c.log.With("storage", c.name, "label", c.label)
	if aborted {
		log = log.With("transaction", "aborted")
	}
	var bad *protocolError
	var noTLS *tlsError
	var timeout *timeoutError
	switch {
	case errors.As(err, &timeout):
		log.Error("transaction timeout: the client voted and did not finish; its connection is closed", "timeout", timeout.after)
	case errors.Is(err, io.EOF), errors.Is(err, errHungUp), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET): // Python's way of closing what it has not read to the end
		if c.name == "" {
			log.Debug("disconnected before register")
		} else {
			log.Info("disconnected")
		}
	case errors.As(err, &bad):
		log.Warn("connection closed: the client broke the protocol", "error", err)
	case errors.As(err, &noTLS):
		log.Warn("connection closed: no TLS with this client", "error", err)
	default:
		log.Warn("connection lost", "error", err)
	}
}

func (c *conn) run() error {
	if err := c.enter(); err != nil {
		return err
	}
	c.out.add(AppendFrame(nil, []byte(c.srv.opts.Encoding.String())))
	c.nc.SetReadDeadline(time.Now().Add(c.srv.opts.HandshakeTimeout))
	hello, _, err := c.frames.Next()
	if looksLikeTLS(err) {
		return violation("the client speaks TLS, and this address does not")
	}
	if err != nil {
		return c.readError(err)
	}
	if string(hello) == ruok {
		c.out.add(AppendFrame(nil, c.srv.statusJSON()))
		c.out.end()
		<-c.out.finished
		return nil
	}
	if c.enc, err = ParseHandshake(hello); err != nil {
		return &protocolError{err}
	}
	c.nc.SetReadDeadline(time.Time{})
	c.frames.Max = min(maxUnknown, c.srv.opts.MaxFrame)
	c.log.Debug("connected", "encoding", c.enc.String())
	for {
		if !c.frames.Ready() {
			c.out.flush()
		}
		if err := c.out.waitRoom(); err != nil {
			return err
		}
		frame, owned, err := c.frames.Next()
		if err != nil {
			return c.readError(err)
		}
		if err := c.take(frame, owned); err != nil {
			return err
		}
	}
}

func (c *conn) readError(err error) error {
	var size *FrameSizeError
	if errors.As(err, &size) {
		return &protocolError{err}
	}
	return err
}

// take deals with one frame. An error ends the connection.
func (c *conn) take(frame []byte, owned bool) error {
	if c.storage != nil {
		if id, oid, tid, ok := c.enc.DecodeLoadBefore(frame); ok {
			return c.load(id, oid, tid)
		}
	}
	m, err := c.enc.Decode(frame)
	if err != nil {
		return &protocolError{err}
	}
	if m.IsHeartbeat(c.enc) {
		return nil
	}
	err = c.call(&m, owned)
	if c.draining.Load() {
		c.drain()
	}
	return err
}

// drain hangs up unless a transaction was voted for, or a blob is being sent.
func (c *conn) drain() {
	c.draining.Store(true)
	c.mu.Lock()
	busy := c.mu.finishing > 0 || c.mu.streams > 0 || c.mu.txn != nil && c.mu.txn.state == txnVoted
	c.mu.Unlock()
	if !busy {
		c.out.end()
	}
}

// reply queues the answer to a call, fail the exception.
func (c *conn) reply(id ID, value any) {
	frame, err := c.enc.AppendReply(nil, id, value)
	if err != nil {
		c.fail(id, err)
		return
	}
	c.out.add(frame)
}

func (c *conn) fail(id ID, err error) {
	frame, err2 := c.enc.AppendError(nil, id, ErrorFrom(err))
	if err2 != nil {
		frame, err2 = c.enc.AppendError(nil, id, ErrorFrom(fmt.Errorf("%v (%w)", err, err2))) //nolint:errorlint // ErrorFrom would find a wrapped err, which cannot be encoded
	}
	if err2 != nil { // text always can be sent
		panic(err2)
	}
	c.out.add(frame)
}

// acquire takes a slot, waiting until there is one. The reading goroutine waits
// with it.
func (c *conn) acquire(slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	default:
	}
	c.out.flush()
	select {
	case slots <- struct{}{}:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// task runs f, which may wait for the storage, in a goroutine.
func (c *conn) task(f func()) error {
	if err := c.acquire(c.slots); err != nil {
		return err
	}
	c.tasks.Go(func() {
		defer func() { <-c.slots }()
		f()
	})
	return nil
}
