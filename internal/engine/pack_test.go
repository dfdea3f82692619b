package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/storagetest"
	"s3storage/internal/zodb"
)

// keep is a grace period longer than any test.
func keep(o *Options) { o.PackGrace = time.Hour }

// record is data of an object that refers to others.
func record(text string, refs ...zodb.Oid) string { return string(storagetest.Record(text, refs...)) }

// storeBlob commits one object with a blob.
func storeBlob(t *testing.T, e *Engine, oid zodb.Oid, serial zodb.Tid, data, content string) zodb.Tid {
	t.Helper()
	txn := begin(t, e)
	b, err := e.NewBlob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(b, content); err != nil {
		t.Fatal(err)
	}
	if err := txn.StoreBlob(oid, serial, []byte(data), b); err != nil {
		t.Fatal(err)
	}
	vote(t, txn)
	tid, err := finish(txn)
	if err != nil {
		t.Fatal(err)
	}
	return tid
}

func loadBlob(t *testing.T, e *Engine, oid zodb.Oid, serial zodb.Tid) (string, error) {
	t.Helper()
	r, err := e.LoadBlob(t.Context(), oid, serial)
	if err != nil {
		return "", err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return string(data), err
}

func listed(t *testing.T, b bucket.Bucket, prefix string) (all []string) {
	t.Helper()
	err := b.List(t.Context(), prefix, "", func(i bucket.Info) error {
		all = append(all, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func isKeyError(err error) bool { return errors.As(err, new(*zodb.POSKeyError)) }

func TestWhatAPackDroppedCanBeReadUntilTheGraceIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openEngine(t, bucket.NewMemory(), keep)
		t1 := commit(t, e, stored{0, 0, record("root", 1, 2)}, stored{1, 0, record("one")})
		b1 := storeBlob(t, e, 2, 0, record("blob"), "old content")
		t2 := commit(t, e, stored{1, t1, record("two")}, stored{0, t1, record("root", 1)})
		open := e.Iterate(0, zodb.MaxTid)
		if err := e.Pack(t.Context(), zodb.MaxTid); err != nil {
			t.Fatal(err)
		}
		read := func() error {
			rev, ok, err := e.LoadBefore(t.Context(), 1, t2)
			if ok && (rev.Serial != t1 || rev.Next != t2) {
				t.Errorf("%s, next %s", rev.Serial, rev.Next)
			}
			_, err2 := e.LoadSerial(t.Context(), 0, t1)
			content, err3 := loadBlob(t, e, 2, b1)
			if err3 == nil && content != "old content" {
				t.Errorf("%q", content)
			}
			if !ok && err == nil {
				err = &zodb.POSKeyError{Oid: 1}
			}
			return errors.Join(err, err2, err3)
		}
		if err := read(); err != nil {
			t.Error(err)
		}
		// But it is no part of the database.
		if n := e.Info().Objects; n != 2 {
			t.Errorf("%d objects", n)
		}
		if h, err := e.History(t.Context(), 1, 10); err != nil || len(h) != 1 {
			t.Error(h, err)
		}
		if log, err := e.UndoLog(t.Context(), 0, 10, nil); err != nil || len(log) != 0 {
			t.Error(log, err)
		}
		if tids := iterated(t, e.Iterate(0, zodb.MaxTid)); !slices.Equal(tids, []zodb.Tid{t2}) {
			t.Error(tids)
		}
		// An iterator that was opened before goes on as it began.
		if tids := iterated(t, open); !slices.Equal(tids, []zodb.Tid{t1, b1, t2}) {
			t.Error(tids)
		}
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if err := read(); !isKeyError(err) {
			t.Error(err)
		}
		if left := listed(t, e.bucket, "blob/"); len(left) > 0 {
			t.Error(left)
		}
	})
}

func iterated(t *testing.T, it zodb.TxnIterator) (tids []zodb.Tid) {
	t.Helper()
	for {
		info, err := it.Next(t.Context())
		if err == io.EOF {
			return tids
		}
		if err != nil {
			t.Fatal(err)
		}
		tids = append(tids, info.Tid)
		for records := it.Records(); ; {
			if _, err := records.Next(t.Context()); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAPackIsStillThereAfterARestart(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	t1 := commit(t, e, stored{0, 0, record("root", 1)}, stored{1, 0, record("one")}, stored{2, 0, record("garbage")})
	t2 := commit(t, e, stored{1, t1, record("two")})
	if err := e.Pack(t.Context(), zodb.MaxTid); err != nil {
		t.Fatal(err)
	}
	t3 := commit(t, e, stored{1, t2, record("three")})
	closeEngine(t, e)
	e = openEngine(t, b)
	if _, err := e.LoadSerial(t.Context(), 1, t1); !isKeyError(err) {
		t.Error(err)
	}
	if _, err := e.GetTid(t.Context(), 2); !isKeyError(err) {
		t.Error(err)
	}
	if tids := iterated(t, e.Iterate(0, zodb.MaxTid)); !slices.Equal(tids, []zodb.Tid{t1, t2, t3}) {
		t.Error(tids)
	}
	if log, err := e.UndoLog(t.Context(), 0, 10, nil); err != nil || len(log) != 1 || log[0].Tid != t3 {
		t.Error(log, err)
	}
}

// planOf makes a plan of all that is settled.
func planOf(t *testing.T, e *Engine, tid zodb.Tid) *packPlan {
	t.Helper()
	if err := e.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(t.Context(), e.state.view, nothing, tid, !e.opts.NoPackGC, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func TestAPackDoesNotDropWhatACommitDuringItRefersTo(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	t1 := commit(t, e, stored{0, 0, record("root")}, stored{1, 0, record("lost", 2)}, stored{2, 0, record("child")})
	p := planOf(t, e, t1)
	if p.dropped.Revisions != 2 {
		t.Fatal(p.dropped)
	}
	if _, needed, err := e.catchUp(t.Context(), p, t1); needed || err != nil {
		t.Fatal(needed, err)
	}
	// Found again, after the pack has looked.
	commit(t, e, stored{0, t1, record("root", 1)})
	if _, needed, err := e.catchUp(t.Context(), p, t1); !needed || err != nil {
		t.Error(needed, err)
	}
}

// gated is a bucket in which log objects wait to be put.
type gated struct {
	bucket.Bucket
	gate *sync.RWMutex
}

func (g gated) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Bucket.PutIfAbsent(ctx, name, data)
}

func TestAPackWaitsForTransactionsThatMayNeedWhatItDrops(t *testing.T) {
	g := gated{bucket.NewMemory(), new(sync.RWMutex)}
	e := openEngine(t, g)
	t1 := commit(t, e, stored{0, 0, record("root")}, stored{1, 0, record("lost", 2)}, stored{2, 0, record("child")})
	p := planOf(t, e, t1)
	if p.dropped.Revisions != 2 {
		t.Errorf("the plan is to drop %v", p.dropped)
	}
	g.gate.Lock() // from here on transactions are sequenced, but not settled
	txn := begin(t, e, stored{0, t1, record("root", 1)})
	vote(t, txn)
	committed := make(chan error, 1)
	txn.Finish(func(_ *zodb.Commit, err error) { committed <- err })
	if ok, err := e.adoptPack(t.Context(), e.reign(), p, t1, nil, nil); ok || err != nil {
		t.Error("the pack was put into the log behind a transaction that refers to what it drops", err)
	}
	g.gate.Unlock()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if err := e.Pack(t.Context(), t1); err != nil {
		t.Fatal(err)
	}
	if n := e.Info().Objects; n != 3 {
		t.Errorf("%d objects", n)
	}
}

func TestAPackNeedNotSeeTransactionsThatDoNotNeedWhatItDrops(t *testing.T) {
	for _, c := range []struct {
		name  string
		late  func(t *testing.T, e *Engine, t2 zodb.Tid)
		needs bool
	}{
		{"a reference to what stays", func(t *testing.T, e *Engine, t2 zodb.Tid) {
			commit(t, e, stored{0, t2, record("root", 3)})
		}, false},
		{"a reference to garbage", func(t *testing.T, e *Engine, t2 zodb.Tid) {
			commit(t, e, stored{0, t2, record("root", 3, 1)})
		}, true},
		{"data shared with what stays", func(t *testing.T, e *Engine, t2 zodb.Tid) {
			undoNow(t, e, commit(t, e, stored{0, t2, record("root", 3)}))
		}, false},
		{"data shared with what is dropped", func(t *testing.T, e *Engine, t2 zodb.Tid) { undoNow(t, e, t2) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := openEngine(t, bucket.NewMemory())
			t1 := commit(t, e, stored{0, 0, record("root", 1, 3)}, stored{1, 0, record("lost")}, stored{3, 0, record("child")})
			t2 := commit(t, e, stored{0, t1, record("root", 3)})
			p := planOf(t, e, t2)
			if p.dropped.Revisions != 2 {
				t.Errorf("the plan is to drop %v", p.dropped)
			}
			seen, _, err := e.catchUp(t.Context(), p, t2)
			if err != nil {
				t.Fatal(err)
			}
			c.late(t, e, t2) // settled before the pack comes to look again
			if ok, err := e.adoptPack(t.Context(), e.reign(), p, seen, nil, nil); ok && c.needs || err != nil {
				t.Errorf("put into the log: %v, %v", ok, err)
			}
			_, needed, err := e.catchUp(t.Context(), p, seen)
			if needed != c.needs || err != nil {
				t.Errorf("needed: %v, %v", needed, err)
			}
		})
	}
}

func undoNow(t *testing.T, e *Engine, tid zodb.Tid) {
	t.Helper()
	txn := begin(t, e)
	if err := txn.Undo(tid); err != nil {
		t.Fatal(err)
	}
	vote(t, txn)
	if _, err := finish(txn); err != nil {
		t.Fatal(err)
	}
}

// held is a bucket that takes no log objects for a while.
type held struct {
	bucket.Bucket
	on      atomic.Bool
	arrived chan struct{} // has one for each that waits
	free    chan struct{}
}

func (b *held) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if b.on.Load() {
		b.arrived <- struct{}{}
		<-b.free
	}
	return b.Bucket.PutIfAbsent(ctx, name, data)
}

// A change of the base that is on its way into the log is waited for, whoever has
// lost interest: the next one must not be made of the base before.
func TestAPackThatIsEndedOnItsWayIntoTheLogIsDoneAllTheSame(t *testing.T) {
	b := &held{Bucket: bucket.NewMemory(), arrived: make(chan struct{}, 100), free: make(chan struct{})}
	e := openEngine(t, b, keep)
	t1 := commit(t, e, stored{0, 0, record("root")}, stored{1, 0, record("garbage")})
	if err := e.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	packed := make(chan error, 1)
	b.on.Store(true)
	go func() { packed <- e.Pack(ctx, t1) }()
	<-b.arrived
	cancel()
	b.on.Store(false)
	close(b.free)
	if err := <-packed; err != nil {
		t.Error(err)
	}
	closeEngine(t, e)
	if n := openEngine(t, b).Info().Objects; n != 1 {
		t.Errorf("%d objects", n)
	}
}

func TestUndoThatWasVotedKeepsWhatItSharesFromAPack(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	t1 := commit(t, e, stored{0, 0, record("one")})
	t2 := commit(t, e, stored{0, t1, record("two")})
	txn := begin(t, e)
	if err := txn.Undo(t2); err != nil {
		t.Fatal(err)
	}
	vote(t, txn)
	packed := make(chan error, 1)
	go func() { packed <- e.Pack(context.Background(), t2) }()
	t3, err := finish(txn)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-packed; err != nil {
		t.Fatal(err)
	}
	closeEngine(t, e)
	e = openEngine(t, b)
	if got := load(t, e, 0); got.Serial != t3 || !bytes.Equal(got.Data, []byte(record("one"))) {
		t.Errorf("%s %q", got.Serial, got.Data)
	}
}

func TestASweepDeletesWhatCrashesLeftAndNothingElse(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b, func(o *Options) { o.MaxInline = 10 })
	t1 := commit(t, e, stored{0, 0, record("large enough for a payload object")})
	t2 := storeBlob(t, e, 1, 0, record("blob"), "content")
	voted := begin(t, e, stored{0, t1, record("another large transaction")})
	upload, err := e.NewBlob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(upload, "not yet"); err != nil {
		t.Fatal(err)
	}
	if err := voted.StoreBlob(2, 0, []byte(record("blob")), upload); err != nil {
		t.Fatal(err)
	}
	vote(t, voted)
	for _, name := range []string{
		"payload/00000000000000000000000000000001",
		"blob/00000000000000000000000000000002",
		"segment/00000000000000000000000000000003",
		"index/00000000000000000000000000000004",
		"base/00000000000000000000000000000005",
	} {
		if err := b.Put(t.Context(), name, []byte("left behind")); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := slices.Concat(listed(t, b, "payload/"), listed(t, b, "blob/"), listed(t, b, "segment/"), listed(t, b, "index/"), listed(t, b, "base/")); len(left) != 5 { // three payload objects, two blobs
		t.Error(left)
	}
	t3, err := finish(voted)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeEngine(t, e)
	e = openEngine(t, b)
	if got := load(t, e, 0); string(got.Data) != record("another large transaction") {
		t.Errorf("%q", got.Data)
	}
	for oid, serial := range map[zodb.Oid]zodb.Tid{1: t2, 2: t3} {
		if _, err := loadBlob(t, e, oid, serial); err != nil {
			t.Error(err)
		}
	}
}

func TestAServerThatWasTakenOverDeletesNothing(t *testing.T) {
	b := bucket.NewMemory()
	first := openEngine(t, b)
	t1 := storeBlob(t, first, 0, 0, record("blob"), "content")
	second := openEngine(t, b)
	t2 := storeBlob(t, second, 0, t1, record("blob"), "the second's")
	if err := first.sweep(t.Context()); !errors.Is(err, zodb.ErrReadOnly) {
		t.Error(err)
	}
	if err := first.Pack(t.Context(), zodb.MaxTid); !errors.Is(err, zodb.ErrReadOnly) {
		t.Error(err)
	}
	if content, err := loadBlob(t, second, 0, t2); err != nil || content != "the second's" {
		t.Errorf("%q, %v", content, err)
	}
}

func TestAServerThatHasWrittenNothingAndWasTakenOverDeletesNothing(t *testing.T) {
	b := bucket.NewMemory()
	before := openEngine(t, b)
	t1 := storeBlob(t, before, 0, 0, record("blob"), "content")
	closeEngine(t, before)
	first := openEngine(t, b) // the log has a high-water mark already, which proves nothing
	second := openEngine(t, b)
	t2 := storeBlob(t, second, 0, t1, record("blob"), "the second's")
	if err := first.sweep(t.Context()); !errors.Is(err, zodb.ErrReadOnly) {
		t.Error(err)
	}
	if content, err := loadBlob(t, second, 0, t2); err != nil || content != "the second's" {
		t.Errorf("%q, %v", content, err)
	}
}

// Who waits may come to look only when the log is followed already.
func TestWhatAnotherLeaderDidIsNotTakenForWhatWasWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		first := openEngine(t, b)
		second := openEngine(t, b)
		oids, err := second.NewOids(t.Context(), 1<<14)
		if err != nil {
			t.Fatal(err)
		}
		first.log.RaiseOidMark(oids[0])
		time.Sleep(time.Minute) // it finds out, and follows
		reached := false
		err = first.await(t.Context(), func() bool {
			reached = first.state.oidMark >= oids[0]
			return reached
		})
		if !reached || !errors.Is(err, zodb.ErrReadOnly) {
			t.Error(reached, err)
		}
	})
}

func TestAnAbortedBlobLeavesNothing(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	txn := begin(t, e)
	for _, oid := range []zodb.Oid{1, 1, 2} {
		upload, err := e.NewBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := txn.StoreBlob(oid, 0, []byte("x"), upload); err != nil {
			t.Fatal(err)
		}
	}
	vote(t, txn)
	txn.Abort()
	lone, err := e.NewBlob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lone.Abort()
	closeEngine(t, e) // waits for the deletions
	if left := listed(t, b, "blob/"); len(left) > 0 {
		t.Error(left)
	}
}

func TestARecordThatCannotBeReadStopsGarbageCollectionAndDropsNothing(t *testing.T) {
	for _, gc := range []bool{true, false} {
		e := openEngine(t, bucket.NewMemory(), func(o *Options) { o.NoPackGC = !gc })
		t1 := commit(t, e, stored{0, 0, record("root", 1)}, stored{1, 0, "no pickle"})
		t2 := commit(t, e, stored{0, t1, record("root", 1)})
		err := e.Pack(t.Context(), t2)
		if gc && (err == nil || !strings.Contains(err.Error(), zodb.Oid(1).String())) {
			t.Errorf("%v: it should name the object", err)
		}
		if !gc && err != nil {
			t.Error(err)
		}
		if _, err := e.LoadSerial(t.Context(), 0, t1); isKeyError(err) == gc {
			t.Errorf("with garbage collection %v: %v", gc, err)
		}
	}
}

func TestARecordThatCannotBeReadIsNamedAlsoIfItComesLate(t *testing.T) {
	e := openEngine(t, bucket.NewMemory())
	t1 := commit(t, e, stored{0, 0, record("root")}, stored{1, 0, record("lost")})
	p := planOf(t, e, t1)
	seen, _, err := e.catchUp(t.Context(), p, t1)
	if err != nil {
		t.Fatal(err)
	}
	t2 := commit(t, e, stored{7, 0, "no pickle"})
	ok, err := e.adoptPack(t.Context(), e.reign(), p, seen, nil, nil)
	if ok || err == nil || !strings.Contains(err.Error(), zodb.Oid(7).String()) || !strings.Contains(err.Error(), t2.String()) {
		t.Errorf("%v, %v: it should name the revision", ok, err)
	}
}

func TestAPackEndsWhateverOidsAreReferredTo(t *testing.T) {
	for _, oid := range []zodb.Oid{zodb.MaxOid, zodb.MaxOid + 1, 1<<64 - 1} {
		e := openEngine(t, bucket.NewMemory())
		t1 := commit(t, e, stored{0, 0, record("root", oid)}, stored{1, 0, record("lost")})
		if err := e.Pack(t.Context(), t1); err != nil {
			t.Error(err)
		}
		if n := e.Info().Objects; n != 1 {
			t.Errorf("%d objects", n)
		}
	}
}

// Garbage may be changed while it is packed.
func TestObjectsAreCountedRightlyAfterAPackOfWhatWasChangedMeanwhile(t *testing.T) {
	for name, late := range map[string]func(zodb.Transaction, zodb.Tid) error{
		"stored":  func(txn zodb.Transaction, serial zodb.Tid) error { return txn.Store(1, serial, []byte(record("new"))) },
		"deleted": func(txn zodb.Transaction, serial zodb.Tid) error { return txn.Delete(1, serial) },
	} {
		t.Run(name, func(t *testing.T) {
			e := openEngine(t, bucket.NewMemory())
			t1 := commit(t, e, stored{0, 0, record("root")}, stored{1, 0, record("lost")})
			p := planOf(t, e, t1)
			txn := begin(t, e)
			if err := late(txn, t1); err != nil {
				t.Fatal(err)
			}
			vote(t, txn)
			if _, err := finish(txn); err != nil {
				t.Fatal(err)
			}
			ok := false
			for seen := t1; !ok; {
				var err error
				if seen, _, err = e.catchUp(t.Context(), p, seen); err != nil {
					t.Fatal(err)
				}
				segs, err := e.rewrite(t.Context(), e.reign(), p, nil, new([]string))
				if err != nil {
					t.Fatal(err)
				}
				table, err := e.writeTable(t.Context(), p.entries())
				if err != nil {
					t.Fatal(err)
				}
				if ok, err = e.adoptPack(t.Context(), e.reign(), p, seen, segs, []base.Table{table}); err != nil {
					t.Fatal(err)
				}
			}
			want := int64(1)
			for oid := zodb.Oid(1); ; {
				o, there, err := e.NextObject(t.Context(), oid)
				if err != nil {
					t.Fatal(err)
				}
				if !there {
					break
				}
				want, oid = want+1, o.Oid+1
			}
			if n := e.Info().Objects; n != want {
				t.Errorf("%d objects, there are %d", n, want)
			}
		})
	}
}

func TestAPackTakesAccountOfAllThereIsAfterAFlushThatFailed(t *testing.T) {
	e := openEngine(t, bucket.NewMemory())
	t1 := commit(t, e, stored{0, 0, record("one")})
	e.freeze() // as a flush does that then fails
	t2 := commit(t, e, stored{0, t1, record("two")})
	t3 := commit(t, e, stored{0, t2, record("three")})
	if err := e.Pack(t.Context(), t3); err != nil {
		t.Fatal(err)
	}
	if h, err := e.History(t.Context(), 0, 10); err != nil || len(h) != 1 {
		t.Errorf("%d revisions, %v", len(h), err)
	}
}
