package engine

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// stagesOf says how often each stage was come by, and how long they took together, but
// for those that were not.
func stagesOf(e *Engine) string {
	var all []string
	for s, t := range e.Work().Stages {
		if n := t.Latency.Total(); n > 0 {
			all = append(all, fmt.Sprintf("%s %d in %v", Stage(s), n, t.Time))
		}
	}
	return strings.Join(all, ", ")
}

func TestStagesTellWhereTheTimeOfACommitGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const put = 100 * time.Millisecond
		var delays bucket.Delays
		delays[bucket.KindPutIfAbsent].Min, delays[bucket.KindPut].Min = put, put
		e := openEngine(t, bucket.Slow(bucket.NewMemory(), delays, 1), func(o *Options) { o.MaxInline = 1000 })
		expect := func(when, want string) {
			t.Helper()
			synctest.Wait()
			if got := stagesOf(e); got != want {
				t.Errorf("%s: %s; not %s", when, got, want)
			}
		}
		expect("at first", "")

		first := begin(t, e, stored{1, zodb.NoTid, record("the first")})
		vote(t, first)
		expect("after the vote", "locks 1 in 0s, judge 1 in 0s")

		// Another one wants the same object, and waits while the client takes its time.
		voted := make(chan error)
		second := begin(t, e, stored{1, zodb.NoTid, record("the second")})
		go func() {
			_, err := second.Vote(t.Context())
			voted <- err
		}()
		time.Sleep(2 * time.Second)
		finished := make(chan error)
		first.Finish(func(_ *zodb.Commit, err error) { finished <- err })
		synctest.Wait()
		if n := e.Work().Finishing; n != 1 {
			t.Errorf("%d transactions are being finished", n)
		}
		for _, c := range []chan error{finished, voted} {
			if err := <-c; err != nil {
				t.Error(err)
			}
		}
		second.Abort()
		expect("after two votes and a commit", "locks 2 in 2s, judge 2 in 0s, client 1 in 2s, queue 1 in 0s, put 1 in 100ms, apply 1 in 0s")

		// The data of a large one is put before the vote is answered.
		commit(t, e, stored{2, zodb.NoTid, record(strings.Repeat("large", 1000))})
		expect("after a large one", "locks 3 in 2s, judge 3 in 100ms, client 2 in 2s, queue 2 in 0s, put 2 in 200ms, apply 2 in 0s")

		// Of two that follow each other at once, the second waits for the first put.
		var txns []zodb.Transaction
		for oid := range zodb.Oid(2) {
			txn := begin(t, e, stored{10 + oid, zodb.NoTid, record("small")})
			vote(t, txn)
			txns = append(txns, txn)
		}
		for _, txn := range txns {
			txn.Finish(func(_ *zodb.Commit, err error) { finished <- err })
		}
		for range txns {
			if err := <-finished; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if queued := e.Work().Stages[StageQueue].Time; queued <= 0 || queued > put {
			t.Errorf("%v in the queue", queued)
		}
		if w := e.Work(); w.Finishing != 0 || w.Unflushed <= 0 || w.Unflushed >= w.MaxUnflushed {
			t.Errorf("%d are being finished, %d of %d bytes unflushed", w.Finishing, w.Unflushed, w.MaxUnflushed)
		}
	})
}

func TestTheWaitForABlobIsAStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var delays bucket.Delays
		delays[bucket.KindPutStream].Min = time.Second
		e := openEngine(t, bucket.Slow(bucket.NewMemory(), delays, 1))
		storeBlob(t, e, 1, zodb.NoTid, record("of a blob"), "the blob")
		synctest.Wait()
		if got := stagesOf(e); !strings.HasPrefix(got, "blobs 1 in 1s, ") {
			t.Error(got)
		}
	})
}
