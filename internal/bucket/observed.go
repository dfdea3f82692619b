package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Observed is a bucket that counts what is done with the one below.
type Observed struct {
	b  Bucket
	mu struct {
		sync.Mutex
		kinds [NumKinds]KindStats
	}
}

// Stats tell what was done with a bucket so far.
type Stats struct {
	Kinds [NumKinds]KindStats // by Kind
}

// KindStats tell about the operations of one kind.
type KindStats struct {
	InFlight int           // begun, not ended
	Count    uint64        // ended
	Refused  uint64        // of these, with ErrExist or ErrNotExist
	Errors   uint64        // of these, with another error, but for cancelled ones
	Bytes    uint64        // moved by those that succeeded; for listings, the number of objects shown; for CleanUp, what was removed
	Time     time.Duration // total, without what List's callback or PutStream's reader took
	Max      time.Duration // the longest
	Latency  Histogram
}

// Observe returns b, observed.
func Observe(b Bucket) *Observed { return &Observed{b: b} }

var _ Bucket = (*Observed)(nil)

// Snapshot returns the numbers of this moment.
func (o *Observed) Snapshot() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	return Stats{Kinds: o.mu.kinds}
}

// Sub returns what was done between the snapshot old and the later one s. Max
// and InFlight stay those of s.
func (s Stats) Sub(old Stats) Stats {
	for k := range s.Kinds {
		a, b := &s.Kinds[k], &old.Kinds[k]
		a.Count -= b.Count
		a.Refused -= b.Refused
		a.Errors -= b.Errors
		a.Bytes -= b.Bytes
		a.Time -= b.Time
		for i := range a.Latency.Counts {
			a.Latency.Counts[i] -= b.Latency.Counts[i]
		}
	}
	return s
}

// String returns a line for each kind that was used.
func (s Stats) String() string {
	var out strings.Builder
	for k, st := range s.Kinds {
		if st.Count == 0 {
			continue
		}
		fmt.Fprintf(&out, "%-13s %d, %d refused, %d errors, %d bytes, mean %v, median %v, 99%% %v, longest %v\n",
			Kind(k), st.Count, st.Refused, st.Errors, st.Bytes,
			(st.Time / time.Duration(st.Count)).Round(time.Microsecond),
			st.Latency.Quantile(0.5), st.Latency.Quantile(0.99), st.Max.Round(time.Microsecond))
	}
	return out.String()
}

func (o *Observed) begin(k Kind) time.Time {
	o.mu.Lock()
	o.mu.kinds[k].InFlight++
	o.mu.Unlock()
	return time.Now()
}

func (o *Observed) end(k Kind, took time.Duration, bytes int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.mu.kinds[k]
	s.InFlight--
	s.Count++
	switch {
	case err == nil:
		s.Bytes += uint64(bytes)
	case errors.Is(err, ErrExist), errors.Is(err, ErrNotExist):
		s.Refused++
	case !errors.Is(err, context.Canceled):
		s.Errors++
	}
	s.Time += took
	s.Max = max(s.Max, took)
	s.Latency.Add(took)
}

// Properties implements Bucket.
func (o *Observed) Properties() Properties { return o.b.Properties() }

// PutIfAbsent implements Bucket.
func (o *Observed) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	start := o.begin(KindPutIfAbsent)
	err := o.b.PutIfAbsent(ctx, name, data)
	o.end(KindPutIfAbsent, time.Since(start), len(data), err)
	return err
}

// Put implements Bucket.
func (o *Observed) Put(ctx context.Context, name string, data []byte) error {
	start := o.begin(KindPut)
	err := o.b.Put(ctx, name, data)
	o.end(KindPut, time.Since(start), len(data), err)
	return err
}

// PutStream implements Bucket. An error of r is none of the bucket.
func (o *Observed) PutStream(ctx context.Context, name string, r io.Reader) error {
	start := o.begin(KindPutStream)
	s := &source{ctx: ctx, r: r}
	err := o.b.PutStream(ctx, name, s)
	moved, failed := int(s.n), err
	if s.err != nil {
		moved, failed = 0, nil
	}
	o.end(KindPutStream, time.Since(start)-s.took, moved, failed)
	return err
}

// Get implements Bucket.
func (o *Observed) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	start := o.begin(KindGet)
	data, err := o.b.Get(ctx, name, limit)
	o.end(KindGet, time.Since(start), len(data), err)
	return data, err
}

// GetRange implements Bucket.
func (o *Observed) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	start := o.begin(KindGetRange)
	data, err := o.b.GetRange(ctx, name, offset, n)
	o.end(KindGetRange, time.Since(start), len(data), err)
	return data, err
}

// List implements Bucket. An error of fn is none of the bucket.
func (o *Observed) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	start := o.begin(KindList)
	var shown int
	var elsewhere time.Duration
	var stop error
	err := o.b.List(ctx, prefix, after, func(info Info) error {
		shown++
		called := time.Now()
		stop = fn(info)
		elsewhere += time.Since(called)
		return stop
	})
	failed := err
	if stop != nil {
		failed = nil
	}
	o.end(KindList, time.Since(start)-elsewhere, shown, failed)
	return err
}

// Delete implements Bucket.
func (o *Observed) Delete(ctx context.Context, name string) error {
	start := o.begin(KindDelete)
	err := o.b.Delete(ctx, name)
	o.end(KindDelete, time.Since(start), 0, err)
	return err
}

// Now implements Bucket.
func (o *Observed) Now(ctx context.Context) (time.Time, error) {
	start := o.begin(KindNow)
	now, err := o.b.Now(ctx)
	o.end(KindNow, time.Since(start), 0, err)
	return now, err
}

// CleanUp implements Bucket.
func (o *Observed) CleanUp(ctx context.Context, olderThan time.Duration) (int, error) {
	start := o.begin(KindCleanUp)
	n, err := o.b.CleanUp(ctx, olderThan)
	o.end(KindCleanUp, time.Since(start), n, err)
	return n, err
}
