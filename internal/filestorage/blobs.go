package filestorage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"s3storage/internal/zodb"
)

const (
	layoutMarker = ".layout"
	layoutBushy  = "bushy"
	layoutLawn   = "lawn"
	blobSuffix   = ".blob"
	blobTemp     = "tmp"
)

// A BlobDir is a directory of blobs as ZODB.blob lays it out: a directory for
// each object, with a file for each revision that has a blob. In the layout
// "bushy" an object's directory is eight levels deep, one for each byte of the
// oid; in "lawn", which is old, all are in one.
//
// Nothing but the file says that a revision has a blob.
//
// Its methods may be called from any number of goroutines.
type BlobDir struct {
	root   string
	layout string

	mu struct {
		sync.Mutex
		written map[string]bool // directories that Sync has to sync
	}
}

// OpenBlobDir opens a directory that exists. Where it does not say which layout
// it has, that is guessed as ZODB does.
func OpenBlobDir(root string) (*BlobDir, error) {
	root = filepath.Clean(root)
	marker, err := os.ReadFile(filepath.Join(root, layoutMarker))
	layout := strings.TrimSpace(string(marker))
	if errors.Is(err, fs.ErrNotExist) {
		layout, err = guessLayout(root)
	}
	if err != nil {
		return nil, err
	}
	if layout != layoutBushy && layout != layoutLawn {
		return nil, fmt.Errorf("blob directory %s has the layout %q: only %s and %s are known", root, layout, layoutBushy, layoutLawn)
	}
	d := &BlobDir{root: root, layout: layout}
	d.mu.written = map[string]bool{}
	return d, nil
}

// guessLayout takes a directory with something in it to be a lawn.
func guessLayout(root string) (string, error) {
	entries, err := os.ReadDir(root)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			return layoutLawn, err
		}
	}
	return layoutBushy, err
}

// CreateBlobDir opens a directory to write to. If there is none it makes one,
// bushy, which only the user may enter.
func CreateBlobDir(root string) (*BlobDir, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	d, err := OpenBlobDir(root)
	if err != nil {
		return nil, err
	}
	// Without it the directory is taken for a lawn as soon as something is in it.
	if err := os.WriteFile(filepath.Join(root, layoutMarker), []byte(d.layout), 0o600); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(root, blobTemp), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	d.wrote(root)
	d.wrote(filepath.Dir(root))
	return d, nil
}

// Path returns the name of the file with the blob of a revision, if it has one.
func (d *BlobDir) Path(oid zodb.Oid, tid zodb.Tid) string {
	return filepath.Join(d.objectDir(oid), shortHex(uint64(tid))+blobSuffix)
}

func (d *BlobDir) objectDir(oid zodb.Oid) string {
	if d.layout == layoutLawn {
		return filepath.Join(d.root, shortHex(uint64(oid)))
	}
	var b strings.Builder
	b.WriteString(d.root)
	for _, c := range oid.Bytes() {
		fmt.Fprintf(&b, "%c0x%02x", filepath.Separator, c)
	}
	return b.String()
}

// shortHex writes a number as ZODB's oid_repr does: two digits for each byte,
// without the bytes that are 0 at the beginning.
func shortHex(n uint64) string {
	s := fmt.Sprintf("%x", n)
	if len(s)%2 == 1 {
		s = "0" + s
	}
	return "0x" + s
}

// MayHaveBlob tells whether a revision with this data can have a blob at all, so
// that a directory need not be asked about each record: ZODB takes only such
// records for blobs as name its module. Of compressed records nothing is known.
func MayHaveBlob(data []byte) bool {
	return bytes.HasPrefix(data, []byte(".z")) || bytes.Contains(data, []byte("ZODB.blob"))
}

// Open opens the blob of a revision, or returns an error that wraps
// fs.ErrNotExist.
func (d *BlobDir) Open(oid zodb.Oid, tid zodb.Tid) (*os.File, error) {
	return os.Open(d.Path(oid, tid))
}

// Create begins to write the blob of a revision. It is there, whole, after
// Commit, in place of another that was there.
func (d *BlobDir) Create(oid zodb.Oid, tid zodb.Tid) (*BlobFile, error) {
	f, err := os.CreateTemp(filepath.Join(d.root, blobTemp), "blob")
	if err != nil {
		return nil, err
	}
	return &BlobFile{dir: d, file: f, path: d.Path(oid, tid)}, nil
}

// wrote notes that a name was written into a directory.
func (d *BlobDir) wrote(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.written[dir] = true
}

// Sync makes durable that the blobs are there that were committed before. Call
// it before the Sync of the Writer whose records they belong to.
func (d *BlobDir) Sync() error {
	d.mu.Lock()
	written := d.mu.written
	d.mu.written = map[string]bool{}
	d.mu.Unlock()
	for dir := range written {
		if err := syncDirectory(dir); err != nil {
			return err
		}
	}
	return nil
}

// A BlobFile is a blob that is being written. It is for one goroutine.
type BlobFile struct {
	dir  *BlobDir
	file *os.File
	path string
}

// Write implements io.Writer.
func (f *BlobFile) Write(p []byte) (int, error) { return f.file.Write(p) }

// Commit makes the bytes durable and puts the file where it belongs. The name is
// durable after BlobDir.Sync.
func (f *BlobFile) Commit() error {
	err := errors.Join(f.file.Chmod(0o400), f.file.Sync(), f.file.Close())
	if err == nil {
		err = f.dir.makeObjectDir(filepath.Dir(f.path))
	}
	if err == nil {
		err = os.Rename(f.file.Name(), f.path)
	}
	if err != nil {
		os.Remove(f.file.Name())
		return fmt.Errorf("write blob %s: %w", f.path, err)
	}
	f.dir.wrote(filepath.Dir(f.path))
	return nil
}

// Abort removes what was written. It must not be called after Commit.
func (f *BlobFile) Abort() error {
	return errors.Join(f.file.Close(), os.Remove(f.file.Name()))
}

// makeObjectDir makes a directory below the root, and notes each that got a new
// name in it.
func (d *BlobDir) makeObjectDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && len(dir) > len(d.root) {
		if err := d.makeObjectDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		d.wrote(filepath.Dir(dir))
	}
	return err
}
