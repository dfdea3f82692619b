// Package buckettest tests that a bucket is what package bucket promises: each
// promise in the comments of bucket.Bucket has a subtest in Conformance, which
// every implementation and every decorator calls from a test of its own.
package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"s3storage/internal/bucket"
)

// Conformance runs all tests. Each one calls open once, for an empty bucket,
// and they run in parallel; what open has to undo it leaves to t.Cleanup.
func Conformance(t *testing.T, open func(t *testing.T) bucket.Bucket) {
	tests := []struct {
		name string
		run  func(t *testing.T, b bucket.Bucket)
	}{
		{"Properties", testProperties},
		{"WhatIsPutIsReadWhole", testRoundTrip},
		{"PutIfAbsentRefusesAnExistingObject", testPutIfAbsentExisting},
		{"PutIfAbsentHasOneWinner", testOneWinner},
		{"WritesNeverMix", testNeverPartial},
		{"PutReplaces", testPutReplaces},
		{"StreamsAreReadWhole", testStream},
		{"StreamsReplace", testStreamReplaces},
		{"StreamsThatFailLeaveNothing", testStreamFails},
		{"StreamsSideBySide", testStreamsSideBySide},
		{"CleaningUpLeavesObjectsAlone", testCleanUp},
		{"DeletedNamesAreFree", testDelete},
		{"AbsentObjects", testAbsent},
		{"GetKeepsTheLimit", testLimit},
		{"GetRangeEndsWithTheObject", testRanges},
		{"Names", testNames},
		{"ResultsAndArgumentsAreTheCallers", testOwnership},
		{"ListIsInByteOrderOfNames", testListOrder},
		{"ListByPrefixAndAfter", testListPrefixAfter},
		{"ListStopsWhereToldTo", testListStops},
		{"ListOfManyObjects", testListMany},
		{"ListOfNothing", testListNothing},
		{"LargeObject", testLarge},
		{"CancelledContext", testCancelled},
		{"NowIsATime", testNow},
		{"ProbePasses", testProbe},
		{"ConcurrentUse", testConcurrent},
		{"RandomOperationsFollowTheModel", testModel},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks that err is the sentinel, in a bucket.Error that says what
// was tried on what.
func wantError(t *testing.T, err, sentinel error, b bucket.Bucket, k bucket.Kind, name string) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Errorf("%v %q: got error %v, want %v", k, name, err, sentinel)
		return
	}
	for _, other := range []error{bucket.ErrNotExist, bucket.ErrExist, bucket.ErrTooLarge, bucket.ErrNoBucket, bucket.ErrDenied, bucket.ErrBadName} {
		if other != sentinel && errors.Is(err, other) {
			t.Errorf("%v %q: error %v is also %v", k, name, err, other)
		}
	}
	var e *bucket.Error
	if !errors.As(err, &e) {
		t.Errorf("%v %q: error %v is no *bucket.Error", k, name, err)
		return
	}
	place := b.Properties()
	if e.Op != k.String() || e.Name != name || e.Location == "" || e.Location != place.Location && e.Location != place.Log {
		t.Errorf("error says %q of %q in %q, want %q of %q in %+v", e.Op, e.Name, e.Location, k, name, place)
	}
}

func wantObject(t *testing.T, b bucket.Bucket, name string, want []byte) {
	t.Helper()
	got, err := b.Get(t.Context(), name, int64(len(want)))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes %.40q, want %d bytes %.40q", name, len(got), got, len(want), want)
	}
}

func list(t *testing.T, b bucket.Bucket, prefix, after string) []string {
	t.Helper()
	names := []string{}
	must(t, b.List(t.Context(), prefix, after, func(info bucket.Info) error {
		names = append(names, info.Name)
		return nil
	}))
	return names
}

// putAll writes objects of these names, each with its own name in it.
func putAll(t *testing.T, b bucket.Bucket, names []string) {
	t.Helper()
	each(t, 16, len(names), func(i int) error {
		return b.Put(t.Context(), names[i], []byte(names[i]))
	})
}

