package index

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"s3storage/internal/zodb"
)

func TestMergeGivesAllEntriesInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawEntries(t)
		parts := make([][]Entry, rapid.IntRange(0, 4).Draw(t, "parts"))
		if len(parts) == 0 {
			all = nil
		}
		for i, e := range all {
			j := i * 7919 % 31 % len(parts)
			parts[j] = append(parts[j], e)
		}
		var sources []iter.Seq2[Entry, error]
		for _, p := range parts {
			file, info := write(t, p)
			d, _, err := open(file, info)
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, d.Scan(t.Context(), fetchFrom(file), 0))
		}
		if got := collect(t, Merge(sources...)); !slices.Equal(got, all) {
			t.Fatalf("%d entries merged, %d expected", len(got), len(all))
		}
	})
}

// source goes over entries as a table would.
func source(all []Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestMergeOfTheSameRevisionTwiceIsDamage(t *testing.T) {
	a := source([]Entry{{1, 1, 0, false}, {2, 1, 0, false}})
	n := 0
	var last error
	for _, err := range Merge(a, a) {
		n++
		last = err
	}
	if n != 2 || !errors.Is(last, zodb.ErrCorrupt) {
		t.Errorf("%d entries, then %v", n, last)
	}
}

func TestMergeAndScanEndWithTheErrorOfWhatTheyRead(t *testing.T) {
	broken := errors.New("broken")
	file, info := write(t, small())
	d, _, err := open(file, info)
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(context.Context, int64, int64) ([]byte, error) { return nil, broken }
	short := func(context.Context, int64, int64) ([]byte, error) { return nil, nil }
	for _, test := range []struct {
		fetch Fetch
		want  error
	}{{fetch, broken}, {short, zodb.ErrCorrupt}} {
		n := 0
		var last error
		for _, err := range Merge(d.Scan(t.Context(), fetchFrom(file), 0), d.Scan(t.Context(), test.fetch, 0)) {
			n++
			last = err
		}
		if n != 1 || !errors.Is(last, test.want) {
			t.Errorf("%d, %v", n, last)
		}
		if err := d.Check(t.Context(), test.fetch); !errors.Is(err, test.want) {
			t.Errorf("check: %v", err)
		}
	}
}
