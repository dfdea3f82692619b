package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"s3storage/internal/engine"
)

// openSplit opens the database at a location as serve --log-bucket does.
func openSplit(t *testing.T, location, logLocation string) error {
	t.Helper()
	b, err := new(stores).openWithLog(t.Context(), location, logLocation, true)
	if err != nil {
		return err
	}
	e, err := engine.Open(t.Context(), b, leaderOptions("test", 8))
	if err != nil {
		return err
	}
	return e.Close(context.Background())
}

// splitDatabase makes a database with a log in a directory of its own.
func splitDatabase(t *testing.T) (dir, logDir string) {
	t.Helper()
	dir, logDir = t.TempDir(), filepath.Join(t.TempDir(), "made")
	if err := openSplit(t, dir, logDir); err != nil {
		t.Fatal(err)
	}
	return dir, logDir
}

func there(t *testing.T, dir, name string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

func TestADatabaseIsOpenedWithItsLogWithoutBeingToldWhereItIs(t *testing.T) {
	dir, logDir := splitDatabase(t)
	if !there(t, dir, "format") || there(t, logDir, "format") || there(t, dir, "log") || !there(t, logDir, "log") {
		t.Error("the log is not apart from the rest")
	}
	for _, logLocation := range []string{"", logDir, logDir + "/.", "file://" + logDir} {
		if err := openSplit(t, dir, logLocation); err != nil {
			t.Errorf("%q: %v", logLocation, err)
		}
	}
	if err := openDatabase(t, "file://"+dir, false); err != nil {
		t.Error(err)
	}
	for name, run := range map[string]func() error{
		"info":   (&infoCmd{Bucket: dir}).Run,
		"check":  (&checkCmd{Bucket: dir, Full: true}).Run,
		"export": (&exportCmd{Bucket: dir, File: filepath.Join(t.TempDir(), "Data.fs")}).Run,
		"log":    (&logCmd{Bucket: dir}).Run,
	} {
		if err := run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if there(t, dir, "log") || there(t, dir, "head") || there(t, dir, "checkpoint") {
		t.Error("something of the log was written to the main bucket")
	}
}

func TestARelativeLocationOfTheLogIsFoundFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(t.TempDir())
	if err := openSplit(t, dir, "log"); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := openDatabase(t, dir, false); err != nil {
		t.Error(err)
	}
}

func TestALogBucketThatCannotBeIsRefusedWithAReason(t *testing.T) {
	plain := newDatabase(t)
	split, splitLog := splitDatabase(t)
	empty := t.TempDir()
	for name, c := range map[string]struct {
		location, log string
		want          []string
	}{
		"the log is in the bucket":   {plain, t.TempDir(), []string{plain, "leave out --log-bucket", "export"}},
		"the log is elsewhere":       {split, empty, []string{split, splitLog, empty, "leave out --log-bucket"}},
		"of another database":        {t.TempDir(), splitLog, []string{splitLog, "another database", "choose another"}},
		"a database":                 {t.TempDir(), plain, []string{plain, "not empty"}},
		"the same":                   {empty, "file://" + empty, []string{"--log-bucket", "another place"}},
		"within":                     {empty, empty + "/log", []string{"--log-bucket", "another place"}},
		"around":                     {empty + "/data", empty, []string{"--log-bucket", "another place"}},
		"not durable":                {t.TempDir(), "mem://", []string{"--log-bucket", "mem://"}},
		"a database that is not":     {"mem://", empty, []string{"mem://"}},
		"no location":                {t.TempDir(), "ftp://host/x", []string{"--log-bucket", "s3://BUCKET/PREFIX"}},
		"the main bucket is another": {splitLog, t.TempDir(), []string{splitLog, "not empty"}},
	} {
		err := openSplit(t, c.location, c.log)
		if err == nil {
			t.Errorf("%s: it was opened", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in: %v", name, w, err)
			}
		}
	}
	if err := openDatabase(t, empty, true); err != nil {
		t.Errorf("a refusal left something: %v", err)
	}
}

func TestADatabaseWhoseLogIsAwayIsRefusedWithAReason(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(logDir string) error
		want string
	}{
		"unreachable": {os.RemoveAll, "can be reached"},
		"emptied": {func(logDir string) error {
			return os.Remove(filepath.Join(logDir, "claim"))
		}, "put back"},
	} {
		dir, logDir := splitDatabase(t)
		if err := c.lose(logDir); err != nil {
			t.Fatal(err)
		}
		for _, logLocation := range []string{"", logDir} {
			err := openSplit(t, dir, logLocation)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), logDir) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if there(t, logDir, "claim") {
			t.Errorf("%s: the log was made anew", name)
		}
	}
}
