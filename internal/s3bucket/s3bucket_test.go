package s3bucket_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest"
	"s3storage/internal/buckettest/s3server"
	"s3storage/internal/s3bucket"
)

var server *s3server.Server

func TestMain(m *testing.M) {
	flag.Parse()
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

func TestConforms(t *testing.T) {
	buckettest.Conformance(t, func(t *testing.T) bucket.Bucket { return open(t, newConfig(t, "")) })
}

func TestConformsUnderAPrefix(t *testing.T) {
	if testing.Short() {
		t.Skip("as without a prefix, but for the names")
	}
	buckettest.Conformance(t, func(t *testing.T) bucket.Bucket {
		b := open(t, newConfig(t, "data/base-1"))
		return b
	})
}
