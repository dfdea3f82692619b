package bucket_test

import (
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest"
)

func TestMemoryConforms(t *testing.T) {
	buckettest.Conformance(t, func(*testing.T) bucket.Bucket { return bucket.NewMemory() })
}

func TestDirectoryConforms(t *testing.T) {
	buckettest.Conformance(t, func(t *testing.T) bucket.Bucket { return openDirectory(t, t.TempDir()) })
}

func TestObservedConforms(t *testing.T) {
	buckettest.Conformance(t, func(*testing.T) bucket.Bucket { return bucket.Observe(bucket.NewMemory()) })
}

func TestDelayedConforms(t *testing.T) {
	delays, err := bucket.ParseDelays("all=10us..50us,now=0s")
	if err != nil {
		t.Fatal(err)
	}
	buckettest.Conformance(t, func(*testing.T) bucket.Bucket { return bucket.Slow(bucket.NewMemory(), delays, 1) })
}

func TestSplitConforms(t *testing.T) {
	buckettest.Conformance(t, func(t *testing.T) bucket.Bucket {
		return bucket.Split(openDirectory(t, t.TempDir()), bucket.NewMemory())
	})
}

func openDirectory(t testing.TB, path string) *bucket.Directory {
	t.Helper()
	d, err := bucket.OpenDirectory(path, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}
