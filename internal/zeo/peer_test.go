package zeo

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"s3storage/internal/storagetest"
	"s3storage/internal/zodb"
)

// patience bounds waits for what has to happen.
const patience = 20 * time.Second

// A testServer serves one storage, named "1", on the loopback interface.
type testServer struct {
	*Server
	t       *testing.T
	storage zodb.Storage
	addr    net.Addr
	logged  *logBuffer
}

// A logBuffer keeps the lines that were logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// waitFor waits for a text to be logged.
func (l *logBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	eventually(t, "log: "+text, func() bool { return bytes.Contains([]byte(l.String()), []byte(text)) })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("never: %s", what)
		}
	}
}

func newMemory() *storagetest.Memory {
	return storagetest.NewMemory("memory", time.Now, storagetest.References)
}

func serve(t *testing.T, storage zodb.Storage, opts Options) *testServer {
	t.Helper()
	s := newTestServer(t, storage, opts)
	s.addr = s.listenLoopback(Access{})
	return s
}

// listenLoopback serves one more address.
func (s *testServer) listenLoopback(a Access) net.Addr {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.listen(l, a)
	return l.Addr()
}

// newTestServer returns a server without listeners.
func newTestServer(t *testing.T, storage zodb.Storage, opts Options) *testServer {
	logged := &logBuffer{}
	opts.Logger = slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return &testServer{NewServer(map[string]zodb.Storage{"1": storage}, opts), t, storage, nil, logged}
}

// listen serves one more listener.
func (s *testServer) listen(l net.Listener, a Access) {
	done := make(chan error, 1)
	go func() { done <- s.Serve(l, a) }()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		if err := <-done; err != ErrServerClosed {
			s.t.Errorf("Serve: %v", err)
		}
	})
}

// A peer is a client that does as it is told.
type peer struct {
	t      *testing.T
	nc     net.Conn
	enc    Encoding
	frames *FrameReader
	lastID int64
	told   []Message // one-way calls of the server that came before the last reply
}

func (s *testServer) connect() *peer {
	s.t.Helper()
	nc, err := net.Dial(s.addr.Network(), s.addr.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	p := &peer{t: s.t, nc: nc, frames: NewFrameReader(nc, DefaultMaxFrame)}
	if hello := string(p.frame()); hello != s.opts.Encoding.String() {
		s.t.Fatalf("hello %q", hello)
	}
	return p
}

// shake answers the handshake.
func (s *testServer) shake(enc Encoding) *peer {
	s.t.Helper()
	p := s.connect()
	p.enc = enc
	p.send(AppendFrame(nil, []byte(enc.String())))
	return p
}

// client returns a peer that has registered.
func (s *testServer) client(enc Encoding) *peer {
	s.t.Helper()
	p := s.shake(enc)
	p.want("register", "1", false)
	return p
}

func (p *peer) send(b []byte) {
	p.t.Helper()
	p.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) frame() []byte {
	p.t.Helper()
	f, err := p.read()
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

func (p *peer) read() ([]byte, error) {
	p.nc.SetReadDeadline(time.Now().Add(patience))
	f, _, err := p.frames.Next()
	return bytes.Clone(f), err
}

func (p *peer) message() Message {
	p.t.Helper()
	m, err := p.enc.Decode(p.frame())
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// ask sends a call and returns its id.
func (p *peer) ask(name string, args ...any) ID {
	p.t.Helper()
	p.lastID++
	id := p.enc.IntID(p.lastID)
	b, err := p.enc.AppendCall(nil, id, name, Tuple(args))
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(b)
	return id
}

// answer waits for the reply to a call.
func (p *peer) answer(id ID) (any, error) {
	p.t.Helper()
	p.told = nil
	for {
		m := p.message()
		switch {
		case !m.IsReply():
			p.told = append(p.told, m)
		case !bytes.Equal(m.ID, id):
			p.t.Fatalf("a reply to %x, not to %x", []byte(m.ID), []byte(id))
		case m.Flag == FlagError:
			return nil, &Error{m.Args.(Tuple)[0].(string), m.Args.(Tuple)[1]}
		default:
			return m.Args, nil
		}
	}
}

func (p *peer) call(name string, args ...any) (any, error) {
	p.t.Helper()
	return p.answer(p.ask(name, args...))
}

// want makes a call that has to succeed.
func (p *peer) want(name string, args ...any) any {
	p.t.Helper()
	v, err := p.call(name, args...)
	if err != nil {
		p.t.Fatalf("%s%v: %v", name, args, err)
	}
	return v
}

// wantError makes a call that has to fail with an exception of a class.
func (p *peer) wantError(class, name string, args ...any) *Error {
	p.t.Helper()
	v, err := p.call(name, args...)
	var e *Error
	if !errors.As(err, &e) || e.Class != class {
		p.t.Fatalf("%s%v: %v, %v; want a %s", name, args, v, err, class)
	}
	return e
}

func (p *peer) tell(name string, args ...any) {
	p.t.Helper()
	b, err := p.enc.AppendOneWay(nil, name, Tuple(args))
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(b)
}

// wantClosed wants the server to hang up without a word, but for one-way calls.
func (p *peer) wantClosed() {
	p.t.Helper()
	for {
		f, err := p.read()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				p.t.Fatal("the server does not hang up")
			}
			return
		}
		if m, err := p.enc.Decode(f); err != nil || m.IsReply() {
			p.t.Fatalf("the server answered %v, %v", m, err)
		}
	}
}

func (p *peer) begin(id int64) { p.tell("tpc_begin", id, []byte("u"), []byte("d"), Dict{}, nil, " ") }

// commit stores one object and returns its new serial.
func (p *peer) commit(oid zodb.Oid, serial zodb.Tid, data string) zodb.Tid {
	p.t.Helper()
	const id = 77
	p.begin(id)
	p.tell("storea", oid, serial, []byte(data), id)
	if v := p.want("vote", id); !Equal(tuples(v), Tuple{}) {
		p.t.Fatalf("vote: %v", v)
	}
	return wantTid(p.t, p.want("tpc_finish", id))
}

func wantTid(t testing.TB, v any) zodb.Tid {
	t.Helper()
	b, _ := v.([]byte)
	tid, err := zodb.TidFrom(b)
	if err != nil {
		t.Fatalf("%v is no tid", v)
	}
	return tid
}

func oids(vs ...zodb.Oid) Tuple {
	t := Tuple{}
	for _, v := range vs {
		t = append(t, v.Bytes())
	}
	return t
}

func wantValue(t testing.TB, got, want any) {
	t.Helper()
	if !Equal(tuples(got), want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
