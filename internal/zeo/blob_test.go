package zeo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"s3storage/internal/zodb"
)

func randomBlob(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// sendUp tells the server the blob as stock clients do, the record first.
func (p *peer) sendUp(oid zodb.Oid, serial, data any, blob []byte, id int64) {
	p.t.Helper()
	p.tell("storea", oid, serial, data, id)
	p.tell("storeBlobStart")
	for len(blob) > 0 {
		n := min(len(blob), blobChunk)
		p.tell("storeBlobChunk", blob[:n])
		blob = blob[n:]
	}
	p.tell("storeBlobEnd", oid, serial, data, id)
}

func (p *peer) commitBlob(oid zodb.Oid, serial any, blob []byte) zodb.Tid {
	p.t.Helper()
	p.begin(55)
	p.sendUp(oid, serial, []byte("record"), blob, 55)
	wantValue(p.t, p.want("vote", 55), Tuple{})
	return wantTid(p.t, p.want("tpc_finish", 55))
}

// A download is what a peer was told of one blob.
type download struct {
	started, chunks int
	stopped         bool
	data            []byte
}

// take notes a message about a blob.
func (p *peer) take(all map[blobKey]*download, m Message) {
	p.t.Helper()
	args := m.Args.(Tuple)
	if !strings.HasPrefix(m.Name, "receiveBlob") {
		return
	}
	oid, _ := zodb.OidFrom(args[0].([]byte))
	key := blobKey{oid, wantTid(p.t, args[1])}
	d := all[key]
	if d == nil {
		d = &download{}
		all[key] = d
	}
	switch {
	case d.stopped:
		p.t.Errorf("%s after the stop", m.Name)
	case m.Name == "receiveBlobStart":
		d.started++
	case d.started != 1:
		p.t.Errorf("%s after %d starts", m.Name, d.started)
	case m.Name == "receiveBlobStop":
		d.stopped = true
	default:
		chunk := args[2].([]byte)
		if len(chunk) == 0 || len(chunk) > 59_000 {
			p.t.Errorf("a chunk of %d bytes", len(chunk))
		}
		d.chunks++
		d.data = append(d.data, chunk...)
	}
}

// wantBlob asks for a blob and takes it all in.
func (p *peer) wantBlob(oid zodb.Oid, serial zodb.Tid, want []byte) {
	p.t.Helper()
	wantValue(p.t, p.want("sendBlob", oid, serial), nil)
	all := map[blobKey]*download{}
	for _, m := range p.told {
		p.take(all, m)
	}
	d := all[blobKey{oid, serial}]
	if d == nil || !d.stopped || !bytes.Equal(d.data, want) {
		p.t.Fatalf("not the blob of %d bytes: %d messages", len(want), len(p.told))
	}
}

func TestBlobsGoUpAndDown(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		for _, size := range []int{0, 1, blobChunk - 1, blobChunk, blobChunk + 1, 3 << 20} {
			oid, blob := zodb.Oid(size+1), randomBlob(1, size)
			tid := p.commitBlob(oid, nil, blob)
			s.client(enc).wantBlob(oid, tid, blob)
			wantValue(t, p.want("loadBefore", oid, zodb.MaxTid), Tuple{[]byte("record"), tid.Bytes(), nil})
		}
		tid := p.commit(1000, zodb.NoTid, "no blob")
		wantValue(t, p.wantError(classPOSKey, "sendBlob", zodb.Oid(1000), tid).Args,
			Tuple{"there is no blob of this revision", zodb.Oid(1000).Bytes(), tid.Bytes()})
	})
}

