package bucket

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// override is a bucket in memory with a PutIfAbsent or Get of one's own.
type override struct {
	*Memory
	putIfAbsent func(ctx context.Context, name string, data []byte) error
	get         func(ctx context.Context, name string, limit int64) ([]byte, error)
}

func (o *override) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if o.putIfAbsent == nil {
		return o.Memory.PutIfAbsent(ctx, name, data)
	}
	return o.putIfAbsent(ctx, name, data)
}

func (o *override) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	if o.get == nil {
		return o.Memory.Get(ctx, name, limit)
	}
	return o.get(ctx, name, limit)
}

func TestProbeRefusesStoresThatBreakThePromise(t *testing.T) {
	for name, breakIt := range map[string]func(o *override){
		"check, then put": func(o *override) {
			o.putIfAbsent = func(ctx context.Context, name string, data []byte) error {
				if _, err := o.Memory.Get(ctx, name, 1<<20); err == nil {
					return &Error{Op: "put-if-absent", Name: name, Err: ErrExist}
				}
				time.Sleep(time.Millisecond)
				return o.Put(ctx, name, data)
			}
		},
		"the condition is ignored": func(o *override) { o.putIfAbsent = o.Put },
		"always there": func(o *override) {
			o.putIfAbsent = func(ctx context.Context, name string, data []byte) error {
				o.Memory.PutIfAbsent(ctx, name, data)
				return ErrExist
			}
		},
		"refused, but written": func(o *override) {
			o.putIfAbsent = func(ctx context.Context, name string, data []byte) error {
				err := o.Memory.PutIfAbsent(ctx, name, data)
				o.Put(ctx, name, data)
				return err
			}
		},
		"written, but cannot be read": func(o *override) {
			o.get = func(ctx context.Context, name string, limit int64) ([]byte, error) { return nil, ErrNotExist }
		},
		"damaged": func(o *override) {
			o.get = func(ctx context.Context, name string, limit int64) ([]byte, error) {
				data, err := o.Memory.Get(ctx, name, limit)
				data[0]++
				return data, err
			}
		},
		"longer than what was written": func(o *override) {
			o.get = func(ctx context.Context, name string, limit int64) ([]byte, error) { return nil, ErrTooLarge }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &override{Memory: NewMemory()}
				breakIt(o)
				err := Probe(t.Context(), o)
				if !errors.Is(err, ErrNoConditionalPut) {
					t.Fatalf("the probe says %v", err)
				}
				if !strings.Contains(err.Error(), "memory:") || !strings.Contains(err.Error(), "Amazon S3") {
					t.Errorf("the error does not name the store and what to do: %v", err)
				}
				if err := o.List(t.Context(), "", "", func(i Info) error { return errors.New(i.Name) }); err != nil {
					t.Errorf("left: %v", err)
				}
			})
		})
	}
}

func TestProbeTakesNoFailureForABrokenPromise(t *testing.T) {
	for name, failure := range map[string]error{
		"denied": ErrDenied, "no bucket": ErrNoBucket, "unavailable": errors.New("503"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &override{Memory: NewMemory()}
				o.putIfAbsent = func(context.Context, string, []byte) error { return failure }
				err := Probe(t.Context(), o)
				if !errors.Is(err, failure) || errors.Is(err, ErrNoConditionalPut) {
					t.Errorf("the probe says %v", err)
				}
			})
		})
	}
}

// Every writer's first answer is lost. The one who wrote the object learns it
// from the bytes only.
func TestProbeUnderstandsUnknownOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &override{Memory: NewMemory()}
		seen := make(chan map[string]bool, 1)
		seen <- map[string]bool{}
		o.putIfAbsent = func(ctx context.Context, name string, data []byte) error {
			m := <-seen
			first := !m[string(data)]
			m[string(data)] = true
			seen <- m
			err := o.Memory.PutIfAbsent(ctx, name, data)
			if first {
				return errors.New("timeout")
			}
			return err
		}
		if err := Probe(t.Context(), o); err != nil {
			t.Error(err)
		}
	})
}

func TestProbeTakesAboutASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delays, err := ParseDelays("all=30ms")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := Probe(t.Context(), Slow(NewMemory(), delays, 1)); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*time.Second { // of the bubble's own time
			t.Errorf("took %v", took)
		}
	})
}

func TestProbeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delays, err := ParseDelays("all=1h")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := Probe(t.Context(), Slow(NewMemory(), delays, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the probe says %v", err)
		}
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("took %v", took)
		}
	})
}
