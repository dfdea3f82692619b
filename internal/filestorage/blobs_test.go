package filestorage

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"s3storage/internal/zodb"
)

// unpack writes the blob directory of a fixture.
func unpack(t testing.TB, f fixture) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "blobs")
	for name, data := range f.Blobs {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBlobsOfBothLayoutsAreFound(t *testing.T) {
	for _, marker := range []bool{true, false} {
		for _, name := range []string{layoutBushy, layoutLawn} {
			if name == layoutBushy && !marker {
				continue // what has no marker is a lawn
			}
			f := fixtureNamed(t, name)
			root := unpack(t, f)
			if !marker {
				if err := os.Remove(filepath.Join(root, layoutMarker)); err != nil {
					t.Fatal(err)
				}
			}
			d, err := OpenBlobDir(root)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, txn := range readAll(t, reader(t, f.File)) {
				for _, rec := range txn.records {
					blob, err := d.Open(rec.Oid, txn.Tid)
					if errors.Is(err, fs.ErrNotExist) {
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(blob)
					blob.Close()
					relative, _ := filepath.Rel(root, blob.Name())
					if want, ok := f.Blobs[relative]; err != nil || !ok || !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes, not %d, %v", relative, len(got), len(want), err)
					}
					if !MayHaveBlob(rec.Data) {
						t.Errorf("object %s can have no blob, it says, and has one", rec.Oid)
					}
					found++
				}
			}
			if found != 4 {
				t.Errorf("%s: %d blobs, not 4", name, found)
			}
		}
	}
}

// What FileStorage made itself is made again: the same names and bytes.
func TestABlobDirectoryIsWrittenAsZODBDoes(t *testing.T) {
	f := fixtureNamed(t, layoutBushy)
	source, err := OpenBlobDir(unpack(t, f))
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "new", "blobs")
	d, err := CreateBlobDir(root + "/")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // an export that is done again
		for _, txn := range readAll(t, reader(t, f.File)) {
			for _, rec := range txn.records {
				from, err := source.Open(rec.Oid, txn.Tid)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				to, createErr := d.Create(rec.Oid, txn.Tid)
				if err := errors.Join(err, createErr); err != nil {
					t.Fatal(err)
				}
				_, err = io.Copy(to, from)
				if err := errors.Join(err, from.Close(), to.Commit()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	err = filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		info, infoErr := e.Info()
		if err := errors.Join(err, infoErr); err != nil || e.IsDir() {
			if err == nil && info.Mode().Perm() != 0o700 {
				t.Errorf("%s has the permissions %s", name, info.Mode())
			}
			return err
		}
		got, err := os.ReadFile(name)
		relative, _ := filepath.Rel(root, name)
		if want, ok := f.Blobs[relative]; !ok || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, not %d", relative, len(got), len(want))
		}
		if strings.HasSuffix(name, blobSuffix) && info.Mode().Perm() != 0o400 {
			t.Errorf("%s has the permissions %s", name, info.Mode())
		}
		found++
		return err
	})
	if err != nil || found != len(f.Blobs) {
		t.Errorf("%d files, not %d, %v", found, len(f.Blobs), err)
	}
}

func TestABlobThatIsAbortedLeavesNothing(t *testing.T) {
	root := t.TempDir()
	d, err := CreateBlobDir(root)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := d.Create(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blob.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := blob.Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(1, 2); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(root, blobTemp)); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

func TestAnUnknownLayoutIsRefused(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, layoutMarker), []byte("forest"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBlobDir(root); err == nil || !strings.Contains(err.Error(), "forest") {
		t.Error(err)
	}
	if _, err := OpenBlobDir(filepath.Join(root, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestBlobNamesAreThoseOfZODB(t *testing.T) {
	root := t.TempDir()
	for layout, want := range map[string]string{
		layoutBushy: "0x00/0x00/0x00/0x12/0x34/0x56/0x78/0x9a/0x03d627fa06666666.blob",
		layoutLawn:  "0x123456789a/0x03d627fa06666666.blob",
	} {
		d := &BlobDir{root: root, layout: layout}
		if got, _ := filepath.Rel(root, d.Path(0x123456789a, 0x03d627fa06666666)); filepath.ToSlash(got) != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
	if got := shortHex(uint64(zodb.Oid(0))); got != "0x00" {
		t.Error(got)
	}
}
