package txlog

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"s3storage/internal/bucket"
)

// A simBucket is the store as a node sees it that does several calls one after
// another, or as one who looks at it in the end.
type simBucket struct {
	bucket.Bucket
	world  *world
	dies   int                // after so many calls
	cancel context.CancelFunc // nil for one who only looks
	blind  bool               // for newer checkpoints, once it has put a seal
	sealed bool
}

var errLost = errors.New("no reply")

func (b *simBucket) call() error {
	if b.cancel == nil {
		return nil // the end of the world
	}
	for range b.world.rng.IntN(6) {
		b.world.step()
	}
	if b.dies--; b.dies == 0 {
		b.cancel()
	}
	if b.dies <= 0 {
		return context.Canceled
	}
	return nil
}

func (b *simBucket) Properties() bucket.Properties { return bucket.Properties{Location: "world"} }

func (b *simBucket) PutIfAbsent(_ context.Context, name string, data []byte) error {
	b.sealed = b.sealed || strings.HasPrefix(name, Prefix)
	won := true
	if err := b.write(func() { won = b.world.put(name, data) }); err != nil {
		return err
	}
	if !won {
		return bucket.ErrExist
	}
	return nil
}

func (b *simBucket) Put(_ context.Context, name string, data []byte) error {
	return b.write(func() { b.world.store[name] = data })
}

func (b *simBucket) Delete(_ context.Context, name string) error {
	return b.write(func() { delete(b.world.store, name) })
}

func (b *simBucket) Now(context.Context) (time.Time, error) { return time.Now(), b.call() }

// write does something, or not, or later, or loses the reply.
func (b *simBucket) write(effect func()) error {
	err := b.call()
	switch n := b.world.rng.IntN(100); {
	case n < 10:
		return errors.Join(errLost, err)
	case n < 20:
		effect()
		return errors.Join(errLost, err)
	case n < 30:
		b.world.calls = append(b.world.calls, &simCall{late: effect})
		return errors.Join(errLost, err)
	}
	if err != nil {
		return err
	}
	effect()
	if b.world.chance(10) { // and again
		b.world.calls = append(b.world.calls, &simCall{late: effect})
	}
	return nil
}

func (b *simBucket) Get(_ context.Context, name string, _ int64) ([]byte, error) {
	if err := b.call(); err != nil {
		return nil, err
	}
	data, there := b.world.store[name]
	if !there || b.blind && b.sealed && strings.HasPrefix(name, CheckpointPrefix) {
		return nil, bucket.ErrNotExist
	}
	if name == HeadName && b.cancel != nil && b.world.chance(10) {
		return data[1:], nil
	}
	return data, nil
}

func (b *simBucket) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	data, err := b.Get(ctx, name, 0)
	return data[min(offset, int64(len(data))):min(offset+n, int64(len(data)))], err
}

func (b *simBucket) List(_ context.Context, prefix, after string, fn func(bucket.Info) error) error {
	if err := b.call(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(b.world.store)) {
		if strings.HasPrefix(name, prefix) && name > after {
			if err := fn(bucket.Info{Name: name, Size: int64(len(b.world.store[name]))}); err != nil {
				return err
			}
		}
	}
	return nil
}