// each calls f for 0 to n-1 from several goroutines.
func each(t *testing.T, goroutines, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	next := make(chan int)
	for range goroutines {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func testProperties(t *testing.T, b bucket.Bucket) {
	if b.Properties().Location == "" {
		t.Error("the bucket has no location")
	}
	if first, second := b.Properties(), b.Properties(); first != second {
		t.Error("the properties change")
	}
}

func testRoundTrip(t *testing.T, b bucket.Bucket) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, data := range map[string][]byte{
		"empty":             {},
		"nil":               nil,
		"text":              []byte("hello\n"),
		"every-byte/value":  all,
		"crlf":              []byte("\r\n\r\n0\r\n\r\n"),
		"zeros/and/nothing": make([]byte, 5000),
	} {
		must(t, b.Put(t.Context(), name+"/put", data))
		wantObject(t, b, name+"/put", data)
		must(t, b.PutIfAbsent(t.Context(), name+"/put-if-absent", data))
		wantObject(t, b, name+"/put-if-absent", data)
	}
}

func testPutIfAbsentExisting(t *testing.T, b bucket.Bucket) {
	must(t, b.PutIfAbsent(t.Context(), "log/1", []byte("first")))
	wantError(t, b.PutIfAbsent(t.Context(), "log/1", []byte("second")), bucket.ErrExist, b, bucket.KindPutIfAbsent, "log/1")
	wantError(t, b.PutIfAbsent(t.Context(), "log/1", []byte("first")), bucket.ErrExist, b, bucket.KindPutIfAbsent, "log/1")
	wantObject(t, b, "log/1", []byte("first"))
	must(t, b.Put(t.Context(), "empty", nil))
	wantError(t, b.PutIfAbsent(t.Context(), "empty", []byte("more")), bucket.ErrExist, b, bucket.KindPutIfAbsent, "empty")
	wantObject(t, b, "empty", nil)
}

func testOneWinner(t *testing.T, b bucket.Bucket) {
	const races, writers = 12, 8
	for r := range races {
		name := fmt.Sprintf("race/%d/%d", r/4, r)
		won := make([]bool, writers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				data := bytes.Repeat([]byte{byte('a' + w)}, 3000)
				<-start
				for {
					err := b.PutIfAbsent(t.Context(), name, data)
					switch {
					case err == nil:
						won[w] = true
					case errors.Is(err, bucket.ErrExist):
					case !bucket.Refused(err) && t.Context().Err() == nil:
						continue // unknown: the store may say so to one who comes second
					default:
						t.Error(err)
					}
					return
				}
			})
		}
		close(start)
		wg.Wait()
		got, err := b.Get(t.Context(), name, 3000)
		must(t, err)
		winners := 0
		for w := range writers {
			if won[w] {
				winners++
				if !bytes.Equal(got, bytes.Repeat([]byte{byte('a' + w)}, 3000)) {
					t.Errorf("race %d: writer %d won, but the object is not its", r, w)
				}
			}
		}
		if winners != 1 {
			t.Errorf("race %d: %d winners", r, winners)
		}
	}
}

func testNeverPartial(t *testing.T, b bucket.Bucket) {
	const size, rounds = 200_000, 25
	must(t, b.Put(t.Context(), "head", bytes.Repeat([]byte{'z'}, size)))
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				data, err := b.Get(t.Context(), "head", size)
				if err != nil {
					t.Error(err)
					return
				}
				if len(data) != size || !bytes.Equal(data, bytes.Repeat(data[:1], size)) {
					t.Error("a reader has seen a mixture")
					return
				}
			}
		})
	}
	for i := range rounds {
		data := bytes.Repeat([]byte{byte('a' + i)}, size)
		if i%2 == 0 {
			must(t, b.Put(t.Context(), "head", data))
		} else {
			must(t, b.PutStream(t.Context(), "head", bytes.NewReader(data)))
		}
	}
	close(done)
	wg.Wait()
}

func testPutReplaces(t *testing.T, b bucket.Bucket) {
	must(t, b.PutIfAbsent(t.Context(), "head", []byte("first")))
	for _, size := range []int{500, 3, 0, 70} {
		data := bytes.Repeat([]byte("x"), size)
		must(t, b.Put(t.Context(), "head", data))
		wantObject(t, b, "head", data)
	}
	if names := list(t, b, "", ""); !slices.Equal(names, []string{"head"}) {
		t.Errorf("listed %q", names)
	}
}

func testDelete(t *testing.T, b bucket.Bucket) {
	must(t, b.Delete(t.Context(), "never/was/there"))
	must(t, b.PutIfAbsent(t.Context(), "a/b", []byte("1")))
	must(t, b.Delete(t.Context(), "a")) // where a directory may be
	wantObject(t, b, "a/b", []byte("1"))
	must(t, b.Delete(t.Context(), "a/b"))
	must(t, b.Delete(t.Context(), "a/b"))
	_, err := b.Get(t.Context(), "a/b", 10)
	wantError(t, err, bucket.ErrNotExist, b, bucket.KindGet, "a/b")
	if names := list(t, b, "", ""); len(names) > 0 {
		t.Errorf("listed after the deletion: %q", names)
	}
	must(t, b.PutIfAbsent(t.Context(), "a/b", []byte("2")))
	wantObject(t, b, "a/b", []byte("2"))
}

