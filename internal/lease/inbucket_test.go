package lease

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
)

// newBucket returns a bucket, as slow as that, as a system that grants leases.
func newBucket(slow bucket.Delays) (*system, *faults.Bucket) {
	b := faults.New(bucket.NewMemory(), faults.Config{Seed: 1})
	delayed := bucket.Slow(b, slow, 1)
	return &system{
		open: func(t *testing.T, o Options) Lease {
			o.Bucket = delayed
			l, err := Open(t.Context(), "bucket", o)
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
		down: func(*testing.T) {
			for _, k := range []bucket.Kind{bucket.KindGet, bucket.KindPut} {
				b.Script(faults.Rule{Kind: k, Times: -1, Fault: faults.Fault{Action: faults.Error503}})
			}
		},
		up: func(*testing.T) { b.ClearScript() },
		lose: func(t *testing.T) {
			if err := b.Delete(t.Context(), ObjectName); err != nil {
				t.Fatal(err)
			}
		},
		life: 2 * timeout,
	}, b
}

func TestALeaseInABucket(t *testing.T) {
	for _, p := range append([]promise{knowsNodes}, promises...) {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // in virtual time
				s, _ := newBucket(bucket.Delays{})
				p.test(t, s)
			})
		})
	}
}

func TestOfCandidatesAtOnceOneHoldsTheLeaseOfADeadNodeBeforeTwoTimeouts(t *testing.T) {
	slow, err := bucket.ParseDelays("get=5ms..150ms,put=20ms..250ms")
	if err != nil {
		t.Fatal(err)
	}
	for candidates := 1; candidates <= 5; candidates++ {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newBucket(slow)
			dead := s.node(t, "dead")
			acquire(t, dead)
			dead.end()
			began := time.Now()
			got := make(chan error)
			ctx, cancel := context.WithCancel(t.Context())
			for i := range candidates {
				l := s.node(t, fmt.Sprint(i))
				go func() { got <- l.Acquire(ctx) }()
			}
			if err := <-got; err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d < timeout || d > 2*timeout { // in virtual time
				t.Errorf("%d candidates: taken after %v, the timeout is %v", candidates, d, timeout)
			}
			cancel()
			for range candidates - 1 {
				<-got
			}
		})
	}
}

func TestALeaseThatIsDamagedIsWrittenAgainByItsHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newBucket(bucket.Delays{})
		one, two := s.node(t, "one"), s.node(t, "two")
		acquire(t, one)
		for _, damage := range [][]byte{[]byte("nonsense"), (&record{Database: [16]byte{2}}).encode()} {
			if err := b.Put(t.Context(), ObjectName, damage); err != nil {
				t.Fatal(err)
			}
			until(t, two, "one")
			s.refused(t, two)
		}
		if !one.Held() {
			t.Error("the holder lost the lease")
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
