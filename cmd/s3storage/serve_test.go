package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"s3storage/internal/engine"
)

func TestSizesAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "1000": 1000, "64MiB": 64 << 20, "2GB": 2e9, "3k": 3 << 10, " 5 mib ": 5 << 20, "7B": 7} {
		var s byteSize
		if err := s.UnmarshalText([]byte(text)); err != nil || int64(s) != want {
			t.Errorf("%q: %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "MiB", "1.5GB", "9999999999999GiB", "64 apples"} {
		var s byteSize
		if err := s.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "64MiB") {
			t.Errorf("%q: %d, %v", text, s, err)
		}
	}
}

// openDatabase opens the database at a location as serve does.
func openDatabase(t *testing.T, location string, create bool) error {
	t.Helper()
	b, err := new(stores).openBucket(t.Context(), location, create)
	if err != nil {
		return err
	}
	e, err := engine.Open(t.Context(), b, engine.Options{Node: "test", Creator: "test", Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	return e.Close(context.Background())
}

// database makes a database in a directory and returns the path.
func newDatabase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for range 3 { // three seals
		if err := openDatabase(t, dir, true); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBucketThatCannotBeServedIsRefusedWithAReason(t *testing.T) {
	change := func(name string, f func([]byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, f(b), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	const second = "log/0000000000000001/0000000000000002"
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string)
		want    []string
	}{
		"newer format": {
			change("format", func(b []byte) []byte { binary.BigEndian.PutUint16(b[8:], 9); return b }),
			[]string{"format", "version 9", "upgrade"},
		},
		"not ours": {
			change("format", func([]byte) []byte { return []byte("a text file") }),
			[]string{"format", "damaged", "magic word"},
		},
		"without format": {
			func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, "format")); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"not empty", "log/", "choose an empty"},
		},
		"damaged log object": {
			change(second, func(b []byte) []byte { b[99] ^= 1; return b }),
			[]string{second, "damaged", "checksum"},
		},
		"truncated log object": {
			change(second, func(b []byte) []byte { return b[:40] }),
			[]string{second, "damaged"},
		},
		"log object of another place": {
			change(second, func(b []byte) []byte { return bytes.Clone(b) }),
			nil, // the control: nothing was changed
		},
		"hole in the log": {
			func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, second)); err != nil {
					t.Fatal(err)
				}
			},
			[]string{second, "missing", "restore the object"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDatabase(t)
			c.prepare(t, dir)
			err := openDatabase(t, dir, true)
			if c.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, w := range append(c.want, dir) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
		})
	}
}

func TestLocationThatIsNoBucketIsRefusedWithAReason(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for location, want := range map[string]string{
		filepath.Join(t.TempDir(), "missing"): "no such bucket",
		file:                                  "no such bucket",
		"ftp://host/x":                        "s3://BUCKET/PREFIX",
		"mem://name":                          "mem://",
		"file://host/path":                    "file:///PATH",
		"s3://":                               "s3://bucket/prefix",
		"s3://bucket/p?nosuch=1":              "nosuch",
		"s3://user:secret@bucket/p":           "credentials",
	} {
		err := openDatabase(t, location, false)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s: %v", location, err)
		}
	}
}

func TestInfoOfABucketWithoutDatabaseSaysSo(t *testing.T) {
	dir := t.TempDir()
	err := (&infoCmd{Bucket: dir}).Run()
	if err == nil || !strings.Contains(err.Error(), "no s3storage database") || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
}
