package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Directory is a bucket in a directory of a local file system: the object
// log/1/2 is the file log/1/2 in it. Any number of processes may use it at a
// time.
//
// Invariants:
//
//   - A file under an object's name is whole and its bytes are on the disk.
//     It is written and synced under a name of its own in .tmp, then gets the
//     object's name by link(2), which fails if that is taken, or, in Put, by
//     rename(2).
//   - A name that somebody was told about is on the disk: the directory it is
//     in is synced before PutIfAbsent answers success or ErrExist, and so is
//     every directory above. A reader that finds a file with a second link,
//     which its writer in .tmp has not removed yet, syncs the directory itself
//     before it returns the bytes.
//   - Where a directory could not be synced, nobody knows what is on the disk,
//     and asking again tells nothing (the kernel reports such an error once).
//     All later writes fail.
//
// Directories are never removed, so that a handle to one stays good.
type Directory struct {
	location string
	root     string // absolute
	temp     string // root/.tmp
	owner    string // begins the names of this one's temporary files
	serial   atomic.Uint64
	handles  *handles
	syncDir  func(*os.File) error // (*os.File).Sync, but in tests
	broken   atomic.Pointer[error]
	cleaning sync.WaitGroup // of temporary files
}

var _ Bucket = (*Directory)(nil)

const (
	tempDir  = ".tmp"         // no name of an object has an element like this
	tempLife = 24 * time.Hour // a temporary file of this age has lost its writer
	chunk    = 4 << 20        // so much is read or written between looks at the context

	streamBuffer = 256 << 10
)

// OpenDirectory opens a bucket in the directory at path. If there is none, it
// is made, and those above it, if create says so; otherwise the error is
// ErrNoBucket.
func OpenDirectory(path string, create bool) (*Directory, error) {
	d := &Directory{
		location: filepath.Clean(path),
		owner:    rand.Text()[:12],
		syncDir:  (*os.File).Sync,
	}
	fail := func(err error) (*Directory, error) {
		if missing(err) {
			err = fmt.Errorf("%w: %w", ErrNoBucket, err)
		}
		return nil, &Error{Op: "open", Location: d.location, Err: refusal(err)}
	}
	var err error
	if d.root, err = filepath.Abs(path); err != nil {
		return fail(err)
	}
	d.temp = filepath.Join(d.root, tempDir)
	d.handles = newHandles(d.root, d.sync)
	if create {
		if err := makeDurable(d.root); err != nil {
			return fail(err)
		}
	}
	if _, err := os.Stat(d.root + "/"); err != nil {
		return fail(err)
	}
	_, _ = d.CleanUp(context.Background(), tempLife) // no matter if it cannot
	return d, nil
}

// makeDurable makes a directory and those above it, and syncs the ones that
// got a new entry.
func makeDurable(dir string) error {
	_, err := os.Stat(dir + "/")
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDurable(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Close releases what the bucket keeps open. No method may be called after.
func (d *Directory) Close() error {
	d.cleaning.Wait()
	d.handles.close()
	return nil
}

// Properties implements Bucket.
func (d *Directory) Properties() Properties {
	return Properties{Location: d.location, Durable: true}
}

func (d *Directory) file(name string) string { return d.root + "/" + name }

// PutIfAbsent implements Bucket.
func (d *Directory) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return d.write(ctx, KindPutIfAbsent, name, whole(ctx, data), os.Link)
}

// Put implements Bucket.
func (d *Directory) Put(ctx context.Context, name string, data []byte) error {
	return d.write(ctx, KindPut, name, whole(ctx, data), os.Rename)
}

// PutStream implements Bucket.
func (d *Directory) PutStream(ctx context.Context, name string, r io.Reader) error {
	s := &source{ctx: ctx, r: r}
	err := d.write(ctx, KindPutStream, name, func(f *os.File) error {
		_, err := io.CopyBuffer(&streamFile{f: f}, s, make([]byte, streamBuffer))
		return err
	}, os.Rename)
	if s.err != nil {
		return NewError(d, KindPutStream, name, s.err)
	}
	return err
}

// A streamFile has the disk write what was written to the file while more
// arrives.
type streamFile struct {
	f       *os.File
	written int64
	started int64 // of written, what the disk was told to write
}

// Write implements io.Writer.
func (s *streamFile) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	s.written += int64(n)
	if s.written-s.started >= chunk {
		startWriteback(s.f, s.started, s.written-s.started)
		s.started = s.written
	}
	return n, err
}