func testAbsent(t *testing.T, b bucket.Bucket) {
	must(t, b.Put(t.Context(), "a/b", []byte("1")))
	for _, name := range []string{"a", "a/c", "a/b/c", "b", "b/c"} {
		_, err := b.Get(t.Context(), name, 10)
		wantError(t, err, bucket.ErrNotExist, b, bucket.KindGet, name)
		_, err = b.GetRange(t.Context(), name, 0, 10)
		wantError(t, err, bucket.ErrNotExist, b, bucket.KindGetRange, name)
	}
}

func testLimit(t *testing.T, b bucket.Bucket) {
	must(t, b.Put(t.Context(), "ten", []byte("0123456789")))
	must(t, b.Put(t.Context(), "none", nil))
	for _, limit := range []int64{0, 9} {
		_, err := b.Get(t.Context(), "ten", limit)
		wantError(t, err, bucket.ErrTooLarge, b, bucket.KindGet, "ten")
	}
	for _, limit := range []int64{10, 1 << 50} {
		data, err := b.Get(t.Context(), "ten", limit)
		must(t, err)
		if string(data) != "0123456789" {
			t.Errorf("limit %d: got %q", limit, data)
		}
	}
	data, err := b.Get(t.Context(), "none", 0)
	must(t, err)
	if len(data) != 0 {
		t.Errorf("got %q", data)
	}
}

func testRanges(t *testing.T, b bucket.Bucket) {
	must(t, b.Put(t.Context(), "ten", []byte("0123456789")))
	must(t, b.Put(t.Context(), "none", nil))
	for _, test := range []struct {
		name      string
		offset, n int64
		want      string
	}{
		{"ten", 0, 10, "0123456789"},
		{"ten", 0, 1, "0"},
		{"ten", 3, 4, "3456"},
		{"ten", 9, 1, "9"},
		{"ten", 9, 100, "9"},
		{"ten", 5, 1 << 50, "56789"},
		{"ten", 10, 1, ""},
		{"ten", 11, 5, ""},
		{"ten", 1 << 40, 1 << 40, ""},
		{"none", 0, 1, ""},
		{"none", 7, 1, ""},
	} {
		got, err := b.GetRange(t.Context(), test.name, test.offset, test.n)
		if err != nil {
			t.Errorf("%s: %d bytes at %d: %v", test.name, test.n, test.offset, err)
		} else if string(got) != test.want {
			t.Errorf("%s: %d bytes at %d: got %q, want %q", test.name, test.n, test.offset, got, test.want)
		}
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, 0}, {0, -1}} {
		if _, err := b.GetRange(t.Context(), "ten", bad[0], bad[1]); err == nil {
			t.Errorf("a range of %d bytes at %d is no error", bad[1], bad[0])
		}
	}
}

func testNames(t *testing.T, b bucket.Bucket) {
	good := []string{
		"a", "0", "-", "_", "a.", "a..b", "a.b-c_d/0/z...", "-_/-",
		strings.Repeat("b/", 99) + "bc", strings.Repeat("n", bucket.MaxName),
	}
	for _, name := range good {
		must(t, b.PutIfAbsent(t.Context(), name, []byte(name)))
		wantObject(t, b, name, []byte(name))
	}
	slices.Sort(good)
	if names := list(t, b, "", ""); !slices.Equal(names, good) {
		t.Errorf("listed %q, want %q", names, good)
	}
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/.", "a/..", "../a", "a/../b", "./a", ".a", "a/.tmp/b",
		"A", "a b", "a\\b", "a\x00b", "a\n", "ä", "a%2fb", "a+b", "~", strings.Repeat("n", bucket.MaxName+1),
	} {
		wantError(t, b.PutIfAbsent(t.Context(), name, nil), bucket.ErrBadName, b, bucket.KindPutIfAbsent, name)
		wantError(t, b.Put(t.Context(), name, nil), bucket.ErrBadName, b, bucket.KindPut, name)
		wantError(t, b.PutStream(t.Context(), name, unread{t}), bucket.ErrBadName, b, bucket.KindPutStream, name)
		wantError(t, b.Delete(t.Context(), name), bucket.ErrBadName, b, bucket.KindDelete, name)
		_, err := b.Get(t.Context(), name, 1)
		wantError(t, err, bucket.ErrBadName, b, bucket.KindGet, name)
		_, err = b.GetRange(t.Context(), name, 0, 1)
		wantError(t, err, bucket.ErrBadName, b, bucket.KindGetRange, name)
	}
	for _, prefix := range []string{"/", "../", "..", ".", "a//", "A", "a/../", "\x00"} {
		if names := list(t, b, prefix, ""); len(names) > 0 {
			t.Errorf("prefix %q lists %q", prefix, names)
		}
	}
}

