package bucket

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestObservedCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delays, err := ParseDelays("put=30ms,list=5ms")
		if err != nil {
			t.Fatal(err)
		}
		o := Observe(Slow(NewMemory(), delays, 1))
		ctx := t.Context()
		o.PutIfAbsent(ctx, "a", make([]byte, 100))
		o.PutIfAbsent(ctx, "a", make([]byte, 100))
		before := o.Snapshot()
		for range 10 {
			o.Put(ctx, "b", make([]byte, 7))
		}
		broken := errors.New("broken")
		if err := o.PutStream(ctx, "c", strings.NewReader("12345")); err != nil {
			t.Error(err)
		}
		if err := o.PutStream(ctx, "c", iotest.ErrReader(broken)); !errors.Is(err, broken) {
			t.Errorf("PutStream returned %v", err)
		}
		o.Get(ctx, "a", 1000)
		o.Get(ctx, "a", 10)
		o.Get(ctx, "none", 10)
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		o.Get(cancelled, "a", 1000)
		stop := errors.New("stop")
		if err := o.List(ctx, "", "", func(Info) error { time.Sleep(time.Second); return stop }); err != stop {
			t.Errorf("List returned %v", err)
		}

		type numbers struct{ count, refused, errors, bytes uint64 }
		s := o.Snapshot()
		for k, want := range map[Kind]numbers{
			KindPutIfAbsent: {2, 1, 0, 100},
			KindPut:         {10, 0, 0, 70},
			KindPutStream:   {2, 0, 0, 5},
			KindGet:         {4, 1, 1, 100},
			KindList:        {1, 0, 0, 1},
			KindDelete:      {},
		} {
			st := s.Kinds[k]
			if got := (numbers{st.Count, st.Refused, st.Errors, st.Bytes}); got != want {
				t.Errorf("%v: got %+v, want %+v", k, got, want)
			}
			if st.InFlight != 0 || st.Latency.Total() != st.Count {
				t.Errorf("%v: %d in flight, %d in the histogram", k, st.InFlight, st.Latency.Total())
			}
		}
		if put := s.Kinds[KindPut]; put.Time != 300*time.Millisecond || put.Max != 30*time.Millisecond {
			t.Errorf("puts took %v, at most %v", put.Time, put.Max)
		}
		if list := s.Kinds[KindList]; list.Time != 5*time.Millisecond {
			t.Errorf("the listing took %v: its callback must not count", list.Time)
		}
		since := s.Sub(before)
		if since.Kinds[KindPutIfAbsent].Count != 0 || since.Kinds[KindPut].Count != 10 {
			t.Errorf("since: %v", since)
		}
		if text := since.String(); !strings.Contains(text, "put ") || strings.Contains(text, "put-if-absent") {
			t.Errorf("since: %s", text)
		}
	})
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(30*time.Minute)).Draw(t, "duration"))
		var h Histogram
		h.Add(d)
		upTo := h.Quantile(0.5)
		if d >= upTo {
			t.Fatalf("%v is counted below %v", d, upTo)
		}
		if upTo-d > d/8+time.Microsecond {
			t.Fatalf("%v is counted below %v: that is too far", d, upTo)
		}
	})
	var h Histogram
	h.Add(-time.Second)
	h.Add(1000 * time.Hour)
	if h.Total() != 2 || h.Counts[0] != 1 || h.Counts[len(h.Counts)-1] != 1 {
		t.Error("durations out of range are not counted at the ends")
	}
	for i := 1; i < len(h.Counts); i++ {
		if h.UpTo(i) <= h.UpTo(i-1) {
			t.Fatalf("class %d ends at %v, class %d at %v", i-1, h.UpTo(i-1), i, h.UpTo(i))
		}
	}
	h = Histogram{}
	if h.Quantile(0.99) != 0 {
		t.Error("no durations, but a quantile")
	}
	for i := range 100 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	for q, millis := range map[float64]int{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		want := time.Duration(millis) * time.Millisecond
		if got := h.Quantile(q); got < want || got > want*9/8+time.Microsecond {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
}

func TestDelays(t *testing.T) {
	delays, err := ParseDelays("all=1ms, put-if-absent=30ms,get=5ms..20ms")
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[Kind]Delay{
		KindPutIfAbsent: {30 * time.Millisecond, 30 * time.Millisecond},
		KindGet:         {5 * time.Millisecond, 20 * time.Millisecond},
		KindNow:         {time.Millisecond, time.Millisecond},
	} {
		if delays[k] != want {
			t.Errorf("%v: %v, want %v", k, delays[k], want)
		}
	}
	for _, bad := range []string{"30ms", "put=", "put=x", "put=2s..1s", "put=-1s", "what=1s", "get=1s..", "get=1"} {
		if _, err := ParseDelays(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b := Slow(NewMemory(), delays, 1)
		start := time.Now()
		if err := b.PutIfAbsent(t.Context(), "a", nil); err != nil || time.Since(start) != 30*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		for range 100 {
			start = time.Now()
			b.Get(t.Context(), "a", 1)
			if took := time.Since(start); took < 5*time.Millisecond || took > 20*time.Millisecond {
				t.Errorf("took %v", took)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start = time.Now()
		err := b.PutIfAbsent(ctx, "b", nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
