package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"s3storage/internal/bucket"
)

// names of a database's objects, and which of them are the log's.
var splitNames = map[string]bool{
	"base/1": false, "checkpoint": false, "checkpoint-": false, "checkpoint/1": true, "checkpoint/2": true, "claim": false,
	"format": false, "heada": false, "head-/1": false, "log-/1": false, "log/1/1": true, "log/2/2": true,
	"logs": false, "payload/1": false, "segment/1": false,
}

func TestSplitKeepsTheLogInABucketOfItsOwn(t *testing.T) {
	main, log := bucket.NewMemory(), bucket.NewMemory()
	b := bucket.Split(main, log)
	for name, ofLog := range splitNames {
		if err := b.PutIfAbsent(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
		here, there := bucket.Bucket(main), bucket.Bucket(log)
		if ofLog {
			here, there = there, here
		}
		if _, err := here.Get(t.Context(), name, 100); err != nil {
			t.Error(err)
		}
		if _, err := there.Get(t.Context(), name, 100); !errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("%s is in the wrong bucket: %v", name, err)
		}
	}
}

func TestSplitListsBothBucketsInOneOrder(t *testing.T) {
	main, log := bucket.NewMemory(), bucket.NewMemory()
	b := bucket.Split(main, log)
	all := []string{}
	for name := range splitNames {
		all = append(all, name)
		// What a bucket holds of the other's names is not seen.
		for _, each := range []bucket.Bucket{main, log} {
			if err := each.Put(t.Context(), name, []byte(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, each := range []bucket.Bucket{main, log} {
		if err := each.Put(t.Context(), "head", []byte("head")); err != nil {
			t.Fatal(err)
		}
	}
	all = append(all, "head")
	slices.Sort(all)
	places := []string{""}
	for _, name := range all {
		for i := range len(name) {
			places = append(places, name[:i+1])
		}
	}
	slices.Sort(places)
	places = slices.Compact(places)
	for _, prefix := range places {
		for _, after := range places {
			want, got := []string{}, []string{}
			for _, name := range all {
				if strings.HasPrefix(name, prefix) && name > after {
					want = append(want, name)
				}
			}
			err := b.List(t.Context(), prefix, after, func(i bucket.Info) error {
				got = append(got, i.Name)
				return nil
			})
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("prefix %q after %q: listed %q, want %q; %v", prefix, after, got, want, err)
			}
			for stopAt := range want { // stops within either bucket, and says why
				stop, seen := fmt.Errorf("stop at %d", stopAt), 0
				err := b.List(t.Context(), prefix, after, func(bucket.Info) error {
					if seen++; seen > stopAt {
						return stop
					}
					return nil
				})
				if !errors.Is(err, stop) || seen != stopAt+1 {
					t.Fatalf("prefix %q after %q: stopped at %d of %d: %v", prefix, after, seen, stopAt+1, err)
				}
			}
		}
	}
}

func TestSplitTellsOfBothBuckets(t *testing.T) {
	main, log := openDirectory(t, t.TempDir()), openDirectory(t, t.TempDir())
	want := bucket.Properties{Location: main.Properties().Location, Log: log.Properties().Location, Durable: true}
	if got := bucket.Split(main, log).Properties(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, b := range []bucket.Bucket{bucket.Split(bucket.NewMemory(), log), bucket.Split(main, bucket.NewMemory())} {
		if b.Properties().Durable {
			t.Errorf("%+v is not durable", b.Properties())
		}
	}
}

// A littered bucket holds what unfinished writes have left.
type littered struct {
	bucket.Bucket
	left int
}

func (l *littered) CleanUp(context.Context, time.Duration) (int, error) { return l.left, nil }

func TestSplitCleansUpBothBuckets(t *testing.T) {
	n, err := bucket.Split(&littered{bucket.NewMemory(), 2}, &littered{bucket.NewMemory(), 3}).CleanUp(t.Context(), time.Hour)
	if n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
