package zeo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"s3storage/internal/storagetest"
	"s3storage/internal/zodb"
)

// slowStorage takes its time between looking a revision up and answering. It
// is no CachedLoader.
type slowStorage struct {
	zodb.Storage
	pause func()
}

func (s slowStorage) LoadBefore(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (zodb.Revision, bool, error) {
	rev, ok, err := s.Storage.LoadBefore(ctx, oid, tid)
	s.pause()
	return rev, ok, err
}

// slowCache is a CachedLoader that takes its time, and sometimes does not know.
type slowCache struct{ slowStorage }

func (s slowCache) LoadBeforeCached(oid zodb.Oid, tid zodb.Tid) (zodb.Revision, bool, bool, error) {
	if rand.IntN(3) == 0 {
		return zodb.Revision{}, false, false, nil
	}
	rev, ok, err := s.LoadBefore(context.Background(), oid, tid)
	return rev, ok, true, err
}

// lateFinish has transactions become durable in a goroutine of its own, as a
// storage with a log does.
type lateFinish struct{ zodb.Storage }

func (s lateFinish) Begin(meta zodb.TxnMeta, tid zodb.Tid, origin zodb.Observer) (zodb.Transaction, error) {
	t, err := s.Storage.Begin(meta, tid, origin)
	return lateTxn{t}, err
}

type lateTxn struct{ zodb.Transaction }

func (t lateTxn) Finish(done func(*zodb.Commit, error)) { go t.Transaction.Finish(done) }

func TestInvariantI6(t *testing.T) {
	pause := func() {
		if rand.IntN(2) == 0 {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		}
	}
	for name, wrap := range map[string]func(*storagetest.Memory) zodb.Storage{
		"a storage with everything at hand":   func(m *storagetest.Memory) zodb.Storage { return m },
		"a storage that waits":                func(m *storagetest.Memory) zodb.Storage { return slowStorage{m, pause} },
		"a storage with a cache":              func(m *storagetest.Memory) zodb.Storage { return slowCache{slowStorage{m, pause}} },
		"a storage that finishes in its time": func(m *storagetest.Memory) zodb.Storage { return lateFinish{slowStorage{m, pause}} },
	} {
		t.Run(name, func(t *testing.T) { hammer(t, wrap(newMemory())) })
	}
}

const hammerOids = 4

// hammer has clients commit and load at the same time, as fast as they can, and
// checks what each of them is told, in the order in which it is told.
func hammer(t *testing.T, storage zodb.Storage) {
	s := serve(t, storage, Options{})
	first := s.client(Z5)
	for oid := range zodb.Oid(hammerOids) {
		first.commit(oid, zodb.NoTid, "start")
	}
	start := storage.LastTransaction()
	var stop atomic.Bool
	var wg sync.WaitGroup
	var commits, loads atomic.Int64
	var ws []*witness
	for i := range 4 {
		enc := Z5
		if i%2 == 1 {
			enc = M5
		}
		ws = append(ws, &witness{
			peer: s.client(enc), start: start, commits: &commits, loads: &loads,
			room: make(chan struct{}, 50), own: make(chan any, 1),
		})
	}
	for _, w := range ws { // all have registered
		wg.Go(func() { w.watch() })
		wg.Go(func() { w.work(&stop) })
	}
	time.Sleep(400 * time.Millisecond)
	stop.Store(true)
	wg.Wait()
	if commits.Load() == 0 || loads.Load() == 0 {
		t.Errorf("%d commits, %d loads", commits.Load(), loads.Load())
	}
	t.Logf("%d commits, %d loads", commits.Load(), loads.Load())
}

// A witness is a client that loads and commits, and checks the stream.
type witness struct {
	*peer
	start   zodb.Tid
	room    chan struct{} // loads under way
	own     chan any      // replies to its transactions
	writing sync.Mutex
	storing atomic.Int64 // the oid of the transaction under way
	commits *atomic.Int64
	loads   *atomic.Int64
}

const stopID = 1 << 20

// watch reads the stream. told is what the client has been told about each
// object: the tid of the last change.
func (w *witness) watch() {
	told := map[zodb.Oid]zodb.Tid{}
	for {
		f, err := w.read()
		if err != nil {
			w.t.Error(err)
			return
		}
		if r, ok := w.enc.DecodeLoadBeforeReply(f); ok {
			<-w.room
			w.loads.Add(1)
			last := told[r.Oid]
			switch {
			case r.Rev.Next == zodb.NoTid && r.Rev.Serial < last:
				w.t.Errorf("object %s is said to be current as %s after the invalidation by %s", r.Oid, r.Rev.Serial, last)
			case r.Rev.Serial > max(last, w.start):
				w.t.Errorf("object %s is said to be %s before the invalidation, the last is %s", r.Oid, r.Rev.Serial, last)
			case r.Rev.Next > max(last, w.start):
				w.t.Errorf("object %s is said to end at %s before the invalidation, the last is %s", r.Oid, r.Rev.Next, last)
			}
			continue
		}
		m, err := w.enc.Decode(f)
		if err != nil {
			w.t.Error(err)
			return
		}
		if m.Name == "invalidateTransaction" {
			args := m.Args.(Tuple)
			tid, _ := zodb.TidFrom(args[0].([]byte))
			for _, b := range tuples(args[1]).(Tuple) {
				oid, _ := zodb.OidFrom(b.([]byte))
				if tid <= told[oid] {
					w.t.Errorf("object %s is invalidated by %s after %s", oid, tid, told[oid])
				}
				told[oid] = tid
			}
			continue
		}
		if !m.IsReply() {
			continue
		}
		if id, _ := w.enc.Int(m.ID); id == stopID {
			return
		}
		if tid, ok := m.Args.([]byte); ok && m.Flag == FlagReply { // of tpc_finish
			told[zodb.Oid(w.storing.Load())], _ = zodb.TidFrom(tid)
		}
		w.own <- m.Args
	}
}

func (w *witness) put(b []byte, err error) {
	if err != nil {
		w.t.Error(err)
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	w.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := w.nc.Write(b); err != nil {
		w.t.Error(err)
	}
}

// work sends loads from one goroutine and transactions from another.
func (w *witness) work(stop *atomic.Bool) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			w.room <- struct{}{}
			tid := zodb.MaxTid
			if rand.IntN(4) == 0 {
				tid = w.start + 1
			}
			w.put(w.enc.AppendLoadBefore(nil, zodb.Oid(rand.IntN(hammerOids)), tid), nil)
		}
	})
	wg.Go(func() {
		for id := int64(2); !stop.Load(); id++ {
			oid := zodb.Oid(rand.IntN(hammerOids))
			w.storing.Store(int64(oid))
			w.put(w.enc.AppendOneWay(nil, "tpc_begin", Tuple{id, "", "", Dict{}, nil, " "}))
			serial := w.start
			for {
				w.put(w.enc.AppendOneWay(nil, "storea", Tuple{oid, serial, []byte("data"), id}))
				w.put(w.enc.AppendCall(nil, w.enc.IntID(id), "vote", Tuple{id}))
				reply := tuples(<-w.own).(Tuple)
				if len(reply) == 0 {
					w.put(w.enc.AppendCall(nil, w.enc.IntID(id), "tpc_finish", Tuple{id}))
					<-w.own
					w.commits.Add(1)
					break
				}
				conflict, ok := reply[0].(Dict)
				if !ok { // an error: the votes are used up
					break
				}
				serials, _ := conflict.Get("serials")
				serial, _ = zodb.TidFrom(serials.(Tuple)[0].([]byte))
			}
		}
	})
	wg.Wait()
	for range cap(w.room) { // all loads are answered
		w.room <- struct{}{}
	}
	w.put(w.enc.AppendCall(nil, w.enc.IntID(stopID), "ping", nil))
}

