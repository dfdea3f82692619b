package faults_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
)

// tp is long, so that hardly any delay is short.
const tp = time.Hour

// look is what a reader finds under a name, "" for nothing.
func look(t *testing.T, b bucket.Bucket, name string) string {
	t.Helper()
	data, err := b.Get(t.Context(), name, 100)
	if err != nil && !errors.Is(err, bucket.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

func listed(t *testing.T, b bucket.Bucket) (names int) {
	t.Helper()
	if err := b.List(t.Context(), "", "", func(bucket.Info) error { names++; return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestAnEventualStoreShowsWritesWithinItsTimeAndRemembersMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := faults.NewEventual(bucket.NewMemory(), 1, tp, 1)
		writer, early, late := e.Reader(), e.Reader(), e.Reader()
		put := func(data string) {
			if err := writer.Put(t.Context(), "a", []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		put("first")
		if look(t, early, "a") != "" || listed(t, early) != 0 {
			t.Error("it is seen at once")
		}
		time.Sleep(tp * 9 / 10)
		if look(t, early, "a") != "" {
			t.Error("the miss was not remembered")
		}
		time.Sleep(tp / 10)
		for _, b := range []bucket.Bucket{writer, early, late} {
			if look(t, b, "a") != "first" || listed(t, b) != 1 {
				t.Error("it is not seen when the time is over")
			}
		}
		put("second")
		if look(t, late, "a") != "first" {
			t.Error("what was put over it is seen at once")
		}
		put("third")
		time.Sleep(tp)
		if look(t, late, "a") != "third" {
			t.Error("what was put over it is not seen when the time is over")
		}
		if err := writer.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if look(t, late, "a") != "third" || listed(t, late) != 1 {
			t.Error("the deletion is seen at once")
		}
		time.Sleep(tp)
		if look(t, late, "a") != "" || listed(t, late) != 0 {
			t.Error("the deletion is not seen when the time is over")
		}
		put("fourth")
		time.Sleep(tp / 10)
		missed := look(t, early, "a") == ""
		time.Sleep(tp * 9 / 10)
		if missed && look(t, early, "a") != "" {
			t.Error("who asked too early is not told so for the whole time")
		}
		if look(t, writer, "a") != "fourth" {
			t.Error("it is not seen by one who did not ask")
		}
	})
}
