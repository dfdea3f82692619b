package zeo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"s3storage/internal/zodb"
)

// ErrClientClosed is what calls return after Close.
var ErrClientClosed = errors.New("zeo: the connection was closed")

// ClientOptions say how to connect. The zero value connects to storage "1" for
// writing.
type ClientOptions struct {
	Storage  string   // "" stands for "1", the name that servers give to an only storage
	ReadOnly bool     // register as a reader
	Encoding Encoding // 0 takes what the server offers
	MaxFrame int      // 0 stands for DefaultMaxFrame

	// Node, if set, is the name, for people, of the node whose connection this is. It
	// fails where the other end does not lead, and is not told of transactions.
	// NodeAddress is where others reach that node, empty where they do not.
	Node, NodeAddress string

	// OnInvalidate, if set, is told of the transactions of others, in the
	// goroutine that reads the connection. Without it, invalidations are
	// counted and their objects never decoded.
	OnInvalidate func(tid zodb.Tid, oids []zodb.Oid)

	// Follower, if set, is told of the log after Follow.
	Follower LogFollower
}

// A Client is a connection to a ZEO 5 server. Its methods may be called from
// any number of goroutines; calls do not wait for each other's replies.
//
// One goroutine reads the connection and hands out the replies. What is sent
// gathers in a buffer: calls that want a reply write it out, one-way calls do
// not, so that tpc_begin, some storea and vote leave in one piece.
type Client struct {
	conn    net.Conn
	enc     Encoding
	heads   *clientHeads
	options ClientOptions
	done    chan struct{} // closed when the reader has ended

	last          atomic.Uint64
	invalidations atomic.Int64
	receiving     atomic.Int32 // blobs that were asked for

	// out gathers frames to be sent. Its lock is held while they are written.
	out struct {
		sync.Mutex
		buf []byte
	}

	// mu guards who waits for what. No I/O under it.
	mu struct {
		sync.Mutex
		err   error // why the connection ended
		next  int64
		calls map[int64]chan clientReply
		idle  []chan clientReply // of calls that have their replies
		loads map[loadKey]*clientLoad
		spare *clientLoad
		blobs map[blobKey]*clientBlob
	}
}

type clientReply struct {
	value any
	err   error
}

// writeOutAt bounds what one-way calls leave in the buffer.
const writeOutAt = 256 << 10

// Dial connects to a server and registers. An address with a slash in it is the
// path of a socket, any other host:port.
func Dial(ctx context.Context, address string, options ClientOptions) (*Client, error) {
	network := "tcp"
	if strings.Contains(address, "/") {
		network = "unix"
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	// Until there are replies to wait for, only ctx ends a silence.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, err := NewClient(conn, options)
	if !stop() {
		if c != nil {
			c.Close()
		}
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return c, nil
}

// NewClient shakes hands over conn and registers. The client owns conn, which is
// closed if this fails.
func NewClient(conn net.Conn, options ClientOptions) (*Client, error) {
	if options.Storage == "" {
		options.Storage = "1"
	}
	if options.MaxFrame == 0 {
		options.MaxFrame = DefaultMaxFrame
	}
	r := NewFrameReader(conn, options.MaxFrame)
	enc, err := shakeHands(conn, r, options.Encoding)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &Client{conn: conn, enc: enc, heads: headsOf(enc), options: options, done: make(chan struct{})}
	c.mu.calls = map[int64]chan clientReply{}
	c.mu.loads = map[loadKey]*clientLoad{}
	go c.read(r)

	register, args := "register", Tuple{options.Storage, options.ReadOnly}
	if options.Node != "" {
		register, args = "s3_register", Tuple{options.Storage, options.Node, options.NodeAddress}
	}
	tid, err := tidOf(c.call(register, args))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("register storage %q: %w", options.Storage, err)
	}
	c.advance(tid)
	return c, nil
}

func shakeHands(conn net.Conn, r *FrameReader, want Encoding) (Encoding, error) {
	hello, _, err := r.Next()
	if err != nil {
		return 0, fmt.Errorf("handshake: %w", unexpected(err))
	}
	enc, err := ParseHandshake(hello)
	if err != nil {
		return 0, err
	}
	if want != 0 {
		enc = want
	}
	if _, err := conn.Write(AppendFrame(nil, []byte(enc.String()))); err != nil {
		return 0, fmt.Errorf("handshake: %w", err)
	}
	return enc, nil
}

// Encoding returns how this connection writes its messages.
func (c *Client) Encoding() Encoding { return c.enc }

// LastTid returns the newest transaction that this connection knows of: from
// registering, from invalidations and from its own commits.
func (c *Client) LastTid() zodb.Tid { return zodb.Tid(c.last.Load()) }

// Invalidations returns how many transactions of others were announced.
func (c *Client) Invalidations() int64 { return c.invalidations.Load() }

// Close ends the connection. Calls that wait return ErrClientClosed.
func (c *Client) Close() error {
	c.fail(ErrClientClosed)
	<-c.done
	return nil
}

// Done returns a channel that is closed when the connection is at its end. Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, nil while it has not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err
}

