package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"s3storage/internal/bucket"
)

const streamed = 256 << 10 // a fault within a stream comes before this

var messages = [numActions]string{
	Lost:     "connection reset by peer, after the request was sent",
	Late:     "no answer in time",
	Never:    "no answer in time",
	Error409: "409 ConditionalRequestConflict",
	Done409:  "409 ConditionalRequestConflict",
	Error500: "500 InternalError",
	Done500:  "500 InternalError",
	Error503: "503 SlowDown",
	Done503:  "503 SlowDown",
}

func (f *Bucket) fail(k bucket.Kind, name string, a Action) error {
	return bucket.NewError(f, k, name, fmt.Errorf("%w: %s", ErrInjected, messages[a]))
}

// write does a write, under the fault that strikes it. do must be able to run
// after the call.
func (f *Bucket) write(ctx context.Context, k bucket.Kind, name string, do func(context.Context) error) error {
	if bucket.CheckName(name) != nil {
		return do(ctx) // refused at once by any bucket
	}
	fault, _, err := f.strike(ctx, k, name)
	if err != nil {
		return err
	}
	switch fault.Action {
	case Late:
		f.land(context.WithoutCancel(ctx), fault, do)
		return f.fail(k, name, Late)
	case Never, Error409, Error500, Error503:
		return f.fail(k, name, fault.Action)
	case Lost, Done409, Done500, Done503:
		_ = do(ctx) // nobody will know
		return f.fail(k, name, fault.Action)
	}
	return do(ctx)
}

// land does a write later. The caller's data are not copied: that they stay as
// they are is a part of the contract.
func (f *Bucket) land(ctx context.Context, fault Fault, do func(context.Context) error) {
	go func() {
		defer f.late.Done()
		if fault.Until != nil {
			select {
			case <-fault.Until:
			case <-f.hurry:
			}
		} else {
			timer := time.NewTimer(fault.After)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-f.hurry:
			}
		}
		_ = do(ctx) // nobody will know
		f.mu.Lock()
		defer f.mu.Unlock()
		f.mu.landed++
	}()
}

// read does a read, under the fault that strikes it.
func (f *Bucket) read(ctx context.Context, k bucket.Kind, name string, do func() ([]byte, error)) ([]byte, error) {
	if bucket.CheckName(name) != nil {
		return do()
	}
	fault, r, err := f.strike(ctx, k, name)
	if err != nil {
		return nil, err
	}
	if messages[fault.Action] != "" {
		return nil, f.fail(k, name, fault.Action)
	}
	data, err := do()
	if err != nil {
		return nil, err
	}
	return damage(data, fault.Action, r), nil
}

func damage(data []byte, a Action, r *rand.Rand) []byte {
	if len(data) == 0 {
		return data
	}
	switch a {
	case Truncate:
		return data[:r.IntN(len(data))]
	case Flip:
		data[r.IntN(len(data))] ^= 1 << r.IntN(8)
	}
	return data
}

// Properties implements bucket.Bucket.
func (f *Bucket) Properties() bucket.Properties { return f.b.Properties() }

// PutIfAbsent implements bucket.Bucket.
func (f *Bucket) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return f.write(ctx, bucket.KindPutIfAbsent, name, func(ctx context.Context) error {
		return f.b.PutIfAbsent(ctx, name, data)
	})
}

// Put implements bucket.Bucket.
func (f *Bucket) Put(ctx context.Context, name string, data []byte) error {
	return f.write(ctx, bucket.KindPut, name, func(ctx context.Context) error {
		return f.b.Put(ctx, name, data)
	})
}

// PutStream implements bucket.Bucket. A fault without effect strikes somewhere
// in the stream; a late write is kept in memory until it lands.
func (f *Bucket) PutStream(ctx context.Context, name string, r io.Reader) error {
	if bucket.CheckName(name) != nil {
		return f.b.PutStream(ctx, name, r) // refused at once by any bucket
	}
	fault, dice, err := f.strike(ctx, bucket.KindPutStream, name)
	if err != nil {
		return err
	}
	switch fault.Action {
	case Late:
		data, err := io.ReadAll(r)
		f.land(context.WithoutCancel(ctx), fault, func(ctx context.Context) error {
			if err != nil {
				return err
			}
			return f.b.PutStream(ctx, name, bytes.NewReader(data))
		})
		if err != nil {
			return bucket.NewError(f, bucket.KindPutStream, name, err)
		}
		return f.fail(bucket.KindPutStream, name, Late)
	case Never, Error409, Error500, Error503:
		if _, err := io.CopyN(io.Discard, r, dice.Int64N(streamed)); err != nil && !errors.Is(err, io.EOF) {
			return bucket.NewError(f, bucket.KindPutStream, name, err)
		}
		return f.fail(bucket.KindPutStream, name, fault.Action)
	case Lost, Done409, Done500, Done503:
		if err := f.b.PutStream(ctx, name, r); err != nil {
			return err
		}
		return f.fail(bucket.KindPutStream, name, fault.Action)
	}
	return f.b.PutStream(ctx, name, r)
}

// Delete implements bucket.Bucket.
func (f *Bucket) Delete(ctx context.Context, name string) error {
	return f.write(ctx, bucket.KindDelete, name, func(ctx context.Context) error {
		return f.b.Delete(ctx, name)
	})
}

// Get implements bucket.Bucket.
func (f *Bucket) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	return f.read(ctx, bucket.KindGet, name, func() ([]byte, error) {
		return f.b.Get(ctx, name, limit)
	})
}

// GetRange implements bucket.Bucket.
func (f *Bucket) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	return f.read(ctx, bucket.KindGetRange, name, func() ([]byte, error) {
		return f.b.GetRange(ctx, name, offset, n)
	})
}

// List implements bucket.Bucket. A fault strikes somewhere in the first few
// objects, as it does when the next page of a listing fails.
func (f *Bucket) List(ctx context.Context, prefix, after string, fn func(bucket.Info) error) error {
	fault, r, err := f.strike(ctx, bucket.KindList, prefix)
	if err != nil {
		return bucket.NewError(f, bucket.KindList, "", ctx.Err())
	}
	if messages[fault.Action] == "" {
		return f.b.List(ctx, prefix, after, fn)
	}
	left := r.IntN(8)
	failure := f.fail(bucket.KindList, "", fault.Action)
	err = f.b.List(ctx, prefix, after, func(info bucket.Info) error {
		if left == 0 {
			return failure
		}
		left--
		return fn(info)
	})
	if err == nil {
		err = failure
	}
	return err
}

// Now implements bucket.Bucket.
func (f *Bucket) Now(ctx context.Context) (time.Time, error) {
	fault, _, err := f.strike(ctx, bucket.KindNow, "")
	if err != nil {
		return time.Time{}, err
	}
	if messages[fault.Action] != "" {
		return time.Time{}, f.fail(bucket.KindNow, "", fault.Action)
	}
	return f.b.Now(ctx)
}

// CleanUp implements bucket.Bucket.
func (f *Bucket) CleanUp(ctx context.Context, olderThan time.Duration) (int, error) {
	fault, _, err := f.strike(ctx, bucket.KindCleanUp, "")
	if err != nil {
		return 0, err
	}
	if messages[fault.Action] != "" {
		return 0, f.fail(bucket.KindCleanUp, "", fault.Action)
	}
	return f.b.CleanUp(ctx, olderThan)
}