// slowSubscribe lets commits pass before it returns.
type slowSubscribe struct{ zodb.Storage }

func (s slowSubscribe) Subscribe(obs zodb.Observer) zodb.Tid {
	tid := s.Storage.Subscribe(obs)
	time.Sleep(time.Millisecond)
	return tid
}

// TestRegisterMissesNothing registers while commits go on: the invalidations
// after the reply are those of the transactions after its tid, from the first.
func TestRegisterMissesNothing(t *testing.T) {
	s := serve(t, slowSubscribe{lateFinish{newMemory()}}, Options{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	w := s.client(Z5)
	var all []zodb.Tid
	wg.Go(func() {
		serial := zodb.NoTid
		for !stop.Load() {
			serial = w.commit(1, serial, "x")
			all = append(all, serial)
		}
	})
	type heard struct {
		start zodb.Tid
		tids  []zodb.Tid
	}
	var hs []heard
	for range 30 {
		p := s.shake(Z5)
		id := p.ask("register", "1", true)
		v, err := p.answer(id)
		if err != nil || len(p.told) > 0 {
			t.Fatalf("%v, before: %v", err, p.told)
		}
		h := heard{start: wantTid(t, v)}
		for len(h.tids) < 5 {
			args := p.message().Args.(Tuple)
			h.tids = append(h.tids, wantTid(t, args[0]))
		}
		hs = append(hs, h)
		p.nc.Close()
	}
	stop.Store(true)
	wg.Wait()
	at := map[zodb.Tid]int{zodb.NoTid: -1}
	for i, tid := range all {
		at[tid] = i
	}
	for _, h := range hs {
		i, ok := at[h.start]
		if want := all[i+1 : i+6]; !ok || fmt.Sprint(want) != fmt.Sprint(h.tids) {
			t.Errorf("from %s: heard %v, want %v", h.start, h.tids, want)
		}
	}
}

func TestEveryOtherClientIsToldOfACommitAndThenPinged(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	others := []*peer{s.client(Z5), s.client(M5)}
	t1 := p.commit(1, zodb.NoTid, "x")
	for _, o := range others {
		o.want("ping")
		if len(o.told) != 1 || o.told[0].Name != "invalidateTransaction" || o.told[0].Flag != FlagOneWay {
			t.Fatalf("%v", o.told)
		}
		wantValue(t, o.told[0].Args, Tuple{t1.Bytes(), oids(1)})
	}
	// A transaction without changes moves the last tid too.
	p.begin(3)
	p.want("vote", 3)
	t2 := wantTid(t, p.want("tpc_finish", 3))
	if len(p.told) != 1 || p.told[0].Name != "info" {
		t.Errorf("the committer was told %v", p.told)
	}
	for _, o := range others {
		o.want("ping")
		wantValue(t, o.told[0].Args, Tuple{t2.Bytes(), Tuple{}})
	}
}

func TestWritersOfDifferentObjectsVoteSideBySide(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	a, b := s.client(Z5), s.client(Z5)
	a.begin(1)
	a.tell("storea", zodb.Oid(1), nil, []byte("a"), 1)
	a.want("vote", 1)
	b.commit(2, zodb.NoTid, "b")
	a.want("tpc_finish", 1)
}
