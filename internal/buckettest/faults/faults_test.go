package faults_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest"
	"s3storage/internal/buckettest/faults"
)

func parse(t *testing.T, s string) faults.Config {
	t.Helper()
	c, err := faults.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWithoutFaultsConforms(t *testing.T) {
	buckettest.Conformance(t, func(*testing.T) bucket.Bucket {
		return faults.New(bucket.NewMemory(), parse(t, "seed=3,delay=0.3:0s..100us"))
	})
}

func TestTurnedOffConforms(t *testing.T) {
	buckettest.Conformance(t, func(*testing.T) bucket.Bucket {
		b := faults.New(bucket.NewMemory(), parse(t, "lost=1,truncate=1,500=1"))
		b.Enable(false)
		return b
	})
}

func TestParse(t *testing.T) {
	c := parse(t, "seed=7, delay=0.1:20ms, lost=0.05,late=0.25:100ms..2s,409=0.02,500=0.03,503=0.04,"+
		"truncate=0.06,flip=0.07,never=0.08,put-if-absent.lost=0.5,nevertheless=0.25,eventual=0.9:3s")
	if c.Eventual != 0.9 || c.EventualFor != 3*time.Second {
		t.Errorf("eventual %v, for %v", c.Eventual, c.EventualFor)
	}
	if c.Seed != 7 || c.Nevertheless != 0.25 {
		t.Errorf("seed %d, nevertheless %v", c.Seed, c.Nevertheless)
	}
	want := faults.Rates{
		Delay: 0.1, DelayFor: bucket.Delay{Min: 20 * time.Millisecond, Max: 20 * time.Millisecond},
		Lost: 0.05, Late: 0.25, LateBy: bucket.Delay{Min: 100 * time.Millisecond, Max: 2 * time.Second},
		Never: 0.08, Error409: 0.02, Error500: 0.03, Error503: 0.04, Truncate: 0.06, Flip: 0.07,
	}
	if c.Kinds[bucket.KindGet] != want {
		t.Errorf("got %+v, want %+v", c.Kinds[bucket.KindGet], want)
	}
	want.Lost = 0.5
	if c.Kinds[bucket.KindPutIfAbsent] != want {
		t.Errorf("got %+v, want %+v", c.Kinds[bucket.KindPutIfAbsent], want)
	}
	for _, bad := range []string{
		"lost", "lost=", "lost=2", "lost=-1", "lost=NaN", "lost=0.1:20ms", "delay=0.1", "late=0.1:x",
		"late=0.1:2s..1s", "what=1", "seed=x", "append.lost=0.1", "eventual=1", "put.what=0.1", "=",
	} {
		if _, err := faults.Parse(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

// history runs the same calls and returns what came of them.
func history(t *testing.T, seed int, concurrent bool) string {
	b := faults.New(bucket.NewMemory(), parse(t, fmt.Sprintf(
		"seed=%d,lost=0.2,never=0.2,409=0.1,500=0.1,503=0.1,truncate=0.2,flip=0.2", seed)))
	lines := make([]strings.Builder, 8)
	var wg sync.WaitGroup
	for g := range lines {
		run := func() {
			for i := range 20 {
				name := fmt.Sprintf("%d/%d", g, i%5)
				err := b.PutIfAbsent(t.Context(), name, []byte("some bytes"))
				data, e := b.Get(t.Context(), name, 100)
				fmt.Fprintf(&lines[g], "%v|%q|%v\n", err, data, e)
			}
		}
		if concurrent {
			wg.Go(run)
		} else {
			run()
		}
	}
	wg.Wait()
	var all strings.Builder
	for g := range lines {
		all.WriteString(lines[g].String())
	}
	return all.String()
}

func TestFaultsFollowTheSeed(t *testing.T) {
	first := history(t, 1, false)
	if history(t, 1, false) != first {
		t.Error("the same seed, other faults")
	}
	if history(t, 1, true) != first {
		t.Error("the same seed, other faults when goroutines take turns as they like")
	}
	if history(t, 2, false) == first {
		t.Error("another seed, the same faults")
	}
}

func TestEachRateStrikesAboutAsOftenAsItSays(t *testing.T) {
	b := faults.New(bucket.NewMemory(), parse(t,
		"lost=0.1,late=0.1:0s,never=0.1,409=0.1,500=0.1,503=0.1,truncate=0.1,flip=0.1"))
	const n = 3000
	for i := range n {
		name := fmt.Sprintf("%d", i)
		if err := b.PutIfAbsent(t.Context(), name, []byte(name)); err != nil && !errors.Is(err, faults.ErrInjected) {
			t.Fatal(err)
		}
		b.Get(t.Context(), name, 10)
	}
	b.Wait()
	near := func(what string, got int, want float64) {
		if float64(got) < 0.7*want*n || float64(got) > 1.3*want*n {
			t.Errorf("%s struck %d of %d, want about %v", what, got, n, want*n)
		}
	}
	near("lost", b.Struck(faults.Lost), 0.1)
	near("late", b.Struck(faults.Late), 0.1)
	near("never", b.Struck(faults.Never), 0.1)
	near("409", b.Struck(faults.Error409)+b.Struck(faults.Done409), 0.1)
	near("500", b.Struck(faults.Error500)+b.Struck(faults.Done500), 0.2) // writes and reads
	near("503 done", b.Struck(faults.Done503), 0.05)
	near("truncate", b.Struck(faults.Truncate), 0.1)
	near("flip", b.Struck(faults.Flip), 0.1)
	if b.Landed() != b.Struck(faults.Late) {
		t.Errorf("%d late writes landed of %d", b.Landed(), b.Struck(faults.Late))
	}
}

func TestWhatEachActionDoes(t *testing.T) {
	for _, test := range []struct {
		action faults.Action
		done   bool
	}{
		{faults.Lost, true}, {faults.Never, false},
		{faults.Error409, false}, {faults.Error500, false}, {faults.Error503, false},
		{faults.Done409, true}, {faults.Done500, true}, {faults.Done503, true},
	} {
		for _, kind := range []bucket.Kind{bucket.KindPutIfAbsent, bucket.KindPut, bucket.KindPutStream, bucket.KindDelete} {
			m := bucket.NewMemory()
			b := faults.New(m, faults.Config{})
			b.Script(faults.Rule{Kind: kind, Fault: faults.Fault{Action: test.action}})
			var err error
			switch kind {
			case bucket.KindPutIfAbsent:
				err = b.PutIfAbsent(t.Context(), "a", []byte("1"))
			case bucket.KindPut:
				err = b.Put(t.Context(), "a", []byte("1"))
			case bucket.KindPutStream:
				err = b.PutStream(t.Context(), "a", strings.NewReader("1"))
			case bucket.KindDelete:
				m.Put(t.Context(), "a", []byte("1"))
				err = b.Delete(t.Context(), "a")
			}
			if !errors.Is(err, faults.ErrInjected) || bucket.Refused(err) ||
				errors.Is(err, bucket.ErrExist) || errors.Is(err, bucket.ErrNotExist) {
				t.Errorf("%v of %v: error %v", test.action, kind, err)
			}
			_, err = m.Get(t.Context(), "a", 10)
			if exists := err == nil; exists != (test.done != (kind == bucket.KindDelete)) {
				t.Errorf("%v of %v: exists %v", test.action, kind, exists)
			}
		}
	}
}

func TestLateStreamsLandWhole(t *testing.T) {
	m := bucket.NewMemory()
	b := faults.New(m, faults.Config{})
	land := make(chan struct{})
	b.Script(faults.Rule{Kind: bucket.KindPutStream, Times: 2, Fault: faults.Fault{Action: faults.Late, Until: land}})
	whole := strings.Repeat("0123456789", 100_000)
	if err := b.PutStream(t.Context(), "a", strings.NewReader(whole)); !errors.Is(err, faults.ErrInjected) {
		t.Errorf("error %v", err)
	}
	broken := errors.New("broken")
	if err := b.PutStream(t.Context(), "b", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := m.Get(t.Context(), "a", 10); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("before it lands: %v", err)
	}
	close(land)
	b.Wait()
	if data, err := m.Get(t.Context(), "a", 1<<20); err != nil || string(data) != whole {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if _, err := m.Get(t.Context(), "b", 10); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("a stream that failed: %v", err)
	}
}

func TestDamagedReads(t *testing.T) {
	m := bucket.NewMemory()
	whole := bytes.Repeat([]byte("0123456789"), 20)
	m.Put(t.Context(), "a", whole)
	b := faults.New(m, faults.Config{})
	for _, kind := range []bucket.Kind{bucket.KindGet, bucket.KindGetRange} {
		b.Script(faults.Rule{Kind: kind, Times: 20, Fault: faults.Fault{Action: faults.Truncate}},
			faults.Rule{Kind: kind, Nth: 21, Times: 20, Fault: faults.Fault{Action: faults.Flip}})
	}
	for i := range 40 {
		for _, get := range []func() ([]byte, error){
			func() ([]byte, error) { return b.Get(t.Context(), "a", 1000) },
			func() ([]byte, error) { return b.GetRange(t.Context(), "a", 0, 1000) },
		} {
			data, err := get()
			if err != nil {
				t.Fatal(err)
			}
			if i < 20 {
				if len(data) >= len(whole) || !bytes.HasPrefix(whole, data) {
					t.Errorf("truncated to %d of %d bytes", len(data), len(whole))
				}
				continue
			}
			wrong := 0
			for j := range whole {
				wrong += bits.OnesCount8(whole[j] ^ data[j])
			}
			if len(data) != len(whole) || wrong != 1 {
				t.Errorf("%d of %d bytes, %d bits are wrong", len(data), len(whole), wrong)
			}
		}
	}
	if data, err := m.Get(t.Context(), "a", 1000); err != nil || !bytes.Equal(data, whole) {
		t.Error("the object itself is damaged")
	}
}

func TestScriptStrikesTheNthCall(t *testing.T) {
	b := faults.New(bucket.NewMemory(), faults.Config{})
	b.Script(faults.Rule{Kind: bucket.KindPut, Prefix: "log/", Nth: 3, Times: 2, Fault: faults.Fault{Action: faults.Error500}})
	var failed []int
	for i := 1; i <= 6; i++ {
		b.Put(t.Context(), "other", nil)
		b.PutIfAbsent(t.Context(), fmt.Sprintf("log/x%d", i), nil)
		if b.Put(t.Context(), fmt.Sprintf("log/%d", i), nil) != nil {
			failed = append(failed, i)
		}
	}
	if fmt.Sprint(failed) != "[3 4]" {
		t.Errorf("failed: %v, want [3 4]", failed)
	}
	b.Script(faults.Rule{Kind: bucket.KindPut, Times: -1, Fault: faults.Fault{Action: faults.Error500}})
	for range 3 {
		if b.Put(t.Context(), "a", nil) == nil {
			t.Error("a rule for all calls does not strike")
		}
	}
	b.ClearScript()
	if err := b.Put(t.Context(), "a", nil); err != nil {
		t.Error(err)
	}
}

func TestLateWritesLandAfterTheCallerHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bucket.NewMemory()
		b := faults.New(m, parse(t, "put-if-absent.late=1:2s"))
		ctx, cancel := context.WithCancel(t.Context())
		if err := b.PutIfAbsent(ctx, "log/1", []byte("late")); !errors.Is(err, faults.ErrInjected) {
			t.Fatalf("error %v", err)
		}
		cancel()
		time.Sleep(1900 * time.Millisecond)
		if _, err := m.Get(t.Context(), "log/1", 10); !errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("landed before its time: %v", err)
		}
		b.Wait()
		if data, err := m.Get(t.Context(), "log/1", 10); err != nil || string(data) != "late" {
			t.Errorf("got %q, %v", data, err)
		}
	})
}

