package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var database = [16]byte{1, 2, 3}

func openDisk(t *testing.T, dir string, limit int64, database [16]byte) *Disk {
	t.Helper()
	d, err := OpenDisk(dir, limit, database, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// bytesOf returns the bytes that a range has in these tests.
func bytesOf(r Range) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%s %d,", r.Name, r.Offset)), int(r.Size))[:r.Size]
}

// get gets a range, and reports whether it came from the disk.
func get(t *testing.T, d *Disk, r Range) (hit bool) {
	t.Helper()
	hit = true
	data, err := d.Get(t.Context(), r, func(context.Context) ([]byte, error) {
		hit = false
		return bytesOf(r), nil
	})
	if err != nil || !bytes.Equal(data, bytesOf(r)) {
		t.Fatalf("%v: %.20q, %v", r, data, err)
	}
	return hit
}

// files returns the paths of the files in the cache.
func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != lockName {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestDiskKeepsWhatWasReadAlsoOverARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	ranges := []Range{{"blob/a", 0, 1000}, {"blob/a", 1000, 1000}, {"blob/b", 0, 1000}, {"blob/a", 0, 999}, {"blob/c", 1 << 40, 0}}
	for i := range 3 {
		d := openDisk(t, dir, 1<<20, database)
		for _, r := range ranges {
			if get(t, d, r) != (i > 0) {
				t.Errorf("life %d: %v: from the disk: %v", i, r, i == 0)
			}
			if !get(t, d, r) {
				t.Errorf("life %d: %v was read twice", i, r)
			}
		}
		d.Close()
	}
}

func TestStatsOfDiskTellWhatWasThereAndWhatHadToBeRead(t *testing.T) {
	d := openDisk(t, t.TempDir(), 1<<20, database)
	for range 3 {
		get(t, d, Range{"a", 0, 10})
		get(t, d, Range{"a", 10, 5000})
	}
	if s, want := d.Stats(), (Stats{Hits: 4, Misses: 2, Bytes: 3 * diskBlock, Limit: 1 << 20}); s != want {
		t.Errorf("%+v, not %+v", s, want)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	d = nil
	if s := d.Stats(); s != (Stats{}) {
		t.Errorf("without a disk: %+v", s)
	}
}

func TestDiskKeepsToItsLimit(t *testing.T) {
	dir := t.TempDir()
	const limit = 40 * diskBlock
	check := func(limit int) {
		t.Helper()
		total := 0
		for _, path := range files(t, dir) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			total += int(onDisk(info.Size()))
		}
		if total > limit || total < limit/2 {
			t.Errorf("%d bytes of %d are used", total, limit)
		}
	}
	d := openDisk(t, dir, limit, database)
	for i := range int64(200) {
		get(t, d, Range{"a", i, 5000}) // two blocks
		if i%7 == 0 && i > 20 {
			check(limit)
		}
	}
	get(t, d, Range{"large", 0, limit})
	check(limit)
	d.Close()
	d = openDisk(t, dir, limit/2, database)
	check(limit / 2)
	for i := range int64(100) {
		get(t, d, Range{"b", i, 3000})
	}
	check(limit / 2)
	d.Close()
}

func TestDiskEvictsWhatWasNotUsedForLongest(t *testing.T) {
	dir := t.TempDir()
	const limit = 10 * diskBlock
	piece := func(i int) Range { return Range{"a", int64(i), 100} }
	d := openDisk(t, dir, limit, database)
	for i := range 10 {
		get(t, d, piece(i))
	}
	for i := range 5 {
		get(t, d, piece(i))
	}
	for i := range 5 {
		get(t, d, piece(100+i))
	}
	for i := range 5 {
		if !get(t, d, piece(i)) {
			t.Errorf("%d was used lately, and is gone", i)
		}
	}
	d.Close()
	// The order outlives the process.
	for i := range 5 {
		when := time.Now().Add(-time.Hour)
		path := d.path(idOf(piece(i)))
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	d = openDisk(t, dir, limit/2, database)
	defer d.Close()
	for i := range 5 {
		if !get(t, d, piece(100+i)) {
			t.Errorf("%d was used lately, and is gone", 100+i)
		}
	}
}

func TestReadWritesToTheDiskAtMostOnceAnHour(t *testing.T) {
	d := openDisk(t, t.TempDir(), 1<<20, database)
	defer d.Close()
	r := Range{"a", 0, 100}
	get(t, d, r)
	path := d.path(idOf(r))
	for _, test := range []struct {
		age     time.Duration
		touched bool
	}{{usedAgain / 2, false}, {2 * usedAgain, true}} {
		was := time.Now().Add(-test.age)
		if err := os.Chtimes(path, was, was); err != nil {
			t.Fatal(err)
		}
		if !get(t, d, r) {
			t.Error("not from the disk")
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if touched := info.ModTime().Sub(was) > usedAgain/4; touched != test.touched {
			t.Errorf("used %s ago: marked anew: %v", test.age, touched)
		}
	}
}

func TestDamagedFilesAreReadAnew(t *testing.T) {
	dir := t.TempDir()
	r := Range{"blob/a", 7, 50}
	d := openDisk(t, dir, 1<<20, database)
	defer d.Close()
	get(t, d, r)
	path := d.path(idOf(r))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, damaged []byte) {
		t.Helper()
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if get(t, d, r) {
			t.Errorf("%s was not noticed", what)
		}
		if !get(t, d, r) {
			t.Errorf("%s was not mended", what)
		}
	}
	for i := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			try(fmt.Sprintf("a flipped bit %d of byte %d", bit, i), damaged)
		}
		try(fmt.Sprintf("a file of %d bytes", i), whole[:i])
	}
	try("a longer file", append(bytes.Clone(whole), 0))
	os.Remove(path)
	if get(t, d, r) || !get(t, d, r) {
		t.Error("a missing file")
	}
}

