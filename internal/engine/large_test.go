package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

const million = 1_000_000

// largeEngine opens an engine and has it settle a million made-up transactions,
// each of one object, which goes from one to the next of so many. Their data is
// nowhere.
func largeEngine(b *testing.B, objects int) *Engine {
	b.Helper()
	e, err := Open(b.Context(), bucket.NewMemory(), Options{
		Node: b.Name(), Creator: "test", NoPackGC: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close(context.Background()) })
	const together = 64
	first := zodb.TidAt(time.Now().Add(-24 * time.Hour))
	for i := 0; i < million; {
		o := &txlog.Object{Header: txlog.Header{Epoch: 1, Slot: txlog.Slot(i + 1)}}
		for range min(together, million-i) {
			o.Entries = append(o.Entries, txlog.Entry{Txn: &txlog.Transaction{
				Tid: first + zodb.Tid(i),
				Meta: zodb.TxnMeta{
					User:        fmt.Appendf(nil, "/site user%d", i%1000),
					Description: fmt.Appendf(nil, "/site/folder/document-%d", i),
					Status:      ' ',
				},
				Records: []txlog.Record{{
					Oid: zodb.Oid(i % objects), Kind: txlog.RecordData, Size: 1000,
					Span: txlog.Span{Offset: uint32(len(o.Entries)) << 10, Size: 1 << 10},
				}},
			}})
			i++
		}
		(*logObserver)(e).Settled(o)
	}
	e.seq.Lock()
	e.seq.last = e.state.last
	e.seq.Unlock()
	return e
}

// What the newest transactions cost, and a match that never says yes, among a
// million transactions, and what they take in memory.
func BenchmarkUndoLogOfAMillionTransactions(b *testing.B) {
	e := largeEngine(b, million/4)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	for _, q := range []struct {
		name  string
		match func(*zodb.TxnInfo) bool
	}{
		{"newest", nil},
		{"none matches", func(*zodb.TxnInfo) bool { return false }},
	} {
		b.Run(q.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := e.UndoLog(b.Context(), 0, 20, q.match); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(m.HeapAlloc)/million, "heap-B/txn")
		})
	}
}

// How long commits and lookups take while a pack drops close to a million
// revisions.
func BenchmarkCommitsWhileAPackDropsAMillionRevisions(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		e := largeEngine(b, million/20)
		packTo := e.LastTransaction()
		packed := make(chan error, 1)
		var commits, loads []time.Duration
		looked := make(chan struct{})
		stop := make(chan struct{})
		go func() {
			defer close(looked)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				start := time.Now()
				if _, _, _, _, err := e.lookup(zodb.Oid(i%1000), zodb.MaxTid); err != nil {
					b.Error(err)
				}
				loads = append(loads, time.Since(start))
				time.Sleep(100 * time.Microsecond)
			}
		}()
		b.StartTimer()
		go func() { packed <- e.Pack(b.Context(), packTo) }()
		var err error
		serial := zodb.NoTid
		for running := true; running; {
			select {
			case err = <-packed:
				running = false
			default:
				start := time.Now()
				serial = commitIn(b, e, 2*million, serial)
				commits = append(commits, time.Since(start))
			}
		}
		b.StopTimer()
		close(stop)
		<-looked
		if err != nil {
			b.Fatal(err)
		}
		report(b, "commit", commits)
		report(b, "lookup", loads)
		b.StartTimer()
	}
}

// commitIn commits one object.
func commitIn(b *testing.B, e *Engine, oid zodb.Oid, serial zodb.Tid) zodb.Tid {
	b.Helper()
	txn, err := e.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, nil)
	if err == nil {
		err = txn.Store(oid, serial, []byte("data"))
	}
	if err == nil {
		_, err = txn.Vote(b.Context())
	}
	if err == nil {
		serial, err = finish(txn)
	}
	if err != nil {
		b.Fatal(err)
	}
	return serial
}

func report(b *testing.B, what string, took []time.Duration) {
	slices.Sort(took)
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		d := took[int(q.share*float64(len(took)-1))]
		b.ReportMetric(float64(d)/float64(time.Millisecond), what+"-"+q.name+"-ms")
	}
}
