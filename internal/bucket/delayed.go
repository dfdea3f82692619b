package bucket

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Delays say how much slower each kind of operation shall be.
type Delays [NumKinds]Delay

// A Delay is a time between Min and Max.
type Delay struct{ Min, Max time.Duration }

// ParseDelays reads delays such as "put-if-absent=30ms,get=5ms..20ms". The word
// all stands for every kind; of two entries for a kind the later one holds.
func ParseDelays(s string) (Delays, error) {
	var delays Delays
	for entry := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(entry) == "" {
			continue
		}
		word, value, _ := strings.Cut(strings.TrimSpace(entry), "=")
		delay, err := ParseDelay(value)
		if err != nil {
			return Delays{}, fmt.Errorf("delay %q: %w", entry, err)
		}
		if word == "all" {
			for k := range delays {
				delays[k] = delay
			}
			continue
		}
		k, err := ParseKind(word)
		if err != nil {
			return Delays{}, fmt.Errorf("delay %q: %w", entry, err)
		}
		delays[k] = delay
	}
	return delays, nil
}

// ParseDelay reads "30ms" or "5ms..20ms".
func ParseDelay(s string) (Delay, error) {
	from, to, isRange := strings.Cut(s, "..")
	if !isRange {
		to = from
	}
	least, err := time.ParseDuration(from)
	if err != nil {
		return Delay{}, err
	}
	most, err := time.ParseDuration(to)
	if err != nil {
		return Delay{}, err
	}
	if least < 0 || most < least {
		return Delay{}, fmt.Errorf("%s is no range of times", s)
	}
	return Delay{Min: least, Max: most}, nil
}

// Pick returns a time between Min and Max, evenly distributed.
func (d Delay) Pick(r *rand.Rand) time.Duration {
	if d.Max <= d.Min {
		return d.Min
	}
	return d.Min + time.Duration(r.Int64N(int64(d.Max-d.Min)+1))
}

// Delayed is a bucket that waits before it does anything, to stand in for one
// that is further away.
type Delayed struct {
	b      Bucket
	delays Delays
	mu     struct {
		sync.Mutex
		rand *rand.Rand
	}
}

// Slow returns b with delays, drawn from a generator of that seed.
func Slow(b Bucket, delays Delays, seed uint64) *Delayed {
	d := &Delayed{b: b, delays: delays}
	d.mu.rand = rand.New(rand.NewPCG(seed, 0))
	return d
}

var _ Bucket = (*Delayed)(nil)

func (d *Delayed) wait(ctx context.Context, k Kind, name string) error {
	d.mu.Lock()
	delay := d.delays[k].Pick(d.mu.rand)
	d.mu.Unlock()
	if err := Sleep(ctx, delay); err != nil {
		return NewError(d, k, name, err)
	}
	return nil
}

// Sleep waits, and returns ctx's error at once if that is done before.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Properties implements Bucket.
func (d *Delayed) Properties() Properties { return d.b.Properties() }

// PutIfAbsent implements Bucket.
func (d *Delayed) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := d.wait(ctx, KindPutIfAbsent, name); err != nil {
		return err
	}
	return d.b.PutIfAbsent(ctx, name, data)
}

// Put implements Bucket.
func (d *Delayed) Put(ctx context.Context, name string, data []byte) error {
	if err := d.wait(ctx, KindPut, name); err != nil {
		return err
	}
	return d.b.Put(ctx, name, data)
}

// PutStream implements Bucket.
func (d *Delayed) PutStream(ctx context.Context, name string, r io.Reader) error {
	if err := d.wait(ctx, KindPutStream, name); err != nil {
		return err
	}
	return d.b.PutStream(ctx, name, r)
}

// Get implements Bucket.
func (d *Delayed) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	if err := d.wait(ctx, KindGet, name); err != nil {
		return nil, err
	}
	return d.b.Get(ctx, name, limit)
}

// GetRange implements Bucket.
func (d *Delayed) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	if err := d.wait(ctx, KindGetRange, name); err != nil {
		return nil, err
	}
	return d.b.GetRange(ctx, name, offset, n)
}

// List implements Bucket.
func (d *Delayed) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	if err := d.wait(ctx, KindList, ""); err != nil {
		return err
	}
	return d.b.List(ctx, prefix, after, fn)
}

// Delete implements Bucket.
func (d *Delayed) Delete(ctx context.Context, name string) error {
	if err := d.wait(ctx, KindDelete, name); err != nil {
		return err
	}
	return d.b.Delete(ctx, name)
}

// Now implements Bucket.
func (d *Delayed) Now(ctx context.Context) (time.Time, error) {
	if err := d.wait(ctx, KindNow, ""); err != nil {
		return time.Time{}, err
	}
	return d.b.Now(ctx)
}

// CleanUp implements Bucket.
func (d *Delayed) CleanUp(ctx context.Context, olderThan time.Duration) (int, error) {
	if err := d.wait(ctx, KindCleanUp, ""); err != nil {
		return 0, err
	}
	return d.b.CleanUp(ctx, olderThan)
}
