package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"s3storage/internal/buckettest/weakstore"
	"s3storage/internal/engine"
	"s3storage/internal/zodb"
)

// withCatalog opens the database at a location as serve does, has do write to it and
// closes it.
func withCatalog(t *testing.T, catalog, location string, do func(*engine.Engine)) (err error) {
	t.Helper()
	s := &stores{Catalog: catalog}
	defer s.close(&err)
	b, err := s.openBucket(t.Context(), location, true)
	if err != nil {
		return err
	}
	opts := leaderOptions("test", 8)
	opts.OpenBucket = s.openFiles
	e, err := engine.Open(t.Context(), b, opts)
	if err != nil {
		return err
	}
	if do != nil {
		do(e)
	}
	return e.Close(context.Background())
}

// commitOne commits one object.
func commitOne(t *testing.T, e *engine.Engine, oid zodb.Oid) {
	t.Helper()
	txn, err := e.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Store(oid, 0, []byte("cm\nc\n.}.")); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	txn.Finish(func(_ *zodb.Commit, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestADatabaseInACatalogIsNeverOpenedWithoutIt(t *testing.T) {
	catalog := weakstore.Start(t)
	dir := filepath.Join(t.TempDir(), "data")
	if err := withCatalog(t, catalog.Location, dir, func(e *engine.Engine) { commitOne(t, e, 1) }); err != nil {
		t.Fatal(err)
	}
	if err := openDatabase(t, dir, true); err == nil || !strings.Contains(err.Error(), "--catalog") || !strings.Contains(err.Error(), dir) {
		t.Errorf("opened without the catalog: %v", err)
	}
	for name, run := range map[string]func(stores) error{
		"info":   func(s stores) error { return (&infoCmd{Bucket: dir, Stores: s}).Run() },
		"check":  func(s stores) error { return (&checkCmd{Bucket: dir, Full: true, Stores: s}).Run() },
		"log":    func(s stores) error { return (&logCmd{Bucket: dir, Stores: s}).Run() },
		"branch": func(s stores) error { return (&branchCmd{New: dir + "-branch", From: dir, Stores: s}).Run() },
		"export": func(s stores) error {
			return (&exportCmd{Bucket: dir, File: filepath.Join(t.TempDir(), "Data.fs"), Stores: s}).Run()
		},
	} {
		if err := run(stores{}); err == nil {
			t.Errorf("%s does without the catalog", name)
		}
		if err := run(stores{Catalog: catalog.Location}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// By another spelling of its location it is the same.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := withCatalog(t, catalog.Location, link, nil); err != nil {
		t.Error(err)
	}
}

func TestADatabaseInNoCatalogIsNotOpenedAsIfItWereInOne(t *testing.T) {
	catalog := weakstore.Start(t)
	dir := newDatabase(t)
	if err := withCatalog(t, catalog.Location, dir, nil); err == nil || !strings.Contains(err.Error(), "leave out --catalog") {
		t.Error(err)
	}
	// Commands that make no database go by what there is.
	if err := (&infoCmd{Bucket: dir, Stores: stores{Catalog: catalog.Location}}).Run(); err != nil {
		t.Error(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "letter"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := withCatalog(t, catalog.Location, other, nil); err == nil || !strings.Contains(err.Error(), "letter") {
		t.Errorf("made a database beside other things: %v", err)
	}
	s := &stores{Catalog: catalog.Location}
	if _, err := s.openWithLog(t.Context(), t.TempDir(), t.TempDir(), true); err == nil {
		t.Error("--log-bucket and --catalog go together")
	}
}

func TestALostCatalogIsMadeAgainOfTheStore(t *testing.T) {
	catalog := weakstore.Start(t)
	dir := filepath.Join(t.TempDir(), "data")
	fill := func(e *engine.Engine) {
		for oid := range zodb.Oid(20) {
			commitOne(t, e, oid)
		}
	}
	if err := withCatalog(t, catalog.Location, dir, fill); err != nil {
		t.Fatal(err)
	}
	lost := weakstore.Start(t).Location // it knows nothing
	if err := withCatalog(t, lost, dir, nil); err == nil || !strings.Contains(err.Error(), "is lost") {
		t.Errorf("opened with another catalog: %v", err)
	}
	if err := (&rebuildCmd{Bucket: dir, Stores: stores{Catalog: lost}}).Run(); err != nil {
		t.Fatal(err)
	}
	if err := (&rebuildCmd{Bucket: dir, Stores: stores{Catalog: lost}}).Run(); err == nil {
		t.Error("it was made twice")
	}
	if err := (&checkCmd{Bucket: dir, Full: true, Stores: stores{Catalog: lost}}).Run(); err != nil {
		t.Error(err)
	}
	if err := withCatalog(t, lost, dir, func(e *engine.Engine) { commitOne(t, e, 100) }); err != nil {
		t.Error(err)
	}
}