func testOwnership(t *testing.T, b bucket.Bucket) {
	data := []byte("mine")
	must(t, b.Put(t.Context(), "a", data))
	must(t, b.PutIfAbsent(t.Context(), "b", data))
	copy(data, "????") // allowed after a success
	for _, name := range []string{"a", "b"} {
		got, err := b.Get(t.Context(), name, 10)
		must(t, err)
		copy(got, "!!!!")
		got, err = b.GetRange(t.Context(), name, 0, 2)
		must(t, err)
		copy(got, "!!")
		wantObject(t, b, name, []byte("mine"))
	}
}

func testLarge(t *testing.T, b bucket.Bucket) {
	if testing.Short() {
		t.Skip("20 MB")
	}
	const size = 20_000_000
	data := make([]byte, size)
	for i, r := 0, rand.NewPCG(1, 2); i+8 <= size; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			data[i+j] = byte(v >> (8 * j))
		}
	}
	must(t, b.PutIfAbsent(t.Context(), "large", data))
	wantObject(t, b, "large", data)
	_, err := b.Get(t.Context(), "large", size-1)
	wantError(t, err, bucket.ErrTooLarge, b, bucket.KindGet, "large")
	got, err := b.GetRange(t.Context(), "large", size-5_000_000, 6_000_000)
	must(t, err)
	if !bytes.Equal(got, data[size-5_000_000:]) {
		t.Error("the range is wrong")
	}
}

func testCancelled(t *testing.T, b bucket.Bucket) {
	must(t, b.Put(t.Context(), "a", []byte("1")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, b.PutIfAbsent(ctx, "b", nil), context.Canceled, b, bucket.KindPutIfAbsent, "b")
	wantError(t, b.Put(ctx, "b", nil), context.Canceled, b, bucket.KindPut, "b")
	wantError(t, b.PutStream(ctx, "b", unread{t}), context.Canceled, b, bucket.KindPutStream, "b")
	wantError(t, b.Delete(ctx, "a"), context.Canceled, b, bucket.KindDelete, "a")
	_, err := b.Get(ctx, "a", 1)
	wantError(t, err, context.Canceled, b, bucket.KindGet, "a")
	_, err = b.GetRange(ctx, "a", 0, 1)
	wantError(t, err, context.Canceled, b, bucket.KindGetRange, "a")
	err = b.List(ctx, "", "", func(bucket.Info) error { return nil })
	wantError(t, err, context.Canceled, b, bucket.KindList, "")
	_, err = b.Now(ctx)
	wantError(t, err, context.Canceled, b, bucket.KindNow, "")
	_, err = b.CleanUp(ctx, 0)
	wantError(t, err, context.Canceled, b, bucket.KindCleanUp, "")
}

// An unread reader must not be read.
type unread struct{ t *testing.T }

func (r unread) Read([]byte) (int, error) {
	r.t.Error("a stream was read that cannot be written")
	return 0, io.EOF
}

func testNow(t *testing.T, b bucket.Bucket) {
	first, err := b.Now(t.Context())
	must(t, err)
	second, err := b.Now(t.Context())
	must(t, err)
	if first.Year() < 2024 {
		t.Errorf("the store says it is %v", first)
	}
	if second.Before(first) {
		t.Errorf("the store's clock went from %v to %v", first, second)
	}
	if names := list(t, b, "", ""); len(names) > 0 {
		t.Errorf("asking for the time left %q", names)
	}
}

func testProbe(t *testing.T, b bucket.Bucket) {
	must(t, bucket.Probe(t.Context(), b))
	if names := list(t, b, "", ""); len(names) > 0 {
		t.Errorf("the probe left %q", names)
	}
}

func testListStops(t *testing.T, b bucket.Bucket) {
	putAll(t, b, []string{"a/1", "a/2", "b", "c/1"})
	stop := errors.New("stop")
	var seen []string
	err := b.List(t.Context(), "", "", func(info bucket.Info) error {
		seen = append(seen, info.Name)
		if len(seen) == 2 {
			return stop
		}
		return nil
	})
	if err != stop {
		t.Errorf("List returned %v, want the very error of its function", err)
	}
	if want := []string{"a/1", "a/2"}; !slices.Equal(seen, want) {
		t.Errorf("List showed %q, want %q", seen, want)
	}
	err = b.List(t.Context(), "", "", func(bucket.Info) error { return io.EOF })
	if err != io.EOF {
		t.Errorf("List returned %v, want io.EOF", err)
	}
}