func TestLateWritesLandWhenReleasedOrClosed(t *testing.T) {
	m := bucket.NewMemory()
	b := faults.New(m, faults.Config{})
	release, never := make(chan struct{}), make(chan struct{})
	b.Script(
		faults.Rule{Kind: bucket.KindPut, Prefix: "a", Fault: faults.Fault{Action: faults.Late, Until: release}},
		faults.Rule{Kind: bucket.KindPut, Prefix: "b", Times: -1, Fault: faults.Fault{Action: faults.Late, Until: never}},
		faults.Rule{Kind: bucket.KindPut, Prefix: "c", Fault: faults.Fault{Action: faults.Late, After: time.Hour}},
		faults.Rule{Kind: bucket.KindGet, Prefix: "a", Fault: faults.Fault{Action: faults.Late, After: time.Hour}},
	)
	for _, name := range []string{"a", "b", "c"} {
		if err := b.Put(t.Context(), name, []byte(name)); err == nil {
			t.Errorf("%s was not late", name)
		}
	}
	if _, err := b.Get(t.Context(), "a", 1); !errors.Is(err, faults.ErrInjected) {
		t.Errorf("a late read: %v", err)
	}
	close(release)
	for b.Landed() < 1 {
		time.Sleep(time.Millisecond)
	}
	if _, err := m.Get(t.Context(), "a", 1); err != nil {
		t.Error(err)
	}
	b.Close()
	b.Close()
	if b.Landed() != 3 {
		t.Errorf("%d writes landed, want 3", b.Landed())
	}
	if err := b.Put(t.Context(), "b", nil); err != nil {
		t.Errorf("late after Close: %v", err)
	}
}

