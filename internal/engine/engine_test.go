package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/buckettest/weakstore"
	"s3storage/internal/cache"
	"s3storage/internal/segment"
	"s3storage/internal/storagetest"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

func openEngine(t *testing.T, b bucket.Bucket, change ...func(*Options)) *Engine {
	t.Helper()
	opts := Options{Node: t.Name(), Creator: "test", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, c := range change {
		c(&opts)
	}
	e, err := Open(t.Context(), b, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeEngine(t, e) })
	return e
}

func closeEngine(t *testing.T, e *Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestEngineIsAStorage(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		storagetest.Conformance(t, func(t *testing.T) zodb.Storage { return openEngine(t, bucket.NewMemory()) })
	})
	t.Run("with payload objects", func(t *testing.T) {
		storagetest.Conformance(t, func(t *testing.T) zodb.Storage {
			return openEngine(t, bucket.NewMemory(), func(o *Options) { o.MaxInline = 1; o.Memory = 1 })
		})
	})
	t.Run("on an eventually consistent store", func(t *testing.T) {
		catalog := weakstore.Start(t)
		storagetest.Conformance(t, func(t *testing.T) zodb.Storage {
			return openEngine(t, catalog.Buckets(t)(), func(o *Options) { o.MaxInline = 1000; o.Memory = 1 })
		})
	})
	t.Run("with faults", func(t *testing.T) {
		// A stream cannot be repeated: buckets do what can be done, and else the
		// client learns that its blob was not stored.
		config, err := faults.Parse("seed=3,lost=0.1,late=0.1:1ms..20ms,never=0.05,409=0.05,500=0.05,503=0.05,truncate=0.05,flip=0.05," +
			"put-stream.lost=0,put-stream.late=0:1ms,put-stream.never=0,put-stream.409=0,put-stream.500=0,put-stream.503=0")
		if err != nil {
			t.Fatal(err)
		}
		storagetest.Conformance(t, func(t *testing.T) zodb.Storage {
			b := faults.New(bucket.NewMemory(), config)
			t.Cleanup(func() { b.Close() })
			b.Enable(false)
			e := openEngine(t, b, func(o *Options) { o.Memory = 1 })
			b.Enable(true)
			return e
		})
	})
}

// A stored is one object's new data in a transaction.
type stored struct {
	oid    zodb.Oid
	serial zodb.Tid
	data   string
}

func begin(t *testing.T, e *Engine, changes ...stored) zodb.Transaction {
	t.Helper()
	txn, err := e.Begin(zodb.TxnMeta{User: []byte("anna"), Description: []byte("what"), Status: ' '}, zodb.NoTid, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if err := txn.Store(c.oid, c.serial, []byte(c.data)); err != nil {
			t.Fatal(err)
		}
	}
	return txn
}

func vote(t *testing.T, txn zodb.Transaction) {
	t.Helper()
	ballot, err := txn.Vote(t.Context())
	if err != nil || len(ballot.Conflicts) > 0 {
		t.Fatalf("vote: %v, %v", ballot.Conflicts, err)
	}
}

func finish(txn zodb.Transaction) (zodb.Tid, error) {
	type result struct {
		c   *zodb.Commit
		err error
	}
	got := make(chan result, 1)
	txn.Finish(func(c *zodb.Commit, err error) { got <- result{c, err} })
	r := <-got
	if r.err != nil {
		return 0, r.err
	}
	return r.c.Tid, nil
}

func commit(t *testing.T, e *Engine, changes ...stored) zodb.Tid {
	t.Helper()
	txn := begin(t, e, changes...)
	vote(t, txn)
	tid, err := finish(txn)
	if err != nil {
		t.Fatal(err)
	}
	return tid
}

func load(t *testing.T, e *Engine, oid zodb.Oid) zodb.Revision {
	t.Helper()
	r, ok, err := e.LoadBefore(t.Context(), oid, zodb.MaxTid)
	if err != nil || !ok {
		t.Fatalf("load %s: %v, %v", oid, ok, err)
	}
	return r
}