// fail ends the connection with the first error. The reader then tells those
// who wait.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.mu.err == nil {
		c.mu.err = err
	}
	c.mu.Unlock()
	c.conn.Close()
}

// advance notes a tid. They come in order, but for those of a reply and an
// invalidation that are looked at by two goroutines.
func (c *Client) advance(tid zodb.Tid) {
	for {
		last := c.last.Load()
		if uint64(tid) <= last || c.last.CompareAndSwap(last, uint64(tid)) {
			return
		}
	}
}

// Flush writes out what one-way calls and queued loads left in the buffer.
func (c *Client) Flush() error {
	c.out.Lock()
	defer c.out.Unlock()
	return c.flushLocked()
}

func (c *Client) flushLocked() error {
	if len(c.out.buf) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out.buf)
	if cap(c.out.buf) > 4*writeOutAt {
		c.out.buf = nil
	}
	c.out.buf = c.out.buf[:0]
	if err != nil {
		c.fail(err)
		return c.Err()
	}
	return nil
}

// send appends a frame to the buffer and writes it out if now says so.
func (c *Client) send(now bool, frame func(b []byte) ([]byte, error)) error {
	c.out.Lock()
	defer c.out.Unlock()
	b, err := frame(c.out.buf)
	if err != nil {
		return err
	}
	c.out.buf = b
	if now || len(b) >= writeOutAt {
		return c.flushLocked()
	}
	return nil
}

func (c *Client) oneWay(name string, args Tuple) error {
	return c.send(false, func(b []byte) ([]byte, error) {
		return c.enc.AppendOneWay(b, name, args)
	})
}

// call makes a call and waits for its reply.
func (c *Client) call(name string, args Tuple) (any, error) {
	c.mu.Lock()
	if err := c.mu.err; err != nil {
		c.mu.Unlock()
		return nil, err
	}
	var ch chan clientReply
	if last := len(c.mu.idle) - 1; last >= 0 {
		ch, c.mu.idle = c.mu.idle[last], c.mu.idle[:last]
	} else {
		ch = make(chan clientReply, 1)
	}
	c.mu.next++
	id := c.mu.next
	c.mu.calls[id] = ch
	c.mu.Unlock()

	err := c.send(true, func(b []byte) ([]byte, error) {
		return c.enc.AppendCall(b, c.enc.IntID(id), name, args)
	})
	if err != nil {
		c.mu.Lock()
		_, waits := c.mu.calls[id]
		delete(c.mu.calls, id)
		c.mu.Unlock()
		if waits {
			return nil, err
		}
	}
	reply := <-ch
	c.mu.Lock()
	c.mu.idle = append(c.mu.idle, ch)
	c.mu.Unlock()
	return reply.value, reply.err
}

// read hands out what arrives until the connection ends.
func (c *Client) read(r *FrameReader) {
	defer close(c.done)
	for {
		frame, owned, err := r.Next()
		if err == nil {
			err = c.take(frame, owned)
		}
		if err == nil && !r.Ready() {
			err = c.Flush() // what was queued by those who were just told of loads
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("zeo: the server has closed the connection")
			}
			c.fail(err)
			c.failAll()
			return
		}
	}
}

