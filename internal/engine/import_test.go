package engine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// imported is what the transaction of a number does; tids are ten apart.
func imported(n int) []ImportRecord {
	oid := zodb.Oid(n % 6)
	records := []ImportRecord{
		{Oid: oid, Data: []byte(record("superseded"))}, // the next of this object counts
		{Oid: oid, Data: []byte(record(fmt.Sprint("text ", n), (oid+1)%6))},
	}
	switch {
	case n%5 == 4:
		records[1].Blob = func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(fmt.Sprint("blob ", n))), nil
		}
	case n == 7:
		records[1].Data = nil
	case n > 6 && n%4 == 0:
		records[1].Data, records[1].Source = []byte(record(fmt.Sprint("text ", n-6), (oid+1)%6)), importTid(n-6)
	}
	return records
}

func importTid(n int) zodb.Tid { return zodb.Tid(10 * (n + 1)) }

const importTxns = 12

// importAll imports what is not there yet, two transactions at a time.
func importAll(l *life) error {
	im, err := l.Import(l.ctx)
	if err != nil {
		return err
	}
	defer im.Close()
	for n := range importTxns {
		if importTid(n) <= im.Last() {
			continue
		}
		meta := zodb.TxnMeta{User: []byte("user"), Description: []byte(fmt.Sprint(n)), Status: ' '}
		if err := im.Add(l.ctx, importTid(n), meta, imported(n)); err != nil {
			return err
		}
		if n%2 == 1 {
			if err := im.Flush(l.ctx); err != nil {
				return err
			}
		}
	}
	return im.Flush(l.ctx)
}

func TestAnImportThatEndsAtAnyWriteGoesOnToTheSame(t *testing.T) {
	const immortal = 1 << 30
	var want string
	var info zodb.Info
	writes := 0
	synctest.Test(t, func(t *testing.T) {
		l, err := live(bucket.NewMemory(), immortal)
		if err == nil {
			err = importAll(l)
		}
		if err != nil {
			t.Fatal(err)
		}
		want, info, writes = view(t, l.Engine), l.Info(), l.b.mu.written
		for n := range importTxns {
			if !strings.Contains(want, importTid(n).String()+"  \n") {
				t.Errorf("transaction %d is not in\n%s", n, want)
			}
		}
		if info.Objects != 5 { // the sixth was deleted
			t.Errorf("%d objects", info.Objects)
		}
		if strings.Contains(want, "superseded") || !strings.Contains(want, `"blob 9"`) {
			t.Errorf("there is\n%s", want)
		}
		l.die()
	})
	for n := range writes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bucket.NewMemory()
				if l, err := live(b, n); err == nil {
					_ = importAll(l)
					l.die()
				}
				l, err := live(b, immortal)
				if err == nil {
					err = importAll(l)
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := view(t, l.Engine); got != want {
					t.Errorf("there is\n%s\ninstead of\n%s", got, want)
				}
				if got := l.Info().Objects; got != info.Objects {
					t.Errorf("%d objects, not %d", got, info.Objects)
				}
				checkClean(t, l.Engine)
				oids, err := l.NewOids(t.Context(), 1)
				if err != nil || oids[0] < 6 {
					t.Errorf("a new oid is %v, %v", oids, err)
				}
				if err := l.commit(map[zodb.Oid]string{0: record("root")}); err != nil {
					t.Error(err)
				}
				if l.LastTransaction() <= importTid(importTxns-1) {
					t.Errorf("a commit has tid %s", l.LastTransaction())
				}
				l.die()
			})
		})
	}
}

func TestManyFilesAreOneImport(t *testing.T) {
	const txns = 300
	run := func(t *testing.T, l *life, small bool) error {
		im, err := l.Import(l.ctx)
		if err != nil {
			return err
		}
		defer im.Close()
		if small {
			im.perPortion, im.perFile = 1, 1
		}
		for n := range txns {
			if importTid(n) <= im.Last() {
				continue
			}
			if err := im.Add(l.ctx, importTid(n), zodb.TxnMeta{Status: ' '}, imported(n)); err != nil {
				return err
			}
		}
		return im.Flush(l.ctx)
	}
	var want string
	synctest.Test(t, func(t *testing.T) {
		l, err := live(bucket.NewMemory(), 1<<30)
		if err == nil {
			err = run(t, l, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		if want = view(t, l.Engine); len(l.state.view.Segments) != 1 {
			t.Errorf("%d segments", len(l.state.view.Segments))
		}
		l.die()
	})
	for _, dead := range []int{5, 20, 50, 1 << 30} { // after so many writes
		synctest.Test(t, func(t *testing.T) {
			b := bucket.NewMemory()
			l, err := live(b, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			l.b.mu.Lock()
			l.b.mu.left = dead
			l.b.mu.Unlock()
			if err := run(t, l, true); (err == nil) != (dead == 1<<30) {
				t.Fatal(err)
			}
			l.die()
			l, err = live(b, 1<<30)
			if err == nil {
				err = run(t, l, true)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := view(t, l.Engine); got != want {
				t.Errorf("with many files there is\n%s\ninstead of\n%s", got, want)
			}
			if n := l.tables(); n > importTables {
				t.Errorf("%d tables", n)
			}
			if b := l.state.view.Number; dead == 1<<30 && b < 2*mergeCount {
				t.Errorf("there were only %d bases", b)
			}
			checkClean(t, l.Engine)
			l.die()
		})
	}
}

func TestAnImportBehindTheLastTransactionIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := live(bucket.NewMemory(), 1<<30)
		if err == nil {
			err = importAll(l)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.die()
		im, err := l.Import(l.ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		if err := im.Add(l.ctx, im.Last(), zodb.TxnMeta{Status: ' '}, nil); err == nil {
			t.Error("the last transaction was imported again")
		}
	})
}

func TestACommitAmidAnImportIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := live(bucket.NewMemory(), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		defer l.die()
		im, err := l.Import(l.ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		if err := im.Add(l.ctx, importTid(0), zodb.TxnMeta{Status: ' '}, imported(0)); err != nil {
			t.Fatal(err)
		}
		if err := l.commit(map[zodb.Oid]string{0: record("root")}); err != nil {
			t.Fatal(err)
		}
		if err := im.Flush(l.ctx); err == nil || errors.Is(err, errDead) {
			t.Errorf("flushed: %v", err)
		}
		if rev, ok, err := l.LoadBefore(t.Context(), 0, zodb.MaxTid); err != nil || !ok || string(rev.Data) != record("root") {
			t.Errorf("there is %q, %v", rev.Data, err)
		}
	})
}

func TestTheLastTransactionStaysTheLastWhenAPackDropsIt(t *testing.T) {
	b := bucket.NewMemory()
	e := openEngine(t, b)
	im, err := e.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	for tid, records := range [][]ImportRecord{
		{{Oid: 0, Data: []byte(record("root"))}, {Oid: 1, Data: []byte(record("one"))}},
		{{Oid: 1}},
	} {
		if err := im.Add(t.Context(), importTid(tid), zodb.TxnMeta{Status: ' '}, records); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Pack(t.Context(), importTid(1)); err != nil {
		t.Fatal(err)
	}
	closeEngine(t, e)
	if last := openEngine(t, b).LastTransaction(); last != importTid(1) {
		t.Errorf("the last is %s, it was %s", last, importTid(1))
	}
}