func TestDatabaseIsFoundAgain(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	var tids []zodb.Tid
	last := zodb.NoTid
	for i := range 20 {
		last = commit(t, e, stored{7, last, fmt.Sprint("revision ", i)})
		tids = append(tids, last)
	}
	oids, err := e.NewOids(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	before := e.Info()
	closeEngine(t, e)

	e = openEngine(t, b)
	if r := load(t, e, 7); string(r.Data) != "revision 19" || r.Serial != last || r.Next != 0 {
		t.Errorf("%+v", r)
	}
	for i, tid := range tids {
		data, err := e.LoadSerial(t.Context(), 7, tid)
		if err != nil || string(data) != fmt.Sprint("revision ", i) {
			t.Errorf("revision %d: %q, %v", i, data, err)
		}
	}
	if got := e.Info(); got.Objects != before.Objects || got.Size == 0 {
		t.Errorf("%+v, before %+v", got, before)
	}
	h, err := e.History(t.Context(), 7, 3)
	if err != nil || len(h) != 3 || h[0].Tid != last || string(h[0].Meta.User) != "anna" || h[0].Size != int64(len("revision 19")) {
		t.Errorf("%+v, %v", h, err)
	}
	again, err := e.NewOids(t.Context(), 100)
	if err != nil || again[0] <= oids[99] {
		t.Errorf("oid %s was given out again: %s, %v", oids[99], again[0], err)
	}
	if tid := commit(t, e, stored{7, last, "more"}); tid <= last {
		t.Errorf("tid %s after %s", tid, last)
	}
}

func TestAnEngineThatCannotOpenLetsGoOfItsDiskCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the retries wait
		b := bucket.NewMemory()
		f, err := txlog.Create(t.Context(), b, txlog.Format{Creator: "test", Created: time.Now()})
		if err == nil {
			err = b.Put(t.Context(), txlog.Name(0, 1), []byte("no log object"))
		}
		if err != nil {
			t.Fatal(err)
		}
		opts := Options{Node: t.Name(), Creator: "test", Logger: slog.New(slog.DiscardHandler), CacheDir: t.TempDir(), CacheSize: 1 << 20}
		if _, err := Open(t.Context(), b, opts); !errors.Is(err, zodb.ErrCorrupt) {
			t.Fatal(err)
		}
		disk, err := cache.OpenDisk(filepath.Join(opts.CacheDir, f.Database.String()), opts.CacheSize, f.Database, opts.Logger)
		if err != nil {
			t.Fatal(err)
		}
		disk.Close()
	})
}

func TestOidThatAClientChoseIsNotGivenOut(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	commit(t, e, stored{100_000, 0, "x"})
	check := func(e *Engine) {
		oids, err := e.NewOids(t.Context(), 10)
		if err != nil || oids[0] <= 100_000 {
			t.Errorf("%v, %v", oids, err)
		}
	}
	check(e)
	closeEngine(t, e)
	check(openEngine(t, b))
}

func TestHighestOidThatAClientMayChooseLeavesMoreToGiveOut(t *testing.T) {
	e := openEngine(t, bucket.NewMemory())
	commit(t, e, stored{maxChosenOid, 0, "x"})
	oids, err := e.NewOids(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, e, stored{oids[9], 0, "y"})
}