// failAll tells everyone who waits that nothing will come any more. The error
// is set, so that nobody starts to wait.
func (c *Client) failAll() {
	c.mu.Lock()
	err, calls, loads := c.mu.err, c.mu.calls, c.mu.loads
	c.mu.calls, c.mu.loads = nil, nil
	c.mu.Unlock()
	for _, ch := range calls {
		ch <- clientReply{err: err}
	}
	for key, l := range loads {
		for ; l != nil; l = l.next {
			l.done(LoadReply{Oid: key.oid, Tid: key.tid}, err)
		}
	}
}

// clientHeads are the start of every one-way message, and of the one that comes
// by the thousands up to its tid.
type clientHeads struct{ oneWay, invalidate string }

var (
	clientHeadsZ = clientHeads{
		oneWay:     "\x80\x03(K\x00\x88",
		invalidate: "\x80\x03(K\x00\x88X\x15\x00\x00\x00invalidateTransactionC\x08",
	}
	clientHeadsM = clientHeads{
		oneWay:     "\x94\x00\xc3",
		invalidate: "\x94\x00\xc3\xb5invalidateTransaction\x92\xc4\x08",
	}
)

func headsOf(e Encoding) *clientHeads {
	if e == M5 {
		return &clientHeadsM
	}
	return &clientHeadsZ
}

// take looks at one frame, which is valid only until it returns unless owned.
func (c *Client) take(frame []byte, owned bool) error {
	if c.options.OnInvalidate == nil {
		if b, ok := cut(frame, c.heads.invalidate); ok && len(b) > 8 {
			c.invalidations.Add(1)
			c.advance(zodb.Tid(binary.BigEndian.Uint64(b)))
			return nil
		}
		if _, ok := cut(frame, c.heads.oneWay); ok && c.receiving.Load() == 0 && c.options.Follower == nil {
			return nil // info
		}
	}
	if reply, ok := c.enc.DecodeLoadBeforeReply(frame); ok {
		return c.loaded(reply, nil)
	}
	if !owned {
		frame = append([]byte(nil), frame...)
	}
	m, err := c.enc.Decode(frame)
	if err != nil {
		return err
	}
	if !m.IsReply() {
		switch m.Name {
		case "invalidateTransaction":
			return c.invalidate(m.Args.(Tuple))
		case "receiveBlobStart", "receiveBlobChunk", "receiveBlobStop":
			return c.receive(m.Name, m.Args.(Tuple))
		case "s3_log", "s3_end":
			return c.followed(m.Name, m.Args.(Tuple))
		}
		return nil
	}
	if m.Flag == FlagError {
		return c.settle(m.ID, nil, AsError(m.Args))
	}
	return c.settle(m.ID, m.Args, nil)
}

// settle gives a reply to the one who waits for it.
func (c *Client) settle(id ID, value any, err error) error {
	n, ok := c.enc.Int(id)
	if !ok {
		if oid, tid, rest, ok := c.enc.shape().cutPair(id); ok && len(rest) == 0 {
			if err != nil {
				return c.loaded(LoadReply{Oid: oid, Tid: tid}, err)
			}
			return fmt.Errorf("zeo: the reply to loadBefore(%s, %s) is no revision", oid, tid)
		}
		return fmt.Errorf("zeo: a reply to an unknown call %x", []byte(id))
	}
	c.mu.Lock()
	ch := c.mu.calls[n]
	delete(c.mu.calls, n)
	c.mu.Unlock()
	if ch == nil {
		if n == -1 {
			return nil // a heartbeat
		}
		return fmt.Errorf("zeo: a reply to an unknown call %d", n)
	}
	ch <- clientReply{value, err}
	return nil
}

func (c *Client) invalidate(args Tuple) error {
	if len(args) != 2 {
		return errors.New("zeo: a malformed invalidation")
	}
	tid, err := tidOf(args[0], nil)
	if err != nil {
		return err
	}
	oids, err := oidsOf(args[1], nil)
	if err != nil {
		return err
	}
	c.invalidations.Add(1)
	c.advance(tid)
	if c.options.OnInvalidate != nil {
		c.options.OnInvalidate(tid, oids)
	}
	return nil
}
