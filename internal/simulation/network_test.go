package simulation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A network connects hosts: nodes, clients and the store. What is on its way between
// two hosts that are cut off from each other arrives when they no longer are.
type network struct {
	w  *world
	mu struct {
		sync.Mutex
		cuts      map[path]chan struct{} // closed when they can reach each other again
		listeners map[string]*listener
	}
}

// A path is two hosts, in the order of their names.
type path [2]string

func between(a, b string) path { return path{min(a, b), max(a, b)} }

var errRefused = errors.New("connection refused")

// cut cuts two hosts off from each other until mend.
func (n *network) cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.cuts[between(a, b)] == nil {
		n.mu.cuts[between(a, b)] = make(chan struct{})
	}
}

func (n *network) mend(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.mu.cuts[between(a, b)]; c != nil {
		close(c)
		delete(n.mu.cuts, between(a, b))
	}
}

// blocked returns a channel that is closed when two hosts that are cut off from each
// other no longer are, or nil.
func (n *network) blocked(a, b string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.mu.cuts[between(a, b)]; c != nil {
		return c
	}
	return nil
}

// listen has a process take connections to its host.
func (n *network) listen(p *process) *listener {
	l := &listener{n: n, host: p.host.name, process: p, accepted: make(chan *conn, 1000), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.listeners[l.host] = l
	return l
}

// dial connects a process, or a client if that is nil, to a host.
func (n *network) dial(ctx context.Context, from string, process *process, to string) (net.Conn, error) {
	for blocked := n.blocked(from, to); blocked != nil; blocked = n.blocked(from, to) {
		select {
		case <-blocked:
		case <-ctx.Done():
			return nil, fmt.Errorf("dial %s: %w", to, ctx.Err())
		}
	}
	n.mu.Lock()
	l := n.mu.listeners[to]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", to, errRefused)
	}
	there, back := newStream(n, from, to), newStream(n, to, from)
	here := &conn{n: n, process: process, in: back, out: there}
	other := &conn{n: n, process: l.process, in: there, out: back}
	if !process.owns(here) || !l.process.owns(other) {
		return nil, fmt.Errorf("dial %s: %w", to, errRefused)
	}
	select {
	case l.accepted <- other:
		return here, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: %w", to, errRefused)
	}
}

type listener struct {
	n        *network
	host     string
	process  *process
	accepted chan *conn
	closed   chan struct{}
	once     sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		if l.n.mu.listeners[l.host] == l {
			delete(l.n.mu.listeners, l.host)
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.host) }

type address string

func (a address) Network() string { return "simulated" }
func (a address) String() string  { return string(a) }

// A stream is one direction of a connection.
type stream struct {
	n        *network
	from, to string
	latency  time.Duration
	mu       struct {
		sync.Mutex
		chunks   []chunk
		last     time.Time // when the last one arrives
		ended    bool      // nothing is written any more
		broken   error     // why nothing is read any more
		deadline time.Time
		changed  chan struct{}
	}
}

type chunk struct {
	at   time.Time
	data []byte // nil: the end
}

func newStream(n *network, from, to string) *stream {
	s := &stream{n: n, from: from, to: to, latency: n.w.latency(from, to)}
	s.mu.changed = make(chan struct{})
	return s
}

func (s *stream) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// end has the reader come to the end, some time later.
func (s *stream) end(later time.Duration) {
	s.change(func() {
		if !s.mu.ended {
			s.mu.ended = true
			s.addLocked(later, nil)
		}
	})
}

func (s *stream) addLocked(later time.Duration, data []byte) {
	s.mu.last = latest(s.mu.last, time.Now().Add(s.latency+later))
	s.mu.chunks = append(s.mu.chunks, chunk{s.mu.last, data})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A conn is one end of a connection.
type conn struct {
	n       *network
	process *process // nil for a client
	in, out *stream
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		s := c.in
		s.mu.Lock()
		changed, deadline, broken := s.mu.changed, s.mu.deadline, s.mu.broken
		now := time.Now()
		until := time.Time{}
		var blocked <-chan struct{}
		if len(s.mu.chunks) > 0 {
			until = s.mu.chunks[0].at
			if blocked = c.n.blocked(s.from, s.to); blocked == nil {
				blocked = c.process.frozen()
			}
		}
		switch {
		case broken != nil:
			s.mu.Unlock()
			return 0, broken
		case len(s.mu.chunks) > 0 && blocked == nil && !now.Before(until):
			if s.mu.chunks[0].data == nil {
				s.mu.Unlock()
				return 0, io.EOF
			}
			n := copy(p, s.mu.chunks[0].data)
			if s.mu.chunks[0].data = s.mu.chunks[0].data[n:]; len(s.mu.chunks[0].data) == 0 {
				s.mu.chunks = s.mu.chunks[1:]
			}
			s.mu.Unlock()
			return n, nil
		case !deadline.IsZero() && !now.Before(deadline):
			s.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		s.mu.Unlock()
		if !deadline.IsZero() && (until.IsZero() || deadline.Before(until)) {
			until = deadline
		}
		var timer <-chan time.Time
		if until.After(now) {
			timer = time.After(until.Sub(now))
		}
		select {
		case <-changed:
		case <-blocked:
		case <-timer:
		}
	}
}

// Write implements net.Conn. There is always room.
func (c *conn) Write(p []byte) (int, error) {
	for frozen := c.process.frozen(); frozen != nil; frozen = c.process.frozen() {
		<-frozen
	}
	if len(p) == 0 {
		return 0, nil
	}
	err := net.ErrClosed
	c.out.change(func() {
		if !c.out.mu.ended {
			c.out.addLocked(0, append([]byte{}, p...))
			err = nil
		}
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.process.disowns(c)
	c.hangUp(0)
	return nil
}

// hangUp ends a connection. The other end hears of it some time later.
func (c *conn) hangUp(later time.Duration) {
	c.in.change(func() { c.in.mu.broken = net.ErrClosed })
	c.out.end(later)
}

func (c *conn) LocalAddr() net.Addr  { return address(c.out.from) }
func (c *conn) RemoteAddr() net.Addr { return address(c.out.to) }

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.mu.deadline = t })
	return nil
}

func (c *conn) SetWriteDeadline(time.Time) error { return nil }