func TestFilesOfAnotherDatabaseOrRangeAreNotTrusted(t *testing.T) {
	dir := t.TempDir()
	r, other := Range{"blob/a", 7, 50}, Range{"blob/a", 8, 50}
	d := openDisk(t, dir, 1<<20, [16]byte{9})
	get(t, d, r)
	get(t, d, other)
	d.Close()
	d = openDisk(t, dir, 1<<20, database)
	defer d.Close()
	if get(t, d, r) || !get(t, d, r) {
		t.Error("a file of another database was used")
	}
	get(t, d, other)
	if err := os.Rename(d.path(idOf(other)), d.path(idOf(r))); err != nil {
		t.Fatal(err)
	}
	if get(t, d, r) {
		t.Error("a file of another range was used")
	}
}

func TestDiskLeavesForeignFilesAloneAndRemovesUnfinishedOnes(t *testing.T) {
	dir := t.TempDir()
	id := strings.Repeat("ab", 16)
	foreign := []string{"README", "ab/notes", "ab/note.tmp", "photos/2024/x.jpg", "cd/" + id}
	for _, name := range append(foreign, "ab/"+id+"-7.tmp") {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, make([]byte, 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := openDisk(t, dir, 10*diskBlock, database)
	for i := range int64(30) {
		get(t, d, Range{"a", i, 100})
	}
	d.Close()
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ab", id+"-7.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unfinished file: %v", err)
	}
}

func TestDirectoryThatCannotBeUsedIsRefused(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, 1<<20, database)
	defer d.Close()
	if _, err := OpenDisk(dir, 1<<20, database, slog.Default()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a directory in use: %v", err)
	}
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	for _, path := range []string{file, filepath.Join(file, "below"), "/proc/none"} {
		if _, err := OpenDisk(path, 1<<20, database, slog.Default()); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A full disk costs the cache, with one warning, and no read.
func TestFullDiskIsToldOnce(t *testing.T) {
	var log bytes.Buffer
	check := func(t *testing.T, d *Disk, kept Range) {
		log.Reset()
		d.log = slog.New(slog.NewTextHandler(&log, nil))
		for i := range int64(20) {
			r := Range{"blob/more", i, 100_000}
			if get(t, d, r) || get(t, d, r) && i > 10 {
				t.Errorf("%d is kept where there is no room", i)
			}
		}
		if !get(t, d, kept) {
			t.Error("what was there before is no longer used")
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "no space left") {
			t.Errorf("log:\n%s", log.String())
		}
		for _, path := range files(t, d.dir) {
			if strings.HasSuffix(path, tempSuffix) {
				t.Errorf("%s is left", path)
			}
		}
	}
	t.Run("faked", func(t *testing.T) {
		d := openDisk(t, t.TempDir(), 1<<30, database)
		defer d.Close()
		get(t, d, Range{"kept", 0, 100})
		d.write = func(path string, parts ...[]byte) error {
			writeFile(path, parts[0])
			return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
		}
		check(t, d, Range{"kept", 0, 100})
	})
	t.Run("real", func(t *testing.T) {
		d := openDisk(t, smallDisk(t, 1<<20), 1<<30, database)
		defer d.Close()
		get(t, d, Range{"kept", 0, 100})
		check(t, d, Range{"kept", 0, 100})
	})
}

func TestManyReadersOfAColdRangeMakeOneRead(t *testing.T) {
	d := openDisk(t, t.TempDir(), 1<<20, database)
	defer d.Close()
	r := Range{"blob/a", 0, 1000}
	var reads atomic.Int32
	started, release := make(chan struct{}), make(chan struct{})
	read := func(context.Context) ([]byte, error) {
		if reads.Add(1) == 1 {
			close(started)
		}
		<-release
		return bytesOf(r), nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { d.Get(context.Background(), r, read) })
	<-started
	for range 20 {
		wg.Go(func() {
			if data, err := d.Get(context.Background(), r, read); err != nil || !bytes.Equal(data, bytesOf(r)) {
				t.Errorf("%.20q, %v", data, err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Get(ctx, r, read); !errors.Is(err, context.Canceled) {
		t.Errorf("one that does not want to wait: %v", err)
	}
	close(release)
	wg.Wait()
	if reads.Load() != 1 {
		t.Errorf("%d reads", reads.Load())
	}
}

func TestReaderThatGoesAwayLeavesTheReadToAnother(t *testing.T) {
	d := openDisk(t, t.TempDir(), 1<<20, database)
	defer d.Close()
	r := Range{"blob/a", 0, 1000}
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := d.Get(ctx, r, func(ctx context.Context) ([]byte, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the one that goes away: %v", err)
		}
	})
	<-started
	wg.Go(func() { get(t, d, r) })
	cancel()
	wg.Wait()
	broken := errors.New("broken")
	if _, err := d.Get(t.Context(), Range{"x", 0, 1}, func(context.Context) ([]byte, error) { return nil, broken }); err != broken {
		t.Errorf("error %v", err)
	}
	if get(t, d, Range{"x", 0, 1}) {
		t.Error("a failed read was remembered")
	}
}

func TestNoDiskIsACacheThatHoldsNothing(t *testing.T) {
	var d *Disk
	for range 2 {
		if get(t, d, Range{"a", 0, 10}) {
			t.Error("it held something")
		}
	}
	d.Drop(Range{"a", 0, 10})
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestDiskForManyGoroutines(t *testing.T) {
	d := openDisk(t, t.TempDir(), 20*diskBlock, database)
	defer d.Close()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				r := Range{"a", int64((i*7 + g) % 40), 100}
				get(t, d, r)
				if i%50 == 0 {
					d.Drop(r)
				}
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.used != int64(len(d.mu.entries))*diskBlock || d.mu.used > d.limit || d.mu.recent.Len() != len(d.mu.entries) {
		t.Errorf("%d bytes for %d entries, %d in order", d.mu.used, len(d.mu.entries), d.mu.recent.Len())
	}
}

// What it costs to open a directory of many files, and to know of each.
func BenchmarkOpenDisk(b *testing.B) {
	const n = 20_000
	dir := b.TempDir()
	open := func() *Disk {
		d, err := OpenDisk(dir, 1<<40, database, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
	d := open()
	for i := range int64(n) {
		r := Range{"segment/0123456789abcdef0123456789abcdef", i * 20_000, 100}
		d.store(idOf(r), r, bytesOf(r))
	}
	d.Close()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	d = open()
	each := float64(heap()-before) / n
	d.Close()
	for b.Loop() {
		open().Close()
	}
	b.ReportMetric(each, "bytes/file")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/file")
}
