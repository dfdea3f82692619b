package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/buckettest/weakstore"
)

func TestConformance(t *testing.T) {
	c := weakstore.Start(t)
	t.Run("ClassB", func(t *testing.T) {
		buckettest.Conformance(t, func(t *testing.T) bucket.Bucket {
			return c.Open(t, weakstore.ClassB(), c.Name(), 0)
		})
	})
	t.Run("ClassC", func(t *testing.T) {
		buckettest.Conformance(t, func(t *testing.T) bucket.Bucket { return c.Buckets(t)() })
	})
}

func TestAStoreWithoutCatalogIsRefusedByTheProbe(t *testing.T) {
	for class, store := range map[string]bucket.Bucket{"B": weakstore.ClassB(), "C": weakstore.ClassC().Reader()} {
		if err := bucket.Probe(t.Context(), store); !errors.Is(err, bucket.ErrNoConditionalPut) {
			t.Errorf("class %s: %v", class, err)
		}
	}
}

// until tries for a while.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for n := 1; !done(); n++ {
		if bucket.Sleep(t.Context(), bucket.Backoff(n)) != nil || n > 100 {
			t.Fatal("never: " + what)
		}
	}
}

// in tells whether a bucket has an object with these bytes.
func in(t *testing.T, b bucket.Bucket, name, data string) bool {
	t.Helper()
	got, err := b.Get(t.Context(), name, 1<<30)
	if err != nil && !errors.Is(err, bucket.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil && string(got) == data
}

func put(t *testing.T, b bucket.Bucket, name, data string) {
	t.Helper()
	if err := b.PutIfAbsent(t.Context(), name, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func closed(t *testing.T, b interface{ Close(context.Context) error }) {
	t.Helper()
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCatalog(t *testing.T) {
	c := weakstore.Start(t)
	for name, test := range map[string]func(*testing.T, *weakstore.Catalog){
		"ABucketThatWasClosedHasAllInTheStore":           testClosed,
		"WhatADeadWriterLeftIsCopiedByTheNext":           testDeadWriter,
		"WhoOnlyReadsCopiesNothing":                      testReader,
		"BytesAreForgottenAndThenReadFromTheStore":       testForgotten,
		"ClientsThatAskTooEarlyDoNotHarmOthers":          testTwoClients,
		"WithTooShortATimeObjectsAreMissing":             testTooShort,
		"AnObjectThatTheStoreLostIsNoObjectThatNeverWas": testLost,
		"StreamsThatEndedWithTheirWriterAreCleanedUp":    testCleanUp,
		"AWriteWhilePostgreSQLIsDownHasAnUnknownOutcome": testStopped,
		"TwoClientsRaceForNames":                         testRace,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, c) })
	}
}

func testClosed(t *testing.T, c *weakstore.Catalog) {
	memory := bucket.NewMemory()
	b := c.Open(t, memory, c.Name(), 0)
	for i := range 50 {
		put(t, b, fmt.Sprintf("log/%d", i), fmt.Sprint(i))
	}
	if err := b.Put(t.Context(), "head", []byte("here")); err != nil {
		t.Fatal(err)
	}
	closed(t, b)
	for i := range 50 {
		if !in(t, memory, fmt.Sprintf("log/%d", i), fmt.Sprint(i)) {
			t.Errorf("log/%d is not in the store", i)
		}
	}
	if !in(t, memory, "head", "here") {
		t.Error("head is not in the store")
	}
}

// A down store refuses all writes.
func down(b bucket.Bucket) *faults.Bucket {
	f := faults.New(b, faults.Config{})
	for _, k := range []bucket.Kind{bucket.KindPut, bucket.KindPutStream, bucket.KindDelete} {
		f.Script(faults.Rule{Kind: k, Times: -1, Fault: faults.Fault{Action: faults.Error500}})
	}
	return f
}

func testDeadWriter(t *testing.T, c *weakstore.Catalog) {
	memory, name := bucket.NewMemory(), c.Name()
	dead := c.Open(t, down(memory), name, 0)
	put(t, dead, "log/1", "one")
	if !in(t, dead, "log/1", "one") {
		t.Error("it cannot be read while the store is down")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := dead.Close(ctx); err == nil {
		t.Error("it was closed as if all was in the store")
	}
	next := c.Open(t, memory, name, 0)
	put(t, next, "log/2", "two")
	closed(t, next)
	if !in(t, memory, "log/1", "one") || !in(t, memory, "log/2", "two") {
		t.Error("not all is in the store")
	}
}

func testReader(t *testing.T, c *weakstore.Catalog) {
	memory, name := bucket.NewMemory(), c.Name()
	dead := c.Open(t, down(memory), name, 0)
	put(t, dead, "log/1", "one")
	reader := c.Open(t, memory, name, 0)
	if !in(t, reader, "log/1", "one") {
		t.Error("it cannot be read")
	}
	closed(t, reader) // which waits for nothing
	if in(t, memory, "log/1", "one") {
		t.Error("a reader has written")
	}
}

func testForgotten(t *testing.T, c *weakstore.Catalog) {
	memory := bucket.NewMemory()
	counted := bucket.Observe(memory)
	b := c.Open(t, counted, c.Name(), 0)
	put(t, b, "log/1", "one")
	until(t, "it is read from the store", func() bool {
		if !in(t, b, "log/1", "one") {
			t.Fatal("it is not there")
		}
		return counted.Snapshot().Kinds[bucket.KindGet].Count > 0
	})
	if n := counted.Snapshot().Kinds[bucket.KindPutIfAbsent].Count; n > 0 {
		t.Errorf("the store was asked %d times to put if absent", n)
	}
	before := counted.Snapshot()
	if in(t, b, "log/2", "") {
		t.Error("there is what nobody put")
	}
	if err := b.List(t.Context(), "", "", func(bucket.Info) error { return nil }); err != nil {
		t.Fatal(err)
	}
	after := counted.Snapshot().Sub(before)
	if after.Kinds[bucket.KindGet].Count+after.Kinds[bucket.KindList].Count > 0 {
		t.Errorf("the store was asked for a name that has no row, or to list: %v", after)
	}
}

// testTwoClients has one client look for each name before it is there.
func testTwoClients(t *testing.T, c *weakstore.Catalog) {
	store, name := weakstore.ClassC(), c.Name()
	writer := c.Open(t, store.Reader(), name, weakstore.Propagation)
	counted := bucket.Observe(store.Reader())
	reader := c.Open(t, counted, name, weakstore.Propagation)
	large := strings.Repeat("large", 200<<10)
	for i := range 20 {
		name := fmt.Sprintf("log/%d", i)
		if in(t, reader, name, "") {
			t.Fatal("it is there already")
		}
		data := fmt.Sprint(i)
		if i == 10 {
			data = large
			if err := writer.PutStream(t.Context(), name, strings.NewReader(data)); err != nil {
				t.Fatal(err)
			}
		} else {
			put(t, writer, name, data)
		}
		if !in(t, reader, name, data) {
			t.Errorf("%s is not there", name)
		}
	}
	until(t, "all are read from the store", func() bool {
		before := counted.Snapshot()
		for i := range 20 {
			if data := fmt.Sprint(i); i != 10 && !in(t, reader, fmt.Sprintf("log/%d", i), data) {
				t.Fatalf("log/%d is gone", i)
			}
		}
		return counted.Snapshot().Sub(before).Kinds[bucket.KindGet].Count == 19
	})
	if !in(t, reader, "log/10", large) {
		t.Error("the large one is gone")
	}
}

func testTooShort(t *testing.T, c *weakstore.Catalog) {
	store := faults.NewEventual(bucket.NewMemory(), 1, time.Hour, 1).Reader()
	b := c.Open(t, store, c.Name(), 0)
	put(t, b, "log/1", "one")
	until(t, "an object is missing because the store was relied upon too early", func() bool {
		_, err := b.Get(t.Context(), "log/1", 10)
		if err != nil && !errors.Is(err, bucket.ErrLost) {
			t.Fatal(err)
		}
		return err != nil
	})
}

func testLost(t *testing.T, c *weakstore.Catalog) {
	memory := bucket.NewMemory()
	b := c.Open(t, memory, c.Name(), 0)
	large := strings.Repeat("large", 200<<10)
	if err := b.PutStream(t.Context(), "segment/1", strings.NewReader(large)); err != nil {
		t.Fatal(err)
	}
	if err := memory.Delete(t.Context(), "segment/1"); err != nil {
		t.Fatal(err)
	}
	_, err := b.Get(t.Context(), "segment/1", 1<<30)
	_, rangeErr := b.GetRange(t.Context(), "segment/1", 0, 1)
	for _, err := range []error{err, rangeErr} {
		if !errors.Is(err, bucket.ErrLost) || errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("%v", err)
		}
	}
}

func testCleanUp(t *testing.T, c *weakstore.Catalog) {
	memory, name := bucket.NewMemory(), c.Name()
	// It waits for the store to show what was streamed, as one would that dies then.
	dying := c.Open(t, memory, name, time.Hour)
	ctx, die := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = dying.PutStream(ctx, "blob/1", strings.NewReader(strings.Repeat("large", 200<<10)))
	})
	until(t, "it is in the store", func() bool {
		_, err := memory.Get(t.Context(), "blob/1", 1<<30)
		return err == nil
	})
	other := c.Open(t, memory, name, 0)
	if in(t, other, "blob/1", "") {
		t.Error("it is an object before Tp is over")
	}
	if n, err := other.CleanUp(t.Context(), time.Hour); n != 0 || err != nil {
		t.Errorf("cleaned up %d young ones, %v", n, err)
	}
	if n, err := other.CleanUp(t.Context(), 0); n != 1 || err != nil {
		t.Errorf("cleaned up %d, %v", n, err)
	}
	if _, err := memory.Get(t.Context(), "blob/1", 1<<30); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("in the store: %v", err)
	}
	die()
	wg.Wait()
}

