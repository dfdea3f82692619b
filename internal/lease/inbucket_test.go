package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
)

// open returns a lease of a node in the bucket, closed at the end of the test.
func open(t *testing.T, b bucket.Bucket, node string) *inBucket {
	t.Helper()
	l, err := Open(t.Context(), "bucket", Options{Database: [16]byte{1}, Node: node, Address: node + ":9999",
		Bucket: b, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*inBucket)
}

func acquire(t *testing.T, l Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	if !l.Held() {
		t.Fatal("acquired, and yet not held")
	}
}

// refused checks that the lease cannot be acquired for a minute.
func refused(t *testing.T, l Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) || l.Held() {
		t.Fatalf("Acquire: %v, held %v; it should have waited until its context ended", err, l.Held())
	}
}

func TestALiveHolderKeepsTheLeaseAndReleaseHandsItOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		one, two := open(t, b, "one"), open(t, b, "two")
		acquire(t, one)
		refused(t, two)
		if h, err := two.Holder(t.Context()); err != nil || h.Node != "one" || h.Address != "one:9999" || h.Since.IsZero() {
			t.Fatalf("Holder: %+v, %v", h, err)
		}
		if !one.Held() {
			t.Fatal("the holder lost the lease to a challenge")
		}
		got := make(chan error)
		go func() { got <- two.Acquire(t.Context()) }()
		time.Sleep(10 * time.Second)
		if err := one.Release(t.Context()); err != nil || one.Held() {
			t.Fatalf("Release: %v, held %v", err, one.Held())
		}
		released := time.Now()
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(released); d > two.Timeout/4 { // in virtual time
			t.Errorf("the lease was acquired %v after its release", d)
		}
		if err := two.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if h, err := two.Holder(t.Context()); err != nil || h != (Holder{}) {
			t.Fatalf("Holder of a free lease: %+v, %v", h, err)
		}
	})
}

func TestASilentHolderLosesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		one, two := open(t, b, "one"), open(t, b, "two")
		acquire(t, one)
		one.end() // as if it were paused
		began := time.Now()
		acquire(t, two)
		if d := time.Since(began); d < two.Timeout || d > 2*two.Timeout { // in virtual time
			t.Errorf("taken after %v, the timeout is %v", d, two.Timeout)
		}
		one.start() // it goes on
		time.Sleep(one.Timeout)
		synctest.Wait()
		if one.Held() || !two.Held() {
			t.Errorf("held by the old holder: %v, by the new one: %v", one.Held(), two.Held())
		}
	})
}

func TestOfManyCandidatesOneHoldsTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		dead := open(t, b, "dead")
		acquire(t, dead)
		dead.end()
		var all []*inBucket
		got := make(chan error)
		for i := range 5 {
			l := open(t, b, fmt.Sprint(i))
			all = append(all, l)
			go func() { got <- l.Acquire(t.Context()) }()
		}
		for range all {
			if err := <-got; err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
			var holders []*inBucket
			for _, l := range all {
				if l.Held() {
					holders = append(holders, l)
				}
			}
			if len(holders) != 1 {
				t.Fatalf("%d nodes hold the lease", len(holders))
			}
			if err := holders[0].Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWhileTheBucketIsDownTheHolderKeepsTheLeaseAndNobodyTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := faults.New(bucket.NewMemory(), faults.Config{Seed: 1})
		one, two := open(t, b, "one"), open(t, b, "two")
		acquire(t, one)
		for _, k := range []bucket.Kind{bucket.KindGet, bucket.KindPut} {
			b.Script(faults.Rule{Kind: k, Times: -1, Fault: faults.Fault{Action: faults.Error503}})
		}
		refused(t, two)
		if !one.Held() {
			t.Error("the holder lost the lease because the bucket was down")
		}
		b.ClearScript()
		refused(t, two)
		if !one.Held() {
			t.Error("the holder lost the lease when the bucket was back")
		}
	})
}

func TestALeaseThatIsDeletedOrDamagedIsWrittenAgainByItsHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		one, two := open(t, b, "one"), open(t, b, "two")
		acquire(t, one)
		for _, damage := range []func() error{
			func() error { return b.Delete(t.Context(), ObjectName) },
			func() error { return b.Put(t.Context(), ObjectName, []byte("nonsense")) },
			func() error { return b.Put(t.Context(), ObjectName, (&record{Database: [16]byte{2}}).encode()) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(one.Timeout)
			refused(t, two)
		}
		if !one.Held() {
			t.Error("the holder lost the lease")
		}
	})
}

func TestANodeThatIsStartedAgainTakesItsLeaseAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		before := open(t, b, "one")
		acquire(t, before)
		before.end()
		began := time.Now()
		acquire(t, open(t, b, "one"))
		if d := time.Since(began); d >= before.Timeout { // in virtual time
			t.Errorf("it took %v", d)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add((&record{Holder: Holder{Since: time.Unix(0, 0)}}).encode())
	f.Add((&record{[16]byte{1}, [16]byte{2}, [16]byte{3}, Holder{"one", "one:9999", time.Unix(1e9, 1)}, Holder{Node: "two"}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Errorf("%x is decoded, and encoded as %x", b, r.encode())
		}
	})
}
