package engine

import (
	"io"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/zodb"
)

// Nobody says when an iterator is not needed any more, and a client may begin
// many.
func TestIteratorsThatWereBegunHoldABoundedAmount(t *testing.T) {
	e := openEngine(t, bucket.NewMemory())
	want := []string{"one", "two", "three"}
	commit(t, e, stored{1, 0, want[0]}, stored{2, 0, want[1]}, stored{3, 0, want[2]})
	var err error
	if e.cache, err = cache.New(1); err != nil { // forgets what was committed
		t.Fatal(err)
	}
	var all []*recordIterator
	next := func(ri *recordIterator, want string) {
		rec, err := ri.Next(t.Context())
		if err != nil || string(rec.Data) != want {
			t.Fatalf("%q, %v, want %q", rec.Data, err, want)
		}
	}
	for range 2*maxWindows + 1 {
		it := e.Iterate(0, zodb.MaxTid)
		if _, err := it.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		ri := it.Records().(*recordIterator)
		next(ri, want[0])
		all = append(all, ri)
	}
	holding := 0
	for _, ri := range all {
		if ri.window.Load() != nil {
			holding++
		}
	}
	if holding != maxWindows {
		t.Errorf("%d iterators hold what they read ahead, want %d", holding, maxWindows)
	}
	for _, ri := range all { // those that had to let go read again
		next(ri, want[1])
		next(ri, want[2])
		if _, err := ri.Next(t.Context()); err != io.EOF {
			t.Fatal(err)
		}
		if ri.window.Load() != nil {
			t.Fatal("it holds what it read ahead at its end")
		}
	}
}
