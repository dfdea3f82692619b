package zeo

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"s3storage/internal/storagetest"
	"s3storage/internal/zodb"
)

// serveForClient serves a new storage in memory, under the name 1, until the test
// ends.
func serveForClient(t testing.TB, enc Encoding) (address string, storage *storagetest.Memory) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "zeo.sock"))
	if err != nil {
		t.Fatal(err)
	}
	storage = storagetest.NewMemory("memory", time.Now, storagetest.References)
	s := NewServer(map[string]zodb.Storage{"1": storage}, Options{Encoding: enc, Logger: slog.New(slog.DiscardHandler)})
	served := make(chan error)
	go func() { served <- s.Serve(l, Access{}) }()
	t.Cleanup(func() {
		s.Shutdown(context.Background())
		<-served
	})
	return l.Addr().String(), storage
}

func dialClient(t testing.TB, address string, options ClientOptions) *Client {
	t.Helper()
	c, err := Dial(t.Context(), address, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// commitAsClient commits one object.
func commitAsClient(t testing.TB, c *Client, oid zodb.Oid, serial zodb.Tid, data string) zodb.Tid {
	t.Helper()
	const txn = 1 << 40
	if err := errors.Join(c.TpcBegin(txn, "u", "d"), c.Storea(oid, serial, []byte(data), txn)); err != nil {
		t.Fatal(err)
	}
	resolved, conflicts, err := c.Vote(txn)
	if err != nil || len(resolved)+len(conflicts) > 0 {
		t.Fatal(resolved, conflicts, err)
	}
	tid, err := c.TpcFinish(txn)
	if err != nil {
		t.Fatal(err)
	}
	return tid
}

func TestClientCommitsAndLoads(t *testing.T) {
	for _, enc := range []Encoding{Z5, M5} {
		t.Run(enc.String(), func(t *testing.T) {
			address, _ := serveForClient(t, enc)
			c := dialClient(t, address, ClientOptions{})
			if c.Encoding() != enc {
				t.Errorf("the client speaks %s", c.Encoding())
			}
			oids, err := c.NewOids(3)
			if err != nil || len(oids) != 3 {
				t.Fatal(oids, err)
			}
			first := commitAsClient(t, c, oids[0], zodb.NoTid, "one")
			second := commitAsClient(t, c, oids[0], first, "two")
			if c.LastTid() != second {
				t.Errorf("the newest tid is %s, not %s", c.LastTid(), second)
			}

			rev, ok, err := c.LoadBefore(oids[0], zodb.MaxTid)
			if err != nil || !ok || string(rev.Data) != "two" || rev.Serial != second || rev.Next != zodb.NoTid {
				t.Errorf("current: %+v %v %v", rev, ok, err)
			}
			rev, ok, err = c.LoadBefore(oids[0], second)
			if err != nil || !ok || string(rev.Data) != "one" || rev.Serial != first || rev.Next != second {
				t.Errorf("before: %+v %v %v", rev, ok, err)
			}
			if rev, ok, err := c.LoadBefore(oids[0], first); ok || err != nil {
				t.Errorf("before the first: %+v %v %v", rev, ok, err)
			}
			if data, err := c.LoadSerial(oids[0], first); err != nil || string(data) != "one" {
				t.Errorf("%q %v", data, err)
			}
			if tid, err := c.GetTid(oids[0]); err != nil || tid != second {
				t.Errorf("%s %v", tid, err)
			}
			if tid, err := c.LastTransaction(); err != nil || tid != second {
				t.Errorf("%s %v", tid, err)
			}
			if info, err := c.GetInfo(); err != nil || info.Name != "memory" || info.Objects != 1 {
				t.Errorf("%+v %v", info, err)
			}
			status, err := c.ServerStatus()
			if commits, _ := status.Get("commits"); err != nil || commits != int64(2) {
				t.Errorf("%v %v", status, err)
			}
			if err := c.Ping(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestClientErrorsAreTyped(t *testing.T) {
	address, storage := serveForClient(t, Z5)
	c := dialClient(t, address, ClientOptions{})
	var unknown *zodb.POSKeyError
	if _, _, err := c.LoadBefore(77, zodb.MaxTid); !errors.As(err, &unknown) || unknown.Oid != 77 {
		t.Errorf("an unknown object: %v", err)
	}
	var state *zodb.TransactionError
	if _, _, err := c.Vote(5); !errors.As(err, &state) {
		t.Errorf("a vote without a transaction: %v", err)
	}

	first := commitAsClient(t, c, 1, zodb.NoTid, "one")
	second := commitAsClient(t, c, 1, first, "two")
	c.TpcBegin(9, "", "")
	c.Storea(1, first, []byte("three"), 9)
	_, conflicts, err := c.Vote(9)
	if err != nil || len(conflicts) != 1 || conflicts[0].Oid != 1 || conflicts[0].Committed != second ||
		conflicts[0].Read != first || string(conflicts[0].Data) != "three" {
		t.Errorf("a conflict: %+v %v", conflicts, err)
	}
	if err := c.TpcAbort(9); err != nil {
		t.Error(err)
	}
	c.TpcBegin(10, "", "")
	c.CheckCurrent(1, first, 10)
	var read *zodb.ReadConflictError
	if _, _, err := c.Vote(10); !errors.As(err, &read) || read.Oid != 1 || read.Committed != second {
		t.Errorf("a read conflict: %v", err)
	}

	if _, err := Dial(t.Context(), address, ClientOptions{Storage: "nowhere"}); err == nil {
		t.Error("an unknown storage is served")
	}
	storage.SetReadOnly(zodb.ErrReadOnly)
	if _, err := Dial(t.Context(), address, ClientOptions{}); !errors.Is(err, zodb.ErrReadOnly) {
		t.Errorf("a storage that takes no writes: %v", err)
	}
	dialClient(t, address, ClientOptions{ReadOnly: true})
}

func TestClientPipelinesLoads(t *testing.T) {
	address, _ := serveForClient(t, Z5)
	c := dialClient(t, address, ClientOptions{})
	commitAsClient(t, c, 0, zodb.NoTid, "zero")
	commitAsClient(t, c, 1, zodb.NoTid, "one")

	// Same ids are asked twice, one object does not exist, and each reply but
	// the last ones asks for more.
	const n = 1000
	var got, missing atomic.Int64
	var wg sync.WaitGroup
	var load func(i int)
	load = func(i int) {
		c.LoadBeforeAsync(zodb.Oid(i%3), zodb.MaxTid, func(r LoadReply, err error) {
			defer wg.Done()
			var unknown *zodb.POSKeyError
			switch {
			case err == nil && string(r.Rev.Data) == []string{"zero", "one"}[r.Oid]:
				got.Add(1)
			case errors.As(err, &unknown) && r.Oid == 2:
				missing.Add(1)
			default:
				t.Error(r, err)
			}
			if i+64 < n {
				wg.Add(1)
				load(i + 64)
			}
		})
	}
	wg.Add(64)
	for i := range 64 {
		load(i)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got.Load() != 667 || missing.Load() != 333 {
		t.Errorf("%d found, %d missing", got.Load(), missing.Load())
	}
}

func TestClientIsToldOfTheTransactionsOfOthers(t *testing.T) {
	for _, enc := range []Encoding{Z5, M5} {
		t.Run(enc.String(), func(t *testing.T) {
			address, _ := serveForClient(t, enc)
			type told struct {
				tid  zodb.Tid
				oids []zodb.Oid
			}
			news := make(chan told, 10)
			writer := dialClient(t, address, ClientOptions{})
			counts := dialClient(t, address, ClientOptions{})
			listens := dialClient(t, address, ClientOptions{OnInvalidate: func(tid zodb.Tid, oids []zodb.Oid) {
				news <- told{tid, oids}
			}})
			tid := commitAsClient(t, writer, 3, zodb.NoTid, "three")
			for _, c := range []*Client{counts, listens} {
				if err := c.Ping(); err != nil {
					t.Fatal(err)
				}
				if c.Invalidations() != 1 || c.LastTid() != tid {
					t.Errorf("%d invalidations, the newest of %s", c.Invalidations(), c.LastTid())
				}
			}
			if got := <-news; got.tid != tid || len(got.oids) != 1 || got.oids[0] != 3 {
				t.Errorf("told %+v", got)
			}
			if writer.Invalidations() != 0 {
				t.Error("the writer was told of its own transaction")
			}
		})
	}
}

func TestClientReadsTheInvalidationsOfZEO(t *testing.T) {
	for _, enc := range []Encoding{Z5, M5} {
		frame := fixtureNamed(t, enc, "invalidateTransaction")
		c := &Client{enc: enc, heads: headsOf(enc)}
		if err := c.take(frame, false); err != nil || c.Invalidations() != 1 {
			t.Fatal(err)
		}
		quick := c.LastTid()
		c = &Client{enc: enc, heads: headsOf(enc)}
		c.options.OnInvalidate = func(tid zodb.Tid, _ []zodb.Oid) {
			if tid != quick {
				t.Errorf("%s, not %s", quick, tid)
			}
		}
		if err := c.take(frame, false); err != nil || c.Invalidations() != 1 {
			t.Fatal(err)
		}
	}
}

// A countingConn counts the pieces in which data leaves.
type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestClientSendsATransactionUpToItsVoteInOnePiece(t *testing.T) {
	address, _ := serveForClient(t, Z5)
	nc, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	counting := &countingConn{Conn: nc}
	c, err := NewClient(counting, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := counting.writes.Load()
	c.TpcBegin(1, "", "")
	for oid := range zodb.Oid(3) {
		c.Storea(oid, zodb.NoTid, bytes.Repeat([]byte{'x'}, 1000), 1)
	}
	if _, _, err := c.Vote(1); err != nil {
		t.Fatal(err)
	}
	if n := counting.writes.Load() - before; n != 1 {
		t.Errorf("%d writes", n)
	}
}

func TestClientTellsWhoWaitsThatTheConnectionHasEnded(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		theirs.Write(AppendFrame(nil, []byte("Z5")))
		r := NewFrameReader(theirs, 1000)
		r.Next() // the handshake
		r.Next() // register
		b, _ := Z5.AppendReply(nil, Z5.IntID(1), zodb.Tid(1))
		theirs.Write(b)
		for { // and never answer again
			if _, _, err := r.Next(); err != nil {
				return
			}
		}
	}()
	c, err := NewClient(ours, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 2)
	go func() { results <- c.Ping() }()
	c.LoadBeforeAsync(1, 1, func(_ LoadReply, err error) { results <- err })
	c.Close() // whether the ping is under way or still to come
	for range 2 {
		if err := <-results; !errors.Is(err, ErrClientClosed) {
			t.Error(err)
		}
	}
	if err := c.Ping(); !errors.Is(err, ErrClientClosed) {
		t.Error(err)
	}
}

func TestClientGivesUpOnASilentServer(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "zeo.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, l.Addr().String(), ClientOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestClientTakesInvalidationsWithoutAllocating(t *testing.T) {
	frame := fixtureNamed(t, Z5, "invalidateTransaction")
	c := &Client{enc: Z5, heads: headsOf(Z5)}
	if n := testing.AllocsPerRun(100, func() { c.take(frame, false) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkClientInvalidation(b *testing.B) {
	frame := fixtureNamed(b, Z5, "invalidateTransaction")
	c := &Client{enc: Z5, heads: headsOf(Z5)}
	b.ReportAllocs()
	for b.Loop() {
		c.take(frame, false)
	}
}

func BenchmarkClientLoads(b *testing.B) {
	address, _ := serveForClient(b, Z5)
	c := dialClient(b, address, ClientOptions{})
	commitAsClient(b, c, 1, zodb.NoTid, string(make([]byte, 1000)))
	b.ReportAllocs()
	left := b.N
	var wg sync.WaitGroup
	var done func(LoadReply, error)
	done = func(LoadReply, error) {
		if left--; left >= 0 {
			c.LoadBeforeAsync(1, zodb.MaxTid, done)
		} else {
			wg.Done()
		}
	}
	b.ResetTimer()
	wg.Add(1)
	c.LoadBeforeAsync(1, zodb.MaxTid, done)
	c.Flush()
	wg.Wait()
}
