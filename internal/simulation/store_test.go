package simulation

import (
	"bytes"
	"context"
	"io"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
)

// storeName is that of the store, as a host on the network.
const storeName = "store"

// A view is the store as a process sees it: with faults, over the network, until it
// dies. A write that was begun goes on when its process has died.
type view struct {
	p *process
	b *faults.Bucket
}

var _ bucket.Bucket = (*view)(nil)

func (v *view) fail(k bucket.Kind, name string, err error) error {
	return bucket.NewError(v, k, name, err)
}

// read does what has no effect.
func (v *view) read(ctx context.Context, k bucket.Kind, name string, do func() error) error {
	if err := v.p.reach(ctx, storeName); err != nil {
		return v.fail(k, name, err)
	}
	err := do()
	if unreached := v.p.reach(ctx, storeName); unreached != nil {
		return v.fail(k, name, unreached)
	}
	return err
}

// write does what has an effect, also when nobody waits for it any more.
func (v *view) write(ctx context.Context, k bucket.Kind, name string, do func(context.Context) error) error {
	if err := v.p.reach(ctx, storeName); err != nil {
		return v.fail(k, name, err)
	}
	done := make(chan error, 1)
	v.p.host.w.background.Go(func() { done <- do(context.WithoutCancel(ctx)) })
	select {
	case err := <-done:
		if unreached := v.p.reach(ctx, storeName); unreached != nil {
			return v.fail(k, name, unreached)
		}
		return err
	case <-ctx.Done():
		return v.fail(k, name, ctx.Err())
	case <-v.p.dead:
		return v.fail(k, name, errDead)
	}
}

func (v *view) Properties() bucket.Properties { return v.b.Properties() }

func (v *view) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	err := v.write(ctx, bucket.KindPutIfAbsent, name, func(ctx context.Context) error {
		return v.b.PutIfAbsent(ctx, name, data)
	})
	v.p.asked(name, err)
	return v.p.host.w.weak.put(name, err)
}

func (v *view) Put(ctx context.Context, name string, data []byte) error {
	return v.write(ctx, bucket.KindPut, name, func(ctx context.Context) error { return v.b.Put(ctx, name, data) })
}

func (v *view) PutStream(ctx context.Context, name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return v.fail(bucket.KindPutStream, name, err)
	}
	return v.write(ctx, bucket.KindPutStream, name, func(ctx context.Context) error {
		return v.b.PutStream(ctx, name, bytes.NewReader(data))
	})
}

func (v *view) Delete(ctx context.Context, name string) error {
	return v.write(ctx, bucket.KindDelete, name, func(ctx context.Context) error { return v.b.Delete(ctx, name) })
}

func (v *view) Get(ctx context.Context, name string, limit int64) (data []byte, err error) {
	err = v.read(ctx, bucket.KindGet, name, func() error {
		data, err = v.b.Get(ctx, name, limit)
		return err
	})
	v.p.asked(name, err)
	return data, err
}

func (v *view) GetRange(ctx context.Context, name string, offset, n int64) (data []byte, err error) {
	err = v.read(ctx, bucket.KindGetRange, name, func() error {
		data, err = v.b.GetRange(ctx, name, offset, n)
		return err
	})
	return data, err
}

func (v *view) List(ctx context.Context, prefix, after string, fn func(bucket.Info) error) error {
	return v.read(ctx, bucket.KindList, prefix, func() error { return v.b.List(ctx, prefix, after, fn) })
}

// Now is what it is as seen by a host whose clock is wrong.
func (v *view) Now(ctx context.Context) (now time.Time, err error) {
	err = v.read(ctx, bucket.KindNow, "", func() error {
		now, err = v.b.Now(ctx)
		return err
	})
	return now.Add(-v.p.host.ahead()), err
}

func (v *view) CleanUp(ctx context.Context, olderThan time.Duration) (n int, err error) {
	err = v.read(ctx, bucket.KindCleanUp, "", func() error {
		n, err = v.b.CleanUp(ctx, olderThan)
		return err
	})
	return n, err
}
