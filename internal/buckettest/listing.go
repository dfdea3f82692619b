package buckettest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"s3storage/internal/bucket"
)

func testListNothing(t *testing.T, b bucket.Bucket) {
	for _, prefix := range []string{"", "a", "log/", "log/1"} {
		if names := list(t, b, prefix, ""); len(names) > 0 {
			t.Errorf("prefix %q lists %q", prefix, names)
		}
	}
}

// orderly are names whose byte order is not the order of a walk through
// directories: '-' and '.' come before '/', digits and letters after.
var orderly = []string{
	"a", "a-b", "a.b", "b-", "b--/x", "b.", "b/0", "b/c-d", "b/c.d", "b/c/-", "b/c/0/1", "b/c0", "b/c_",
	"b/cc", "b0", "b_", "bb", "log/0000/01", "log/0000/02", "log/0001/03", "log-", "log.1", "log0",
}

func testListOrder(t *testing.T, b bucket.Bucket) {
	shuffled := slices.Clone(orderly)
	rand.New(rand.NewPCG(7, 0)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	putAll(t, b, shuffled)
	want := slices.Sorted(slices.Values(orderly))
	if names := list(t, b, "", ""); !slices.Equal(names, want) {
		t.Errorf("listed %q\nwant   %q", names, want)
	}
	must(t, b.List(t.Context(), "", "", func(info bucket.Info) error {
		if info.Size != int64(len(info.Name)) {
			t.Errorf("%s: size %d, want %d", info.Name, info.Size, len(info.Name))
		}
		return nil
	}))
}

func testListPrefixAfter(t *testing.T, b bucket.Bucket) {
	putAll(t, b, orderly)
	prefixes := []string{"", "a", "b", "b/", "b/c", "b/c/", "b/c/0/1", "b/c/0/1/", "b-", "log", "log/", "log/0000/", "log/000", "x", "z/"}
	afters := []string{"", "a", "a-", "b", "b--/", "b/c", "b/c.d", "b/c/0", "b/c/0/1", "b/c/0/2", "b0", "log/0000/01", "log/0000/99", "log/0001", "log.1", "zz"}
	for _, prefix := range prefixes {
		for i, after := range afters {
			if prefix != "" && i%3 != 0 && !strings.HasPrefix(after, prefix) {
				continue // enough of those
			}
			want := []string{}
			for _, name := range slices.Sorted(slices.Values(orderly)) {
				if strings.HasPrefix(name, prefix) && name > after {
					want = append(want, name)
				}
			}
			if names := list(t, b, prefix, after); !slices.Equal(names, want) {
				t.Errorf("prefix %q after %q: listed %q, want %q", prefix, after, names, want)
			}
		}
	}
}

func testListMany(t *testing.T, b bucket.Bucket) {
	n := 2500 // more than two pages of S3
	if testing.Short() {
		n = 100
	}
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprintf("many/%02x/%016x", i>>10, i)
	}
	putAll(t, b, want)
	if names := list(t, b, "many/", ""); !slices.Equal(names, want) {
		t.Errorf("listed %d objects, want %d", len(names), n)
	}
	if names := list(t, b, "many/", want[n-1201%n]); !slices.Equal(names, want[n-1201%n+1:]) {
		t.Errorf("listed %d objects, want %d", len(names), 1201%n-1)
	}
	each(t, 16, n/2, func(i int) error { return b.Delete(t.Context(), want[2*i]) })
	if names := list(t, b, "", ""); len(names) != n-n/2 {
		t.Errorf("listed %d objects after half were deleted, want %d", len(names), n-n/2)
	}
}

// testConcurrent has goroutines write, read, list and delete names of their
// own; each must see its own writes at once, whatever the others do.
func testConcurrent(t *testing.T, b bucket.Bucket) {
	each(t, 8, 24, func(i int) error {
		prefix := fmt.Sprintf("own/%d/", i)
		data := []byte(prefix)
		for j := range 4 {
			name := fmt.Sprintf("%s%d", prefix, j)
			if err := b.PutIfAbsent(t.Context(), name, data); err != nil {
				return err
			}
			got, err := b.Get(t.Context(), name, 100)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, data) {
				return fmt.Errorf("%s has %q", name, got)
			}
			if j%2 == 0 {
				if err := b.Delete(t.Context(), name); err != nil {
					return err
				}
				if _, err := b.GetRange(t.Context(), name, 0, 1); !errors.Is(err, bucket.ErrNotExist) {
					return fmt.Errorf("%s was deleted, but: %v", name, err) //nolint:errorlint // err is nil where the object is still there
				}
			}
		}
		shown := 0
		if err := b.List(t.Context(), prefix, "", func(bucket.Info) error { shown++; return nil }); err != nil {
			return err
		}
		if shown != 2 {
			return fmt.Errorf("%d objects below %s, want 2", shown, prefix)
		}
		return nil
	})
}

// testModel compares the bucket with a map, over some hundred operations.
func testModel(t *testing.T, b bucket.Bucket) {
	const seed = 20240820
	r := rand.New(rand.NewPCG(seed, 0))
	model := map[string]string{}
	names := []string{"a", "b", "c/a", "c/b", "c-d", "c.d/e", "c/d/e/f", "d/0", "d/1"}
	for step := range 300 {
		name := names[r.IntN(len(names))]
		value := strings.Repeat(fmt.Sprintf("%d;", step), r.IntN(300))
		old, exists := model[name]
		switch op := r.IntN(6); op {
		case 0:
			err := b.PutIfAbsent(t.Context(), name, []byte(value))
			if exists != errors.Is(err, bucket.ErrExist) || !exists && err != nil {
				t.Fatalf("seed %d, step %d: put-if-absent %s, exists %v: %v", seed, step, name, exists, err)
			}
			if !exists {
				model[name] = value
			}
		case 1:
			must(t, b.Put(t.Context(), name, []byte(value)))
			model[name] = value
		case 2:
			must(t, b.Delete(t.Context(), name))
			delete(model, name)
		case 3:
			got, err := b.Get(t.Context(), name, 1<<20)
			if exists == errors.Is(err, bucket.ErrNotExist) || string(got) != old {
				t.Fatalf("seed %d, step %d: get %s, exists %v: %d bytes, %v", seed, step, name, exists, len(got), err)
			}
		case 4:
			offset, n := r.Int64N(900), 1+r.Int64N(900)
			got, err := b.GetRange(t.Context(), name, offset, n)
			rest := old[min(offset, int64(len(old))):]
			if exists == errors.Is(err, bucket.ErrNotExist) || string(got) != rest[:min(n, int64(len(rest)))] {
				t.Fatalf("seed %d, step %d: get-range %s, exists %v: %d bytes, %v", seed, step, name, exists, len(got), err)
			}
		case 5:
			after := names[r.IntN(len(names))]
			prefix := names[r.IntN(len(names))]
			prefix = prefix[:r.IntN(len(prefix))]
			want := []bucket.Info{}
			for name, value := range model {
				if strings.HasPrefix(name, prefix) && name > after {
					want = append(want, bucket.Info{Name: name, Size: int64(len(value))})
				}
			}
			slices.SortFunc(want, func(a, b bucket.Info) int { return strings.Compare(a.Name, b.Name) })
			got := []bucket.Info{}
			must(t, b.List(t.Context(), prefix, after, func(info bucket.Info) error {
				got = append(got, info)
				return nil
			}))
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: list %q after %q: got %v, want %v", seed, step, prefix, after, got, want)
			}
		}
	}
}
