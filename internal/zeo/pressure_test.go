package zeo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"s3storage/internal/zodb"
)

func TestEveryKindOfListener(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	for network, addr := range map[string]string{
		"tcp4": "127.0.0.1:0",
		"tcp6": "[::1]:0",
		"unix": filepath.Join(t.TempDir(), "zeo.sock"),
	} {
		t.Run(network, func(t *testing.T) {
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Skip(err)
			}
			s.listen(l, Access{})
			on := &testServer{s.Server, t, s.storage, l.Addr(), s.logged}
			p := on.client(Z5)
			p.commit(zodb.Oid(len(network)+int(network[3])), zodb.NoTid, network)
			p.nc.Close()
		})
	}
}

func TestTwoHundredClients(t *testing.T) {
	const clients = 200
	s := serve(t, newMemory(), Options{})
	var wg sync.WaitGroup
	ps := make([]*peer, clients)
	for i := range ps {
		ps[i] = s.client([]Encoding{Z5, M5}[i%2])
	}
	for i, p := range ps {
		wg.Go(func() {
			serial := zodb.NoTid
			for range 3 {
				serial = p.commit(zodb.Oid(i), serial, "x")
			}
			p.want("loadBefore", zodb.Oid(i), zodb.MaxTid)
		})
	}
	wg.Wait()
	for _, p := range ps {
		p.want("ping")
	}
	if n := s.storage.Stats().Commits; n != 3*clients {
		t.Errorf("%d commits", n)
	}
	for _, p := range ps {
		p.nc.Close()
	}
	eventually(t, "all are gone", func() bool { return s.Connections("1") == 0 })
}

// A client that asks and does not read is not read from any more; what waits
// for it stays bounded, and when it reads after all, every answer is there.
func TestAClientThatDoesNotReadIsNotReadFrom(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p, other := s.client(Z5), s.client(Z5)
	p.commit(1, zodb.NoTid, strings.Repeat("x", 100_000))
	const asked = 300 // 30 MB of replies
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range asked {
			p.send(Z5.AppendLoadBefore(nil, 1, zodb.MaxTid))
		}
	}()
	queued := func() int { return s.Queued("1") }
	eventually(t, "the outbox is full", func() bool { return queued() > outboxRoom })
	for serial, n := zodb.NoTid, 0; n < 20; n++ { // others go on
		serial = other.commit(2, serial, "y")
	}
	if n := queued(); n > outboxRoom+1<<20 {
		t.Errorf("%d bytes wait", n)
	}
	for got := 0; got < asked; {
		if _, ok := Z5.DecodeLoadBeforeReply(p.frame()); ok {
			got++
		}
	}
	<-sent
	eventually(t, "nothing waits any more", func() bool { return queued() == 0 })
}

// A client that reads nothing at all is given up when too many invalidations
// wait for it.
func TestAClientThatReadsNoInvalidationsIsGivenUp(t *testing.T) {
	m := newMemory()
	s := serve(t, m, Options{MaxInvalidations: 200_000})
	dead, p := s.client(Z5), s.client(Z5)
	dead.nc.(*net.TCPConn).SetReadBuffer(4096)
	serial := zodb.NoTid
	for n := 0; !strings.Contains(s.logged.String(), "does not read"); n++ {
		if n > 10_000 {
			t.Fatal("never given up")
		}
		txn, err := m.Begin(zodb.TxnMeta{}, zodb.NoTid, nil)
		if err != nil {
			t.Fatal(err)
		}
		for oid := range zodb.Oid(5000) {
			txn.Store(oid, serial, nil)
		}
		if _, err := txn.Vote(t.Context()); err != nil {
			t.Fatal(err)
		}
		txn.Finish(func(c *zodb.Commit, err error) { serial = c.Tid })
		p.want("ping")
	}
	if log := s.logged.String(); !strings.Contains(log, "peer="+dead.nc.LocalAddr().String()) {
		t.Error(log)
	}
	dead.nc.Close()
	eventually(t, "it is gone", func() bool { return s.Connections("1") == 1 })
	p.want("ping")
}

// Loads that wait for the storage are bounded, and hold up nobody else.
func TestLoadsThatWaitAreBounded(t *testing.T) {
	gate := make(chan struct{})
	var mu sync.Mutex
	inside, most := 0, 0
	m := newMemory()
	s := serve(t, slowStorage{m, func() {
		mu.Lock()
		inside++
		most = max(most, inside)
		mu.Unlock()
		<-gate
		mu.Lock()
		inside--
		mu.Unlock()
	}}, Options{})
	p, other := s.client(Z5), s.client(Z5)
	other.commit(1, zodb.NoTid, "x")
	const asked = 3 * maxTasks
	for range asked {
		p.send(Z5.AppendLoadBefore(nil, 1, zodb.MaxTid))
	}
	eventually(t, "all slots are taken", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return inside == maxTasks
	})
	other.want("ping")
	other.want("getTid", zodb.Oid(1))
	close(gate)
	for got := 0; got < asked; {
		if _, ok := Z5.DecodeLoadBeforeReply(p.frame()); ok {
			got++
		}
	}
	if most > maxTasks {
		t.Errorf("%d at a time", most)
	}
}