// write gives name to a temporary file that fill has written, by the function
// publish.
func (d *Directory) write(ctx context.Context, k Kind, name string, fill func(*os.File) error, publish func(from, to string) error) error {
	fail := func(err error) error { return NewError(d, k, name, err) }
	if err := begin(ctx, name); err != nil {
		return fail(err)
	}
	if err := d.broken.Load(); err != nil {
		return fail(*err)
	}
	dir, err := d.handles.acquire(path.Dir(name), true)
	if err != nil {
		return fail(d.refusal(err))
	}
	defer d.handles.release(dir)
	temp, err := d.writeTemp(fill)
	if err != nil {
		return fail(d.refusal(err))
	}
	err = publish(temp, d.file(name))
	exists := errors.Is(err, fs.ErrExist)
	if exists {
		if info, e := os.Lstat(d.file(name)); e == nil && !info.Mode().IsRegular() {
			exists, err = false, fmt.Errorf("there is something else of that name: %w", err)
		}
	}
	if err != nil {
		os.Remove(temp)
		if k == KindPutIfAbsent && (errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported)) {
			return fail(fmt.Errorf("%w: this file system cannot link files: %w", ErrNoConditionalPut, err))
		}
		if !exists {
			return fail(d.refusal(err))
		}
	}
	// From here on an error must not say that nothing was written.
	if err := d.sync(dir.f); err != nil {
		return fail(err)
	}
	if exists {
		return fail(ErrExist)
	}
	if k == KindPutIfAbsent {
		d.cleaning.Go(func() { os.Remove(temp) }) // nobody need wait for that
	}
	return nil
}

// sync makes the names in a directory durable.
func (d *Directory) sync(dir *os.File) error {
	if err := d.broken.Load(); err != nil {
		return *err
	}
	if err := d.syncDir(dir); err != nil {
		err = fmt.Errorf("the disk may have lost what was written; check it, then start again: %v", err) //nolint:errorlint // a wrapped EROFS or ENOENT would make it a refusal
		d.broken.CompareAndSwap(nil, &err)
		return err
	}
	return nil
}

