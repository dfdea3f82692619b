package bucket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

func openTestDirectory(t testing.TB, path string) *Directory {
	t.Helper()
	d, err := OpenDirectory(path, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOpenDirectory(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenDirectory(filepath.Join(dir, "a/b"), false)
	if !errors.Is(err, ErrNoBucket) {
		t.Errorf("a missing directory: %v", err)
	}
	d := openTestDirectory(t, filepath.Join(dir, "a/b/c"))
	if want := filepath.Join(dir, "a/b/c"); d.Properties() != (Properties{Location: want, Durable: true}) {
		t.Errorf("properties %+v", d.Properties())
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "/below"} {
		for _, create := range []bool{false, true} {
			if _, err := OpenDirectory(path, create); !errors.Is(err, ErrNoBucket) {
				t.Errorf("%s, create %v: %v", path, create, err)
			}
		}
	}
}

func TestTwoDirectoriesOnOnePathAreOneBucket(t *testing.T) {
	path := t.TempDir()
	a, b := openTestDirectory(t, path), openTestDirectory(t, path)
	if err := a.PutIfAbsent(t.Context(), "x/y", []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := b.PutIfAbsent(t.Context(), "x/y", []byte("b")); !errors.Is(err, ErrExist) {
		t.Errorf("second put: %v", err)
	}
	if data, err := b.Get(t.Context(), "x/y", 9); err != nil || string(data) != "a" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestTemporaryFilesAreRemoved(t *testing.T) {
	path := t.TempDir()
	d := openTestDirectory(t, path)
	for i := range 3 {
		d.PutIfAbsent(t.Context(), "a", nil)
		d.Put(t.Context(), "b", nil)
		d.Put(t.Context(), fmt.Sprintf("c/%d", i), nil)
		d.Put(t.Context(), "c", nil) // fails
		d.PutStream(t.Context(), "d", strings.NewReader("1"))
		d.PutStream(t.Context(), "c", strings.NewReader("1"))            // fails
		d.PutStream(t.Context(), "e", iotest.ErrReader(errors.New("x"))) // fails
		d.Now(t.Context())
	}
	left := func() (names []string) {
		entries, err := os.ReadDir(filepath.Join(path, ".tmp"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	d.cleaning.Wait()
	if names := left(); len(names) > 0 {
		t.Errorf("left: %q", names)
	}
	for name, age := range map[string]time.Duration{"dead": 25 * time.Hour, "at-work": time.Hour} {
		file := filepath.Join(path, ".tmp", name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	openTestDirectory(t, path)
	if names := left(); len(names) != 1 || names[0] != "at-work" {
		t.Errorf("after opening again: %q", names)
	}
	for _, want := range []struct {
		age time.Duration
		n   int
	}{{2 * time.Hour, 0}, {30 * time.Minute, 1}, {0, 0}} {
		if n, err := d.CleanUp(t.Context(), want.age); err != nil || n != want.n {
			t.Errorf("older than %v: %d removed, %v", want.age, n, err)
		}
	}
	if names := left(); len(names) > 0 {
		t.Errorf("after cleaning up: %q", names)
	}
}

func TestForeignFilesAreNotListed(t *testing.T) {
	path := t.TempDir()
	d := openTestDirectory(t, path)
	for _, name := range []string{"README", "a~", "lost+found/x", ".hidden", "sub/.hidden/y", "sub/Upper"} {
		os.MkdirAll(filepath.Dir(filepath.Join(path, name)), 0o700)
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("/etc", filepath.Join(path, "etc"))
	syscall.Mkfifo(filepath.Join(path, "fifo"), 0o600)
	d.Put(t.Context(), "sub/object", nil)
	var names []string
	if err := d.List(t.Context(), "", "", func(i Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(names) != "[sub/object]" {
		t.Errorf("listed %q", names)
	}
}

func TestPermissionAndMissingDirectoryAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b")
	d := openTestDirectory(t, path)
	if err := d.Put(t.Context(), "a/b", nil); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		os.Chmod(path, 0o500)
		if err := d.Put(t.Context(), "new/b", nil); !errors.Is(err, ErrDenied) {
			t.Errorf("put into a read-only directory: %v", err)
		}
		os.Chmod(path, 0o700)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	_, getErr := d.Get(t.Context(), "a/b", 1)
	_, nowErr := d.Now(t.Context())
	for what, err := range map[string]error{
		"get": getErr, "now": nowErr,
		"put":           d.Put(t.Context(), "a/b", nil),
		"put-if-absent": d.PutIfAbsent(t.Context(), "c/b", nil),
		"delete":        d.Delete(t.Context(), "a/b"),
		"list":          d.List(t.Context(), "", "", func(Info) error { return nil }),
	} {
		if !errors.Is(err, ErrNoBucket) || errors.Is(err, ErrNotExist) {
			t.Errorf("%s without the directory: %v", what, err)
		}
	}
}

func TestRemovedSubdirectoryIsMadeAgain(t *testing.T) {
	path := t.TempDir()
	d := openTestDirectory(t, path)
	if err := d.Put(t.Context(), "a/b/c", nil); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(path, "a"))
	err := d.Put(t.Context(), "a/b/c", nil) // may fail, once
	if err != nil {
		err = d.Put(t.Context(), "a/b/c", nil)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestRefusedPermissions(t *testing.T) {
	for _, errno := range []error{syscall.EACCES, syscall.EPERM, syscall.EROFS} {
		if err := refusal(&os.PathError{Op: "open", Path: "x", Err: errno}); !errors.Is(err, ErrDenied) {
			t.Errorf("%v became %v", errno, err)
		}
	}
	for _, errno := range []error{syscall.ENOSPC, syscall.EIO, syscall.EMFILE, syscall.EDQUOT} {
		if err := refusal(errno); Refused(err) {
			t.Errorf("%v became %v", errno, err)
		}
	}
}

// syncs records which directories were synced, and can fail.
type syncs struct {
	mu   sync.Mutex
	dirs []string
	err  error
}

func (s *syncs) sync(f *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs = append(s.dirs, filepath.Base(f.Name()))
	return s.err
}

func (s *syncs) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs := strings.Join(s.dirs, " ")
	s.dirs = nil
	return dirs
}

func TestDirectoriesAreSyncedBeforeTheAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root")
	var s syncs
	open := func() *Directory {
		d := openTestDirectory(t, path)
		d.syncDir = s.sync
		return d
	}
	want := func(what, dirs string) {
		t.Helper()
		if got := s.take(); got != dirs {
			t.Errorf("%s synced %q, want %q", what, got, dirs)
		}
	}
	d := open()
	d.PutIfAbsent(t.Context(), "log/1/a", nil)
	want("the first put", "root log 1")
	d.PutIfAbsent(t.Context(), "log/1/b", nil)
	want("the second put", "1")
	d.PutIfAbsent(t.Context(), "log/1/b", nil)
	want("a put of what exists", "1")
	d.Put(t.Context(), "head", nil)
	want("a put at the top", "root")
	d.PutStream(t.Context(), "log/1/s", strings.NewReader("1"))
	want("a stream", "1")
	d.Delete(t.Context(), "log/1/b")
	want("a deletion", "1")
	d.cleaning.Wait() // a read of what was put just now may find its second link
	d.Get(t.Context(), "log/1/a", 1)
	want("a read", "")

	d = open()
	d.PutIfAbsent(t.Context(), "log/1/c", nil)
	want("a put into directories that another process has made", "root log 1")
	d.cleaning.Wait()

	// A writer died, or is slow, between link and sync.
	if err := os.Link(filepath.Join(path, "log/1/c"), filepath.Join(path, ".tmp/other")); err != nil {
		t.Fatal(err)
	}
	d.Get(t.Context(), "log/1/c", 1)
	want("a read of what may not be durable", "1")
	d.GetRange(t.Context(), "log/1/c", 0, 1)
	want("a read of what may not be durable", "1")
	d.List(t.Context(), "", "", func(Info) error { return nil })
	want("a listing of what may not be durable", "1")
}

func TestAFailedSyncEndsAllWriting(t *testing.T) {
	d := openTestDirectory(t, t.TempDir())
	if err := d.Put(t.Context(), "old", []byte("1")); err != nil {
		t.Fatal(err)
	}
	s := syncs{err: syscall.EROFS}
	d.syncDir = s.sync
	err := d.PutIfAbsent(t.Context(), "a", nil)
	if err == nil || Refused(err) || errors.Is(err, ErrExist) {
		t.Errorf("a put whose sync failed must be unknown: %v", err)
	}
	s.err = nil // the kernel tells once
	for what, err := range map[string]error{
		"put-if-absent": d.PutIfAbsent(t.Context(), "a", nil),
		"put":           d.Put(t.Context(), "b", nil),
		"put-stream":    d.PutStream(t.Context(), "b", strings.NewReader("1")),
		"delete":        d.Delete(t.Context(), "old"),
	} {
		if err == nil || Refused(err) || errors.Is(err, ErrExist) || !strings.Contains(err.Error(), "check it") {
			t.Errorf("%s after a failed sync: %v", what, err)
		}
	}
	if _, err := d.Get(t.Context(), "old", 1); err != nil {
		t.Errorf("reads go on: %v", err)
	}
}

func TestManyDirectoriesNeedFewHandles(t *testing.T) {
	d := openTestDirectory(t, t.TempDir())
	d.syncDir = func(*os.File) error { return nil }
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 150 {
				if err := d.Put(t.Context(), fmt.Sprintf("blob/%d/%d", i, g), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d.handles.mu.Lock()
	defer d.handles.mu.Unlock()
	if n := len(d.handles.mu.open); n > maxHandles {
		t.Errorf("%d handles are open", n)
	}
	for name, h := range d.handles.mu.open {
		if h.refs != 0 {
			t.Errorf("%s is held %d times", name, h.refs)
		}
	}
}

func BenchmarkDirectoryPutIfAbsent(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("size=%dk", size>>10), func(b *testing.B) {
			d := openTestDirectory(b, b.TempDir())
			o := Observe(d)
			data := make([]byte, size)
			b.SetBytes(int64(size))
			i := 0
			for b.Loop() {
				i++
				if err := o.PutIfAbsent(context.Background(), fmt.Sprintf("log/1/%016x", i), data); err != nil {
					b.Fatal(err)
				}
			}
			s := o.Snapshot().Kinds[KindPutIfAbsent]
			b.ReportMetric(float64(s.Latency.Quantile(0.5).Microseconds()), "p50-µs")
			b.ReportMetric(float64(s.Latency.Quantile(0.99).Microseconds()), "p99-µs")
		})
	}
}

// What the file system asks for the same durability, written as plainly as can be.
func BenchmarkDirectoryFloor(b *testing.B) {
	dir := b.TempDir()
	os.Mkdir(dir+"/t", 0o777)
	os.Mkdir(dir+"/log", 0o777)
	handle, err := os.Open(dir + "/log")
	if err != nil {
		b.Fatal(err)
	}
	defer handle.Close()
	data := make([]byte, 4<<10)
	i := 0
	for b.Loop() {
		i++
		f, err := os.Create(fmt.Sprintf("%s/t/%d", dir, i))
		if err != nil {
			b.Fatal(err)
		}
		f.Write(data)
		f.Sync()
		os.Link(f.Name(), fmt.Sprintf("%s/log/%d", dir, i))
		handle.Sync()
		f.Close()
	}
}

func BenchmarkDirectoryGet(b *testing.B) {
	d := openTestDirectory(b, b.TempDir())
	if err := d.Put(context.Background(), "log/1/a", make([]byte, 4<<10)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.Get(context.Background(), "log/1/a", 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