func TestOidsAreNeverGivenTwiceWithoutAnOrderlyStop(t *testing.T) {
	b := bucket.NewMemory()
	seen := map[zodb.Oid]bool{}
	for range 10 {
		e := openEngine(t, b) // takes over from the one before
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range 4 {
			wg.Go(func() {
				for range 30 {
					oids, err := e.NewOids(context.Background(), 100)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for _, oid := range oids {
						if seen[oid] {
							t.Errorf("oid %s was given out twice", oid)
						}
						seen[oid] = true
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
}

func TestClockThatGoesBackDoesNotTurnTidsBack(t *testing.T) {
	now := time.Now()
	e := openEngine(t, bucket.NewMemory(), func(o *Options) { o.Now = func() time.Time { return now } })
	first := commit(t, e, stored{1, 0, "x"})
	now = now.Add(-time.Hour)
	second := commit(t, e, stored{2, 0, "x"})
	if second != first+1 {
		t.Errorf("%s after %s", second, first)
	}
}

func TestLargeTransactionGoesIntoPayloadObjects(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	big := func(i int) []byte { return bytes.Repeat([]byte{byte(i), 1, 2, 3}, 1<<18) } // 1 MiB
	txn := begin(t, e)
	for i := range 20 {
		if err := txn.Store(zodb.Oid(i), 0, big(i)); err != nil {
			t.Fatal(err)
		}
	}
	vote(t, txn)
	tid, err := finish(txn)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Info().Size; got < 20<<20 {
		t.Errorf("size %d", got)
	}
	closeEngine(t, e)
	var largest int64
	payloads := 0
	err = b.List(t.Context(), "", "", func(i bucket.Info) error {
		if strings.HasPrefix(i.Name, "payload/") {
			payloads++
		} else {
			largest = max(largest, i.Size)
		}
		return nil
	})
	if err != nil || payloads != 3 || largest > 1<<20 {
		t.Errorf("%d payload objects, largest log object %d bytes, %v", payloads, largest, err)
	}
	e = openEngine(t, b)
	for i := range 20 {
		if r := load(t, e, zodb.Oid(i)); !bytes.Equal(r.Data, big(i)) || r.Serial != tid {
			t.Errorf("object %d: %d bytes, serial %s", i, len(r.Data), r.Serial)
		}
	}
}

func TestAbortedLargeTransactionLeavesNothingBehind(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b, func(o *Options) { o.MaxInline = 1 })
	txn := begin(t, e, stored{1, 0, "large enough"})
	vote(t, txn)
	payloads := func() (n int) {
		if err := b.List(t.Context(), "payload/", "", func(bucket.Info) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if payloads() != 1 {
		t.Errorf("%d payload objects after vote", payloads())
	}
	txn.Abort()
	for deadline := time.Now().Add(time.Minute); payloads() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the payload object is still there")
		}
	}
}

func TestServerThatWasTakenOverFailsWhatItHadNotAcknowledged(t *testing.T) {
	b := bucket.NewMemory()
	first := openEngine(t, b)
	old := commit(t, first, stored{1, 0, "old"})
	voted := begin(t, first, stored{1, old, "mine"})
	vote(t, voted)

	second := openEngine(t, b)
	if _, err := finish(voted); !errors.Is(err, zodb.ErrReadOnly) {
		t.Errorf("finish after the takeover: %v", err)
	}
	if err := first.ReadOnly(); err == nil || !strings.Contains(err.Error(), "taken over") {
		t.Errorf("read-only: %v", err)
	}
	if _, err := first.Begin(zodb.TxnMeta{}, zodb.NoTid, nil); !errors.Is(err, zodb.ErrReadOnly) {
		t.Errorf("begin: %v", err)
	}
	if _, err := first.NewOids(t.Context(), 1); !errors.Is(err, zodb.ErrReadOnly) {
		t.Errorf("new oids: %v", err)
	}
	if r := load(t, first, 1); string(r.Data) != "old" {
		t.Errorf("the first still answers %q", r.Data)
	}
	if r := load(t, second, 1); string(r.Data) != "old" {
		t.Errorf("the second answers %q", r.Data)
	}
	theirs := commit(t, second, stored{1, old, "theirs"})
	// The first follows.
	for deadline := time.Now().Add(time.Minute); first.LastTransaction() != theirs; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the first does not follow")
		}
	}
	if r := load(t, first, 1); string(r.Data) != "theirs" || r.Serial != theirs {
		t.Errorf("the first answers %q", r.Data)
	}
}

func TestVoteThatWaitsEndsWhenTheLeadIsLost(t *testing.T) {
	b := bucket.NewMemory()
	first := openEngine(t, b)
	holder := begin(t, first, stored{1, 0, "holder"})
	vote(t, holder)
	waiter := begin(t, first, stored{1, 0, "waiter"})
	ended := make(chan error, 1)
	go func() {
		_, err := waiter.Vote(context.Background())
		ended <- err
	}()
	openEngine(t, b)
	if _, err := finish(holder); err == nil {
		t.Error("finish succeeded")
	}
	if err := <-ended; !errors.Is(err, zodb.ErrReadOnly) {
		t.Errorf("vote: %v", err)
	}
}

func TestConflictIsToldOnlyWhenTheWinnerCanBeLoaded(t *testing.T) {
	slow := faults.New(bucket.NewMemory(), faults.Config{})
	defer slow.Close()
	e := openEngine(t, slow)
	old := commit(t, e, stored{1, 0, "old"})
	for i := range 20 {
		winner := begin(t, e, stored{1, old, fmt.Sprint("winner ", i)})
		vote(t, winner)
		won := make(chan zodb.Tid, 1)
		winner.Finish(func(c *zodb.Commit, err error) {
			if err != nil {
				t.Error(err)
			}
			won <- c.Tid
		})
		loser := begin(t, e, stored{1, old, "loser"})
		ballot, err := loser.Vote(t.Context())
		if err != nil || len(ballot.Conflicts) != 1 {
			t.Fatalf("%v, %v", ballot.Conflicts, err)
		}
		data, err := e.LoadSerial(t.Context(), 1, ballot.Conflicts[0].Committed)
		if err != nil || string(data) != fmt.Sprint("winner ", i) {
			t.Fatalf("%q, %v", data, err)
		}
		loser.Abort()
		old = <-won
	}
}

func TestDamagedRecordIsNeverServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the retries wait
		b := bucket.NewMemory()
		e := openEngine(t, b)
		commit(t, e, stored{1, 0, "precious data"})
		closeEngine(t, e)
		e = openEngine(t, b)
		name := listed(t, b, segment.Prefix)[0]
		whole, err := b.Get(t.Context(), name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 0x20
			if err := b.Put(t.Context(), name, damaged); err != nil {
				t.Fatal(err)
			}
			if e.cache, err = cache.New(1); err != nil { // forgets what was read
				t.Fatal(err)
			}
			e.reader.Memory = e.cache
			rev, _, err := e.LoadBefore(t.Context(), 1, zodb.MaxTid)
			switch {
			case err == nil && string(rev.Data) == "precious data":
			case !errors.Is(err, zodb.ErrCorrupt) && !errors.Is(err, zodb.ErrNewerFormat) || !strings.Contains(err.Error(), name):
				t.Errorf("with byte %d damaged: %q, %v", i, rev.Data, err)
			}
		}
	})
}

