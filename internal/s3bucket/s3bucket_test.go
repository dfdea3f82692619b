package s3bucket_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest"
	"s3storage/internal/buckettest/s3server"
	"s3storage/internal/s3bucket"
)

var server *s3server.Server

func TestMain(m *testing.M) {
	// The developer's own AWS settings must not come in.
	for _, key := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID",
		"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		os.Unsetenv(key)
	}
	os.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	os.Setenv("AWS_CONFIG_FILE", os.DevNull)
	os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if server, err = s3server.Start(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "no S3 server to test with:", err)
		return 1
	}
	defer server.Stop()
	return m.Run()
}

// newConfig returns the configuration for a new bucket.
func newConfig(t testing.TB, prefix string) s3bucket.Config {
	t.Helper()
	name, err := server.CreateBucket()
	if err != nil {
		t.Fatal(err)
	}
	return s3bucket.Config{
		Bucket: name, Prefix: prefix, Endpoint: server.Endpoint, Region: server.Region, PathStyle: true,
		AccessKeyID: server.AccessKeyID, SecretAccessKey: server.SecretAccessKey,
	}
}

func open(t testing.TB, c s3bucket.Config) *s3bucket.Bucket {
	t.Helper()
	b, err := s3bucket.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The suite runs under a prefix, with neighbours that must never be seen.
func TestConforms(t *testing.T) {
	buckettest.Conformance(t, func(t *testing.T) bucket.Bucket {
		c := newConfig(t, "data/base-1")
		for _, prefix := range []string{"", "data", "data/base-10"} {
			neighbour := c
			neighbour.Prefix = prefix
			if err := open(t, neighbour).Put(t.Context(), "zz/neighbour", nil); err != nil {
				t.Fatal(err)
			}
		}
		return open(t, c)
	})
}

func TestWithoutAPrefix(t *testing.T) {
	c := newConfig(t, "")
	b := open(t, c)
	for _, name := range []string{"b/2", "a", "b/1"} {
		if err := b.PutIfAbsent(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := listed(t, b, "", ""); err != nil || names != "a b/1 b/2" {
		t.Errorf("listed %q, %v", names, err)
	}
	c.Prefix = "b"
	b = open(t, c)
	if data, err := b.Get(t.Context(), "1", 10); err != nil || string(data) != "b/1" {
		t.Errorf("%q, %v", data, err)
	}
	if names, err := listed(t, b, "", "1"); err != nil || names != "2" {
		t.Errorf("listed %q, %v", names, err)
	}
}

var races = flag.Int("races", 1, "how many times to probe the S3 server, with 16 races each")

func TestProbe(t *testing.T) {
	b := open(t, newConfig(t, "probed"))
	for range *races {
		if err := bucket.Probe(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMissingBucket(t *testing.T) {
	c := newConfig(t, "")
	c.Bucket += "-not"
	_, err := s3bucket.Open(t.Context(), c)
	if !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("opening: %v", err)
	}
}

// A bucket that is removed while it is open.
func TestRemovedBucket(t *testing.T) {
	c := newConfig(t, "")
	b := open(t, c)
	if err := server.RemoveBucket(c.Bucket); err != nil {
		t.Fatal(err)
	}
	_, getErr := b.Get(t.Context(), "a", 1)
	_, nowErr := b.Now(t.Context())
	for what, err := range map[string]error{
		"get": getErr, "now": nowErr,
		"put":           b.Put(t.Context(), "a", nil),
		"put-if-absent": b.PutIfAbsent(t.Context(), "a", nil),
		"delete":        b.Delete(t.Context(), "a"),
		"list":          b.List(t.Context(), "", "", func(bucket.Info) error { return nil }),
	} {
		if !errors.Is(err, bucket.ErrNoBucket) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWrongCredentials(t *testing.T) {
	wrongSecret := newConfig(t, "")
	wrongSecret.SecretAccessKey = "not-this-one-at-all"
	wrongKey := newConfig(t, "")
	wrongKey.AccessKeyID = "nobody"
	for _, c := range []s3bucket.Config{wrongSecret, wrongKey} {
		_, err := s3bucket.Open(t.Context(), c)
		if !errors.Is(err, bucket.ErrDenied) {
			t.Errorf("opening: %v", err)
		} else if strings.Contains(err.Error(), c.SecretAccessKey) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestMissingCredentialsAndRegion(t *testing.T) {
	c := newConfig(t, "")
	secret := c.SecretAccessKey
	c.AccessKeyID, c.SecretAccessKey = "", ""
	_, err := s3bucket.Open(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	c.Region, c.Endpoint = "", ""
	_, err = s3bucket.Open(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "AWS_REGION") || strings.Contains(err.Error(), secret) {
		t.Errorf("without a region: %v", err)
	}
}

func TestConfigurationFromTheEnvironment(t *testing.T) {
	c := newConfig(t, "")
	t.Setenv("AWS_ACCESS_KEY_ID", c.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", c.SecretAccessKey)
	t.Setenv("AWS_ENDPOINT_URL_S3", c.Endpoint)
	fromURL, err := s3bucket.ParseURL("s3://" + c.Bucket + "/some/where?path-style=1")
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, fromURL)
	if err := b.Put(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	c.Prefix = "some"
	if data, err := open(t, c).Get(t.Context(), "where/a", 1); err != nil || string(data) != "1" {
		t.Errorf("%q, %v", data, err)
	}
}

func BenchmarkPutIfAbsent(b *testing.B) {
	bkt := open(b, newConfig(b, ""))
	data := make([]byte, 4<<10)
	i := 0
	for b.Loop() {
		i++
		if err := bkt.PutIfAbsent(b.Context(), fmt.Sprintf("log/%016x", i), data); err != nil {
			b.Fatal(err)
		}
	}
}