func TestSeveralBlobsInOneTransaction(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	t1 := p.commitBlob(1, nil, []byte("old blob"))
	t2 := p.commit(1, t1, "changed")
	p.begin(5)
	for oid := range zodb.Oid(3) {
		serial := zodb.NoTid
		if oid == 1 {
			serial = t1
		}
		p.sendUp(oid, serial, []byte("record"), randomBlob(byte(oid), 100_000), 5)
	}
	if got := p.want("vote", 5).(List); len(got) != 1 {
		t.Fatalf("%v", got)
	}
	p.tell("storea", zodb.Oid(1), t2, []byte("merged"), 5) // a stock client sends no blob again
	wantValue(t, p.want("vote", 5), Tuple{})
	t3 := wantTid(t, p.want("tpc_finish", 5))
	for oid := range zodb.Oid(3) {
		p.wantBlob(oid, t3, randomBlob(byte(oid), 100_000))
	}
	wantValue(t, p.want("loadSerial", zodb.Oid(1), t3), []byte("merged"))
}

func TestSharedBlobDirectoriesAreRefusedInTheVote(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	p.begin(4)
	p.tell("storea", zodb.Oid(1), nil, []byte("x"), 4)
	p.tell("storeBlobShared", zodb.Oid(1), nil, []byte("x"), "0x01.tmp", 4)
	if e := p.wantError(classUnsupported, "vote", 4); !strings.Contains(e.Error(), "`shared-blob-dir false`") {
		t.Error(e)
	}
	p.want("tpc_abort", 4)
	p.commit(1, zodb.NoTid, "fine")
}

// blobStorage has blobs of its own making.
type blobStorage struct {
	zodb.Storage
	newBlob  func() (zodb.BlobUpload, error)
	loadBlob func(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (io.ReadCloser, error)
}

func (s *blobStorage) NewBlob(ctx context.Context) (zodb.BlobUpload, error) {
	if s.newBlob == nil {
		return s.Storage.NewBlob(ctx)
	}
	return s.newBlob()
}

func (s *blobStorage) LoadBlob(ctx context.Context, oid zodb.Oid, serial zodb.Tid) (io.ReadCloser, error) {
	return s.loadBlob(ctx, oid, serial)
}

// A testUpload counts what it is told.
type testUpload struct {
	zodb.BlobUpload
	fail    error
	aborted chan struct{}
}

func (u *testUpload) Write(b []byte) (int, error) {
	if u.fail != nil {
		return 0, u.fail
	}
	return u.BlobUpload.Write(b)
}

func (u *testUpload) Abort() {
	u.BlobUpload.Abort()
	close(u.aborted) // once
}

func TestAnUploadThatFailsFailsTheVote(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		fault := errors.New("the bucket is full")
		up := &testUpload{fail: fault, aborted: make(chan struct{})}
		storage := &blobStorage{Storage: s.storage, newBlob: func() (zodb.BlobUpload, error) {
			up.BlobUpload, _ = s.storage.NewBlob(t.Context())
			return up, nil
		}}
		p := serve(t, storage, Options{}).client(enc)
		for range 2 {
			p.begin(5)
			p.sendUp(1, nil, []byte("record"), randomBlob(1, 300_000), 5)
			p.tell("storea", zodb.Oid(2), nil, []byte("x"), 5)
			if e := p.wantError(classStorage, "vote", 5); !strings.Contains(e.Error(), "full") {
				t.Error(e)
			}
			p.want("tpc_abort", 5)
			storage.newBlob = func() (zodb.BlobUpload, error) { return nil, fault }
		}
		<-up.aborted
		storage.newBlob = nil
		p.commitBlob(1, nil, []byte("fine"))
	})
}

