package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestManyReadersOfAMissingPieceMakeOneRead(t *testing.T) {
	c, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	var reads atomic.Int32
	release := make(chan struct{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			data, err := c.Get(context.Background(), Key{"a", 1, 0}, func(context.Context) (Item, error) {
				reads.Add(1)
				<-release
				return Data("data"), nil
			})
			if err != nil || !same(data, "data") {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	for reads.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if reads.Load() != 1 {
		t.Errorf("%d reads", reads.Load())
	}
	if data, ok := c.Cached(Key{"a", 1, 0}); !ok || !same(data, "data") {
		t.Errorf("%q, %v", data, ok)
	}
	if _, ok := c.Cached(Key{"a", 2, 0}); ok {
		t.Error("found what was never put there")
	}
}

func same(it Item, text string) bool {
	data, ok := it.(Data)
	return ok && string(data) == text
}

func TestStatsTellWhatWasThereAndWhatHadToBeMade(t *testing.T) {
	c, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s != (Stats{Limit: 1 << 20}) {
		t.Errorf("at first: %+v", s)
	}
	load := func(context.Context) (Item, error) { return make(Data, 1000), nil }
	for n := range uint64(3) {
		k := Key{Name: "a", A: n}
		c.Cached(k)
		for range 2 {
			if _, err := c.Get(t.Context(), k, load); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Cached(Key{Name: "a"})
	s := c.Stats()
	if s.Hits != 4 || s.Misses != 3 {
		t.Errorf("%d hits, %d misses", s.Hits, s.Misses)
	}
	if s.Bytes < 3000 || s.Bytes > 4000 {
		t.Errorf("%d bytes", s.Bytes)
	}
}

func TestFailedReadIsNotRemembered(t *testing.T) {
	c, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, err := c.Get(t.Context(), Key{"a", 1, 0}, func(context.Context) (Item, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	data, err := c.Get(t.Context(), Key{"a", 1, 0}, func(context.Context) (Item, error) { return Data("x"), nil })
	if err != nil || !same(data, "x") {
		t.Errorf("%q, %v", data, err)
	}
}

func TestReaderThatGoesAwayDoesNotSpoilTheReadForOthers(t *testing.T) {
	c, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	data, err := c.Get(ctx, Key{"a", 1, 0}, func(ctx context.Context) (Item, error) {
		cancel()
		return Data("x"), ctx.Err()
	})
	if err != nil || !same(data, "x") {
		t.Errorf("%q, %v", data, err)
	}
}

func TestCacheKeepsToItsLimit(t *testing.T) {
	const limit = 1 << 20
	c, err := New(limit)
	if err != nil {
		t.Fatal(err)
	}
	piece := bytes.Repeat([]byte("x"), 1000)
	for i := range uint64(5000) {
		c.Add(Key{"a", i, 0}, Data(piece))
	}
	held := func() (n int) {
		for i := range uint64(5000) {
			if data, ok := c.Cached(Key{"a", i, 0}); ok {
				n += data.Weight()
			}
		}
		return n
	}
	for deadline := time.Now().Add(time.Minute); held() > limit; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(fmt.Sprint(held(), " bytes held"))
		}
	}
	if held() == 0 {
		t.Error("nothing is held")
	}
}