// writeTemp writes a file in .tmp, makes its bytes durable and returns its path.
func (d *Directory) writeTemp(fill func(*os.File) error) (string, error) {
	f, err := d.createTemp()
	if err != nil {
		return "", err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func (d *Directory) createTemp() (*os.File, error) {
	name := fmt.Sprintf("%s/%s-%d", d.temp, d.owner, d.serial.Add(1))
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(name, flags, 0o666)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(d.temp, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err = os.OpenFile(name, flags, 0o666)
	}
	return f, err
}

// whole returns a function that writes data.
func whole(ctx context.Context, data []byte) func(*os.File) error {
	return func(w *os.File) error {
		for len(data) > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := w.Write(data[:min(chunk, len(data))])
			if err != nil {
				return err
			}
			data = data[n:]
		}
		return nil
	}
}

// open opens the file of an object for reading and tells its size.
func (d *Directory) open(ctx context.Context, name string) (*os.File, int64, error) {
	if err := begin(ctx, name); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(d.file(name))
	if err != nil {
		return nil, 0, d.absence(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNotExist
	}
	if err == nil && unsettled(info) {
		err = d.settle(path.Dir(name))
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// unsettled reports that the writer of a file is not through, or died: its
// name may not be on the disk yet.
func unsettled(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink > 1
}

// settle makes sure that the names in a directory are on the disk.
func (d *Directory) settle(dir string) error {
	h, err := d.handles.acquire(dir, false)
	if err != nil {
		return err
	}
	defer d.handles.release(h)
	return d.sync(h.f)
}

// Get implements Bucket.
func (d *Directory) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, size, err := d.open(ctx, name)
	if err != nil {
		return nil, NewError(d, KindGet, name, err)
	}
	defer f.Close()
	if size > limit {
		return nil, NewError(d, KindGet, name, tooLarge(size, limit))
	}
	data, err := readChunks(ctx, f, 0, size)
	if err != nil {
		return nil, NewError(d, KindGet, name, err)
	}
	return data, nil
}

// GetRange implements Bucket.
func (d *Directory) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	if err := CheckRange(offset, n); err != nil {
		return nil, NewError(d, KindGetRange, name, err)
	}
	f, size, err := d.open(ctx, name)
	if err != nil {
		return nil, NewError(d, KindGetRange, name, err)
	}
	defer f.Close()
	data, err := readChunks(ctx, f, offset, max(0, min(n, size-offset)))
	if err != nil {
		return nil, NewError(d, KindGetRange, name, err)
	}
	return data, nil
}

func readChunks(ctx context.Context, r io.ReaderAt, offset, n int64) ([]byte, error) {
	data := make([]byte, n)
	for done := int64(0); done < n; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := r.ReadAt(data[done:min(n, done+chunk)], offset+done)
		done += int64(m)
		if err != nil && done < n {
			return nil, err
		}
	}
	return data, nil
}

// Delete implements Bucket.
func (d *Directory) Delete(ctx context.Context, name string) error {
	fail := func(err error) error { return NewError(d, KindDelete, name, err) }
	if err := begin(ctx, name); err != nil {
		return fail(err)
	}
	if err := d.broken.Load(); err != nil {
		return fail(*err)
	}
	err := syscall.Unlink(d.file(name)) // os.Remove would remove a directory
	if err != nil {
		if info, e := os.Lstat(d.file(name)); e == nil && info.IsDir() {
			return nil // no object
		}
		if err := d.absence(err); !errors.Is(err, ErrNotExist) {
			return fail(err)
		}
		return nil
	}
	if err := d.settle(path.Dir(name)); err != nil {
		return fail(err)
	}
	return nil
}

// Now implements Bucket: the time that the file system gives a file written now.
func (d *Directory) Now(ctx context.Context) (time.Time, error) {
	fail := func(err error) (time.Time, error) {
		return time.Time{}, NewError(d, KindNow, "", d.refusal(err))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	f, err := d.createTemp()
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write([]byte{0}); err != nil {
		return fail(err)
	}
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	return info.ModTime(), nil
}

// CleanUp implements Bucket: it removes what writers that died have left in
// .tmp. Opening a directory does so with what is older than a day.
func (d *Directory) CleanUp(ctx context.Context, olderThan time.Duration) (int, error) {
	fail := func(n int, err error) (int, error) { return n, NewError(d, KindCleanUp, "", d.refusal(err)) }
	if err := ctx.Err(); err != nil {
		return fail(0, err)
	}
	entries, err := os.ReadDir(d.temp)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return fail(0, err)
	}
	n := 0
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return fail(n, err)
		}
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < olderThan {
			continue // its writer may just have removed it
		}
		switch err := os.Remove(filepath.Join(d.temp, e.Name())); {
		case err == nil:
			n++
		case !errors.Is(err, fs.ErrNotExist):
			return fail(n, err)
		}
	}
	return n, nil
}

// missing reports that there is no such file, or that what should hold it is no
// directory.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// refusal puts the right sentinel in front of an error that means that nothing
// was done.
func refusal(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}

// refusal is like the function, and knows when the bucket is gone.
func (d *Directory) refusal(err error) error {
	if missing(err) {
		if _, e := os.Stat(d.root + "/"); e != nil && missing(e) {
			return fmt.Errorf("%w: %w", ErrNoBucket, err)
		}
		d.handles.forget() // somebody removed a directory under us
	}
	return refusal(err)
}

// absence is refusal for operations on a file that may not be there.
func (d *Directory) absence(err error) error {
	if missing(err) {
		if _, e := os.Stat(d.root + "/"); e == nil {
			return ErrNotExist
		}
	}
	return d.refusal(err)
}