func TestAnUploadIsAbortedWithItsTransactionOrConnection(t *testing.T) {
	for name, end := range map[string]func(p *peer){
		"disconnected": func(p *peer) { p.nc.Close() },
		"aborted":      func(p *peer) { p.want("tpc_abort", 5) },
		"ended badly":  func(p *peer) { p.tell("storeBlobEnd", zodb.Oid(1), nil, []byte("x"), 6) },
		"after the vote has failed": func(p *peer) {
			p.tell("checkCurrentSerialInTransaction", zodb.Oid(9), zodb.Tid(1), 5)
			if _, err := p.call("vote", 5); err == nil {
				p.t.Error("the vote succeeds")
			}
			p.tell("storeBlobEnd", zodb.Oid(1), nil, []byte("x"), 5)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			up := &testUpload{aborted: make(chan struct{})}
			up.BlobUpload, _ = m.NewBlob(t.Context())
			s := serve(t, &blobStorage{Storage: m, newBlob: func() (zodb.BlobUpload, error) { return up, nil }}, Options{})
			p := s.client(Z5)
			p.begin(5)
			p.tell("storeBlobStart")
			p.tell("storeBlobChunk", []byte("chunk"))
			end(p)
			<-up.aborted
		})
	}
}

// endless is a blob that reads as zeros until ctx is done.
type endless struct{ ctx context.Context }

func (e endless) Read(b []byte) (int, error) {
	clear(b)
	return len(b), e.ctx.Err()
}

func (endless) Close() error { return nil }

func TestABlobOnItsWayHoldsUpNoOtherReply(t *testing.T) {
	s := serve(t, &blobStorage{Storage: newMemory(), loadBlob: func(ctx context.Context, _ zodb.Oid, _ zodb.Tid) (io.ReadCloser, error) {
		return endless{ctx}, nil
	}}, Options{})
	p := s.client(Z5)
	for oid := range zodb.Oid(maxStreams + 3) { // more than go at once
		p.ask("sendBlob", oid, zodb.Tid(1))
	}
	chunks := map[zodb.Oid]int{} // since all have started
	started := 0
	for rounds := 0; rounds < 1000; {
		id := p.ask("lastTransaction")
		for waited := 0; ; {
			m := p.message()
			if bytes.Equal(m.ID, id) && m.IsReply() {
				break
			}
			switch m.Name {
			case "receiveBlobStart":
				started++
			case "receiveBlobChunk":
				if waited++; started == maxStreams {
					oid, _ := zodb.OidFrom(m.Args.(Tuple)[0].([]byte))
					chunks[oid]++
					rounds++
				}
			}
			// What is queued before it, and what the two ends of the socket
			// hold at most.
			if waited*blobChunk > 32<<20 {
				t.Fatalf("the reply waits behind %d chunks", waited)
			}
		}
	}
	least, most := 1<<30, 0
	for _, n := range chunks {
		least, most = min(least, n), max(most, n)
	}
	if len(chunks) != maxStreams || started != maxStreams || most > 5*least {
		t.Errorf("of %d blobs %d were started and %d have come, with %d to %d chunks", maxStreams+3, started, len(chunks), least, most)
	}
	if n := s.queued(); n > bulkRoom+blobChunk+4096 {
		t.Errorf("%d bytes are queued", n)
	}
}

// queued returns how many bytes wait for the one client there is.
func (s *testServer) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.mu.conns {
		c.out.mu.Lock()
		defer c.out.mu.Unlock()
		return len(c.out.mu.buf) + c.out.mu.writing
	}
	return 0
}

// A stock client that got a part of a blob and gets it from the start again has a
// blob that begins twice.
func TestABlobThatWasBrokenOffGoesOnWhereItWas(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		blob := randomBlob(3, 500_000)
		breaks := []int{0, 0, 200_000, 200_000, 400_001, len(blob)}
		s = serve(t, &blobStorage{Storage: s.storage, loadBlob: func(context.Context, zodb.Oid, zodb.Tid) (io.ReadCloser, error) {
			at := breaks[0]
			breaks = breaks[1:]
			return io.NopCloser(io.MultiReader(bytes.NewReader(blob[:at]), broken(at < len(blob)))), nil
		}}, Options{})
		p := s.client(enc)
		all := map[blobKey]*download{}
		for len(breaks) > 0 {
			wantsError := len(breaks) > 1
			_, err := p.call("sendBlob", zodb.Oid(1), zodb.Tid(2))
			for _, m := range p.told {
				p.take(all, m)
			}
			if (err != nil) != wantsError {
				t.Fatalf("%v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "the network is down") {
				t.Errorf("%v", err)
			}
		}
		if d := all[blobKey{1, 2}]; !d.stopped || !bytes.Equal(d.data, blob) {
			t.Errorf("%d bytes of %d", len(d.data), len(blob))
		}
	})
}