func TestConnectionsBeyondTheLimitAreRefused(t *testing.T) {
	s := serve(t, newMemory(), Options{MaxConnections: 2})
	p, q := s.client(Z5), s.client(Z5)
	for range 5 {
		nc, err := net.Dial("tcp", s.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		(&peer{t: t, nc: nc, frames: NewFrameReader(nc, 100)}).wantClosed()
		nc.Close()
	}
	p.want("ping")
	if n := strings.Count(s.logged.String(), "max-connections allows"); n != 1 {
		t.Errorf("%d lines about it", n)
	}
	q.nc.Close()
	eventually(t, "one is gone", func() bool { return s.Connections("1") == 1 })
	eventually(t, "there is room", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.mu.conns) == 1
	})
	s.client(Z5)
}

func TestShutdownLetsVotedTransactionsFinish(t *testing.T) {
	for _, end := range []string{"tpc_finish", "tpc_abort"} {
		t.Run(end, func(t *testing.T) {
			s := serve(t, lateFinish{newMemory()}, Options{})
			idle, begun, voted := s.client(Z5), s.client(Z5), s.client(Z5)
			begun.begin(1)
			begun.tell("storea", zodb.Oid(2), nil, []byte("x"), 1)
			begun.want("ping")
			voted.begin(1)
			voted.tell("storea", zodb.Oid(1), nil, []byte("x"), 1)
			voted.want("vote", 1)
			done := make(chan error)
			go func() { done <- s.Shutdown(context.Background()) }()
			idle.wantClosed()
			begun.wantClosed()
			if _, err := net.Dial("tcp", s.addr.String()); err == nil {
				t.Error("a connection was taken")
			}
			v := voted.want(end, 1)
			if end == "tpc_finish" {
				wantTid(t, v)
			}
			voted.wantClosed()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := s.storage.Stats(); n.ActiveTxns != 0 || (n.Commits == 1) != (end == "tpc_finish") {
				t.Errorf("%+v", n)
			}
			if err := s.Serve(closedListener{}, Access{}); err != ErrServerClosed {
				t.Error(err)
			}
		})
	}
}

type closedListener struct{ net.Listener }

func (closedListener) Close() error { return nil }

func TestShutdownCutsOffWhoTakesTooLong(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	p.begin(1)
	p.tell("storea", zodb.Oid(1), nil, []byte("x"), 1)
	p.want("vote", 1)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	p.wantClosed()
	if n := s.storage.Stats(); n.ActiveTxns != 0 || n.Aborts != 1 {
		t.Errorf("%+v", n)
	}
}

func TestAPipeWillDoAsConnection(t *testing.T) {
	server, client := net.Pipe()
	l := &oneListener{conns: make(chan net.Conn, 1)}
	l.conns <- server
	s := NewServer(map[string]zodb.Storage{"1": newMemory()}, Options{})
	done := make(chan error)
	go func() { done <- s.Serve(l, Access{}) }()
	p := &peer{t: t, nc: client, enc: Z5, frames: NewFrameReader(client, DefaultMaxFrame)}
	if hello := p.frame(); string(hello) != "Z5" {
		t.Fatalf("%q", hello)
	}
	p.hello()
	p.want("register", "1", false)
	p.commit(1, zodb.NoTid, "x")
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	p.wantClosed()
	if err := <-done; err != ErrServerClosed {
		t.Error(err)
	}
}

// oneListener has connections handed to it.
type oneListener struct {
	conns chan net.Conn
	once  sync.Once
}

func (l *oneListener) Accept() (net.Conn, error) {
	nc, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return nc, nil
}

func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.conns) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// BenchmarkServeLoads measures loads through a server, end to end, by how many
// each client has under way.
func BenchmarkServeLoads(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("%d under way", depth), func(b *testing.B) {
			s := NewServer(map[string]zodb.Storage{"1": newMemory()}, Options{})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			go s.Serve(l, Access{})
			defer s.Shutdown(context.Background())
			nc, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			frames := NewFrameReader(nc, DefaultMaxFrame)
			calls := AppendFrame(nil, []byte("Z5"))
			for _, m := range []struct {
				name string
				args Tuple
			}{
				{"register", Tuple{"1", false}},
				{"tpc_begin", Tuple{1, "", "", Dict{}, nil, " "}},
				{"storea", Tuple{zodb.Oid(1), nil, make([]byte, 500), 1}},
				{"vote", Tuple{1}},
			} {
				calls, _ = Z5.AppendCall(calls, Z5.IntID(1), m.name, m.args)
			}
			nc.Write(calls)
			for range 5 { // the handshake and four replies
				if _, _, err := frames.Next(); err != nil {
					b.Fatal(err)
				}
			}
			calls, _ = Z5.AppendCall(nil, Z5.IntID(1), "tpc_finish", Tuple{1})
			nc.Write(calls)
			frames.Next()
			frames.Next()
			call := Z5.AppendLoadBefore(nil, 1, zodb.MaxTid)
			batch := make([]byte, 0, depth*len(call))
			for range depth {
				batch = append(batch, call...)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += depth {
				nc.Write(batch)
				for range depth {
					f, _, err := frames.Next()
					if err != nil {
						b.Fatal(err)
					}
					if _, ok := Z5.DecodeLoadBeforeReply(f); !ok {
						b.Fatalf("%q", f)
					}
				}
			}
		})
	}
}
