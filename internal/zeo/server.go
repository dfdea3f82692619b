package zeo

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"s3storage/internal/zodb"
)

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("zeo: the server was shut down")

// Options configure a Server. The zero value of each stands for its default.
type Options struct {
	Logger *slog.Logger // default: slog.Default()

	// Encoding is announced to clients, which take what they are offered:
	// Z5, unless all of them are known to have msgpack.
	Encoding Encoding

	// MaxFrame is the longest message taken, hence the largest record. There
	// is no bound to what the records of a transaction amount to: they are
	// the storage's to keep.
	MaxFrame int

	// MaxConnections is how many clients are served at a time; default: any
	// number.
	MaxConnections int

	// MaxInvalidations is how many bytes of invalidations may wait for a
	// client that does not read before it is disconnected; default: 64 MiB.
	MaxInvalidations int

	// HandshakeTimeout is how long a client may take for the TLS handshake,
	// if there is one, and again for its first frame; default: 30 s.
	HandshakeTimeout time.Duration

	// TransactionTimeout is how long a client may take from the answer to its
	// vote to tpc_finish or tpc_abort, before its connection is closed and the
	// transaction aborted; default: for ever.
	TransactionTimeout time.Duration
}

// A Server offers storages to ZEO clients. Each connection has a goroutine
// that reads, and answers whatever needs no waiting, and one that writes. What
// may wait has goroutines of its own: each vote, each blob that was asked for, and
// up to maxTasks reads of the storage, beyond which the connection is not read
// from until one is done. A blob that arrives is written by the one that reads.
// Nothing that one client does, or fails to do, holds up another, but for locks,
// and blobs of which too many wait for a slow bucket.
type Server struct {
	opts     Options
	storages map[string]zodb.Storage
	news     map[string]*news
	started  time.Time
	wg       sync.WaitGroup // one for each connection
	packs    *packs

	mu struct {
		sync.Mutex
		closed    bool
		listeners map[net.Listener]struct{}
		conns     map[*conn]struct{}
		refused   int // connections over the limit, since the last line about them
		refusedAt time.Time
	}
}

// NewServer returns a Server of the storages, by the names that clients
// register with.
func NewServer(storages map[string]zodb.Storage, opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Encoding == 0 {
		opts.Encoding = Z5
	}
	if opts.MaxFrame <= 0 {
		opts.MaxFrame = DefaultMaxFrame
	}
	if opts.MaxInvalidations <= 0 {
		opts.MaxInvalidations = 64 << 20
	}
	if opts.HandshakeTimeout <= 0 {
		opts.HandshakeTimeout = 30 * time.Second
	}
	s := &Server{
		opts:     opts,
		storages: maps.Clone(storages),
		news:     map[string]*news{},
		started:  time.Now(),
		packs:    newPacks(),
	}
	for name := range storages {
		s.news[name] = &news{}
	}
	s.mu.listeners = map[net.Listener]struct{}{}
	s.mu.conns = map[*conn]struct{}{}
	return s
}

// Serve takes connections from l until Shutdown, and closes l. It may be called
// for several listeners at a time, each with an access of its own.
func (s *Server) Serve(l net.Listener, a Access) error {
	defer l.Close()
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.mu.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.mu.listeners, l)
		s.mu.Unlock()
	}()
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.start(nc, a)
			continue
		}
		if s.isClosed() {
			return ErrServerClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of file descriptors, or a client that was gone already.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.opts.Logger.Error("cannot accept a connection", "listener", l.Addr().String(), "error", err, "pause", pause)
		time.Sleep(pause)
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closed
}

// vanishedAfter is for how long a machine at the other end may be silent before it
// counts as lost, and the locks of its transactions are let go.
const vanishedAfter = 30 * time.Second

// start serves one connection in the background.
func (s *Server) start(nc net.Conn, a Access) {
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: vanishedAfter / 2, Interval: vanishedAfter / 6, Count: 3,
		})
		endUnacknowledged(tcp, vanishedAfter)
	}
	if a.TLS != nil {
		nc = tls.Server(nc, a.TLS)
	}
	c := newConn(s, nc, a)
	s.mu.Lock()
	full := s.opts.MaxConnections > 0 && len(s.mu.conns) >= s.opts.MaxConnections
	if full {
		s.refusedLocked(nc)
	}
	if full || s.mu.closed {
		s.mu.Unlock()
		nc.Close()
		return
	}
	s.mu.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		c.serve()
		s.mu.Lock()
		delete(s.mu.conns, c)
		s.mu.Unlock()
	}()
}

const refusedEvery = 10 * time.Second // at most one line about refused connections

func (s *Server) refusedLocked(nc net.Conn) {
	s.mu.refused++
	if now := time.Now(); now.Sub(s.mu.refusedAt) >= refusedEvery {
		s.opts.Logger.Warn("connection refused: there are as many as max-connections allows",
			"peer", peerName(nc), "max-connections", s.opts.MaxConnections, "refused", s.mu.refused)
		s.mu.refused, s.mu.refusedAt = 0, now
	}
}

// Shutdown stops taking connections, ends packs, and closes connections that hold
// no voted transaction and are sent no blob. The others may go on with these
// until ctx is done. It returns ctx's error if any connection had to be cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.mu.closed = true
	for l := range s.mu.listeners {
		l.Close()
	}
	conns := make([]*conn, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	s.packs.stop()
	for _, c := range conns {
		c.drain()
	}
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	for _, c := range conns {
		c.out.fail(errHungUp)
	}
	<-done
	return ctx.Err()
}

func peerName(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	if a := nc.LocalAddr(); a != nil { // a unix socket's client has no name
		return a.String()
	}
	return "?"
}