// broken is a reader that fails, or is at its end.
type broken bool

func (b broken) Read([]byte) (int, error) {
	if b {
		return 0, errors.New("the network is down")
	}
	return 0, io.EOF
}

func TestShutdownSendsBlobsToTheirEnds(t *testing.T) {
	blob := randomBlob(4, 20<<20) // more than the sockets hold
	s := serve(t, &blobStorage{Storage: newMemory(), loadBlob: func(context.Context, zodb.Oid, zodb.Tid) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob)), nil
	}}, Options{})
	p := s.client(Z5)
	id := p.ask("sendBlob", zodb.Oid(1), zodb.Tid(2))
	all := map[blobKey]*download{}
	p.take(all, p.message())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(ctx) }()
	eventually(t, "it shuts down", func() bool { return s.isClosed() })
	for !all[blobKey{1, 2}].stopped {
		p.take(all, p.message())
	}
	if m := p.message(); !bytes.Equal(m.ID, id) || m.Flag != FlagReply {
		t.Errorf("%v", m)
	}
	p.wantClosed()
	if err := <-down; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(all[blobKey{1, 2}].data, blob) {
		t.Error("not the blob")
	}
}

func TestAClientThatReadsNoBlobIsCutOff(t *testing.T) {
	s := serve(t, &blobStorage{Storage: newMemory(), loadBlob: func(ctx context.Context, _ zodb.Oid, _ zodb.Tid) (io.ReadCloser, error) {
		return endless{ctx}, nil
	}}, Options{})
	p := s.client(Z5)
	p.ask("sendBlob", zodb.Oid(1), zodb.Tid(2))
	p.message()
	p.nc.Close()
	eventually(t, "nothing is left of it", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.mu.conns) == 0
	})
}

func TestClientStoresAndLoadsBlobs(t *testing.T) {
	for _, enc := range []Encoding{Z5, M5} {
		t.Run(enc.String(), func(t *testing.T) {
			address, _ := serveForClient(t, enc)
			c := dialClient(t, address, ClientOptions{})
			blob := randomBlob(5, 3*blobChunk+17)
			err := errors.Join(c.TpcBegin(5, "u", "d"),
				c.StoreBlob(1, 0, []byte("record"), bytes.NewReader(blob), 5),
				c.StoreBlob(2, 0, []byte("record"), bytes.NewReader(nil), 5))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.Vote(5); err != nil {
				t.Fatal(err)
			}
			tid, err := c.TpcFinish(5)
			if err != nil {
				t.Fatal(err)
			}
			for oid, want := range map[zodb.Oid][]byte{1: blob, 2: nil} {
				var got bytes.Buffer
				if err := c.SendBlob(oid, tid, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
					t.Errorf("%d bytes, want %d: %v", got.Len(), len(want), err)
				}
			}
			var missing *zodb.POSKeyError
			if err := c.SendBlob(3, tid, io.Discard); !errors.As(err, &missing) || missing.Oid != 3 {
				t.Errorf("%v", err)
			}
			r, w := io.Pipe()
			w.Close()
			r.Close()
			if err := c.SendBlob(1, tid, w); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%v", err)
			}
			if err := errors.Join(c.TpcBegin(6, "u", "d"), c.Undoa(tid, 6)); err != nil {
				t.Fatal(err)
			}
			undone, conflicts, err := c.Vote(6)
			if err != nil || len(undone) != 2 || len(conflicts) > 0 {
				t.Fatal(undone, conflicts, err)
			}
			if _, err := c.TpcFinish(6); err != nil {
				t.Error(err)
			}
		})
	}
}