func testRace(t *testing.T, c *weakstore.Catalog) {
	open := c.Buckets(t)
	clients := []bucket.Bucket{open(), open(), open()}
	for i := range 30 {
		name := fmt.Sprintf("log/%d", i)
		won := make([]bool, len(clients))
		var wg sync.WaitGroup
		for j, b := range clients {
			wg.Go(func() {
				err := b.PutIfAbsent(t.Context(), name, []byte{byte(j)})
				if won[j] = err == nil; err != nil && !errors.Is(err, bucket.ErrExist) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		winners := 0
		for j := range clients {
			if won[j] {
				winners++
				for _, b := range clients {
					if !in(t, b, name, string([]byte{byte(j)})) {
						t.Errorf("%s has not the bytes of who won", name)
					}
				}
			}
		}
		if winners != 1 {
			t.Errorf("%d clients won %s", winners, name)
		}
	}
}

// testStopped uses a server of its own, which it stops.
func testStopped(t *testing.T, _ *weakstore.Catalog) {
	c := weakstore.Start(t)
	memory := bucket.NewMemory()
	b := c.Open(t, memory, c.Name(), 0)
	put(t, b, "log/1", "one")
	c.Server.Stop(t)
	err := b.PutIfAbsent(t.Context(), "log/2", []byte("two"))
	if err == nil || bucket.Final(err) {
		t.Errorf("a put while PostgreSQL is down: %v", err)
	}
	if _, err := b.Get(t.Context(), "log/1", 10); err == nil || bucket.Final(err) {
		t.Errorf("a read while PostgreSQL is down: %v", err)
	}
	c.Server.Start(t)
	err = bucket.Retrying(t.Context(), func() error { return b.PutIfAbsent(t.Context(), "log/2", []byte("two")) })
	if err != nil && !errors.Is(err, bucket.ErrExist) {
		t.Error(err)
	}
	if !in(t, b, "log/1", "one") || !in(t, b, "log/2", "two") {
		t.Error("not all is there after a restart")
	}
	closed(t, b)
	if !in(t, memory, "log/1", "one") || !in(t, memory, "log/2", "two") {
		t.Error("not all is in the store")
	}
}