func TestListingsFailInTheMiddle(t *testing.T) {
	m := bucket.NewMemory()
	for i := range 20 {
		m.Put(t.Context(), fmt.Sprintf("%02d", i), nil)
	}
	b := faults.New(m, parse(t, "list.503=1"))
	seen := map[int]bool{}
	for range 100 {
		n := 0
		err := b.List(t.Context(), "", "", func(bucket.Info) error { n++; return nil })
		if !errors.Is(err, faults.ErrInjected) {
			t.Fatalf("error %v", err)
		}
		seen[n] = true
	}
	if len(seen) < 4 || seen[20] {
		t.Errorf("the listings ended after %v", seen)
	}
}

// The log's rule for unknown outcomes, put the same bytes again until success
// or ErrExist, gets every write through, and the probe finds one winner.
func TestRetryingGetsThrough(t *testing.T) {
	const config = "seed=5,lost=0.15,late=0.15:1ms..3ms,never=0.1,409=0.1,500=0.1,503=0.1"
	m := bucket.NewMemory()
	b := faults.New(m, parse(t, config))
	for i := range 200 {
		name := fmt.Sprintf("log/%d", i)
		for {
			err := b.PutIfAbsent(t.Context(), name, []byte(name))
			if err == nil || errors.Is(err, bucket.ErrExist) {
				break
			}
			if !errors.Is(err, faults.ErrInjected) {
				t.Fatal(err)
			}
		}
	}
	b.Close()
	for i := range 200 {
		name := fmt.Sprintf("log/%d", i)
		if data, err := m.Get(t.Context(), name, 100); err != nil || string(data) != name {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	probed := faults.New(bucket.NewMemory(), parse(t, "seed=5,lost=0.1,late=0.1:1ms..3ms,409=0.1,503=0.1"))
	defer probed.Close()
	if err := bucket.Probe(t.Context(), probed); errors.Is(err, bucket.ErrNoConditionalPut) {
		t.Errorf("the probe takes unknown outcomes for a broken promise: %v", err)
	}
}