func TestBadInputIsRefusedWithoutHarm(t *testing.T) {
	e := openEngine(t, bucket.NewMemory())
	if _, err := e.Begin(zodb.TxnMeta{Description: make([]byte, txlog.MaxMeta+1)}, zodb.NoTid, nil); err == nil || !strings.Contains(err.Error(), "description") {
		t.Errorf("a description that is too long: %v", err)
	}
	txn := begin(t, e)
	if err := txn.Store(maxChosenOid+1, 0, nil); err == nil || !strings.Contains(err.Error(), "out of range") {
		t.Errorf("an oid that is too high: %v", err)
	}
	many := begin(t, openEngine(t, bucket.NewMemory(), func(o *Options) { o.MaxRecords = 2 }), stored{1, 0, ""}, stored{2, 0, ""}, stored{1, 0, "again"})
	if err := many.Store(3, 0, nil); err == nil || !strings.Contains(err.Error(), "more than 2 objects") {
		t.Errorf("too many objects: %v", err)
	}
	vote(t, txn)
	var state *zodb.TransactionError
	if err := txn.Store(1, 0, nil); !errors.As(err, &state) {
		t.Errorf("store after vote: %v", err)
	}
	if _, err := txn.Vote(t.Context()); !errors.As(err, &state) {
		t.Errorf("vote after vote: %v", err)
	}
	if _, err := finish(txn); err != nil {
		t.Error(err)
	}
	if _, err := finish(txn); !errors.As(err, &state) {
		t.Errorf("finish after finish: %v", err)
	}
	if _, err := finish(begin(t, e)); !errors.As(err, &state) {
		t.Errorf("finish without vote: %v", err)
	}
}

func TestLocksAreHandedOnInOrderAndAllAtOnce(t *testing.T) {
	table := newLockTable()
	a := &lockRequest{write: []zodb.Oid{1}}
	if err := table.acquire(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	want := func(name string, r *lockRequest) {
		before := table.waiters()
		wg.Go(func() {
			if err := table.acquire(context.Background(), r); err != nil {
				t.Error(err)
			}
			mu.Lock()
			got = append(got, name)
			mu.Unlock()
			table.release(r)
		})
		for table.waiters() == before {
			time.Sleep(time.Millisecond)
		}
	}
	want("b", &lockRequest{write: []zodb.Oid{2, 1}})
	want("c", &lockRequest{write: []zodb.Oid{1}})
	// b waits for 1 and holds nothing, so 2 is free.
	d := &lockRequest{write: []zodb.Oid{2}}
	if err := table.acquire(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	table.release(d)
	table.release(a)
	wg.Wait()
	if !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("order %v", got)
	}
	if len(table.mu.held) != 0 || len(table.mu.waiting) != 0 || table.waiters() != 0 {
		t.Errorf("left behind: %+v", table.mu.held)
	}
}
