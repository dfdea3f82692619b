package cache

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Range names bytes of an object of a bucket: Size of them from Offset on.
// Objects do not change, so what is cached never grows stale.
type Range struct {
	Name         string
	Offset, Size int64
}

// Disk keeps ranges of the objects of one database in a directory, each in a
// file of its own, up to a number of bytes on the disk. It is for any number
// of goroutines, but for one process at a time, which it makes sure of.
//
// Nothing in the directory is trusted: a file that is damaged, cut short, about
// another range or of another database is removed, and read anew from the
// bucket. Nothing is synced either. When a file cannot be written, because the
// disk is full or broken, no more are, and one warning says so; what is there
// is still used.
//
// In memory, a range takes some 140 bytes.
//
// A nil *Disk is a cache that holds nothing.
type Disk struct {
	dir      string
	database [16]byte
	limit    int64
	log      *slog.Logger
	lock     *os.File
	write    func(path string, parts ...[]byte) error // writeFile, but in tests

	mu struct {
		sync.Mutex
		flights map[fileID]*flight
		entries map[fileID]*list.Element
		recent  *list.List // of *entry, the one used last in front
		used    int64      // of all entries, and of files being written
		hits    uint64
		misses  uint64
		serial  uint64 // of temporary files
		off     bool   // no more files are written
	}
}

// A flight is a read that is under way.
type flight struct {
	done chan struct{} // closed when the rest stands
	data []byte
	err  error
}

type entry struct {
	id   fileID
	size int64 // on the disk
}

const (
	lockName   = "lock"
	tempSuffix = ".tmp"
	diskBlock  = 4096 // what a file takes is a multiple of this

	// The order in which files were used outlives a restart about so exactly: it
	// is in their modification times, and most reads shall not cost a write.
	usedAgain = time.Hour
)

// OpenDisk returns the cache in a directory, which it makes if need be, with
// what an earlier process has left there, as far as that fits into limit bytes.
// It looks at every file, which takes half a second for 100,000.
func OpenDisk(dir string, limit int64, database [16]byte, log *slog.Logger) (*Disk, error) {
	d := &Disk{dir: filepath.Clean(dir), database: database, limit: limit, log: log, write: writeFile}
	d.mu.flights = map[fileID]*flight{}
	d.mu.entries = map[fileID]*list.Element{}
	d.mu.recent = list.New()
	fail := func(err error) (*Disk, error) {
		return nil, fmt.Errorf("opening the disk cache in %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	var err error
	if d.lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return fail(err)
	}
	if err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		d.lock.Close()
		return fail(fmt.Errorf("another process uses it, give each its own directory: %w", err))
	}
	if err := d.scan(); err != nil {
		d.lock.Close()
		return fail(err)
	}
	return d, nil
}

// scan takes in what is there, the newest first, and removes what is too much
// and what was not finished. Files of other names are somebody else's.
func (d *Disk) scan() error {
	type found struct {
		entry
		used time.Time
	}
	var files []found
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == d.dir {
			return nil
		}
		if e.IsDir() {
			if len(e.Name()) != 2 || filepath.Dir(path) != d.dir {
				return fs.SkipDir
			}
			return nil
		}
		base, unfinished := strings.CutSuffix(e.Name(), tempSuffix)
		id, ok := parseFileID(base)
		if unfinished {
			id, ok = parseFileID(base[:min(len(base), 2*len(id))])
		}
		if !ok || filepath.Dir(path) != filepath.Dir(d.path(id)) {
			return nil
		}
		info, err := e.Info()
		if err != nil || unfinished || !info.Mode().IsRegular() {
			os.Remove(path)
			return nil //nolint:nilerr // it is gone, or should be
		}
		files = append(files, found{entry{id, onDisk(info.Size())}, info.ModTime()})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(files, func(a, b found) int { return b.used.Compare(a.used) })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range files {
		d.mu.entries[f.id] = d.mu.recent.PushBack(&f.entry)
		d.mu.used += f.size
	}
	for _, id := range d.evictLocked(0) {
		os.Remove(d.path(id)) // nobody else knows of the cache yet
	}
	return nil
}

// Close lets go of the directory. No method may be called after, nor be under
// way.
func (d *Disk) Close() error {
	if d == nil {
		return nil
	}
	return d.lock.Close()
}

// Stats returns the numbers of this moment.
func (d *Disk) Stats() Stats {
	if d == nil {
		return Stats{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return Stats{Hits: d.mu.hits, Misses: d.mu.misses, Bytes: d.mu.used, Limit: d.limit}
}

// Get returns a range from the cache, or has it read and keeps it. Of callers
// that miss the same range at the same time, one reads for all; when its
// context ends, another does. Nobody may change the bytes.
func (d *Disk) Get(ctx context.Context, r Range, read func(context.Context) ([]byte, error)) ([]byte, error) {
	if d == nil {
		return read(ctx)
	}
	id := idOf(r)
	for {
		d.mu.Lock()
		f, others := d.mu.flights[id]
		if !others {
			f = &flight{done: make(chan struct{})}
			d.mu.flights[id] = f
		}
		d.mu.Unlock()
		if !others {
			f.data, f.err = d.fly(ctx, id, r, read)
			d.mu.Lock()
			delete(d.mu.flights, id)
			d.mu.Unlock()
			close(f.done)
			return f.data, f.err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.done:
		}
		if !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) {
			return f.data, f.err
		}
	}
}

func (d *Disk) fly(ctx context.Context, id fileID, r Range, read func(context.Context) ([]byte, error)) ([]byte, error) {
	data, ok := d.load(id, r)
	d.mu.Lock()
	if ok {
		d.mu.hits++
	} else {
		d.mu.misses++
	}
	d.mu.Unlock()
	if ok {
		return data, nil
	}
	data, err := read(ctx)
	if err == nil && int64(len(data)) == r.Size {
		d.store(id, r, data)
	}
	return data, err
}

// load reads a file, and removes it if it is not what it should be.
func (d *Disk) load(id fileID, r Range) ([]byte, bool) {
	d.mu.Lock()
	e, ok := d.mu.entries[id]
	if ok {
		d.mu.recent.MoveToFront(e)
	}
	d.mu.Unlock()
	if !ok {
		return nil, false
	}
	path := d.path(id)
	data, used, err := readFile(path, d.header(r), r)
	if err != nil {
		d.Drop(r)
		return nil, false
	}
	if now := time.Now(); now.Sub(used) > usedAgain {
		_ = os.Chtimes(path, now, now)
	}
	return data, true
}

// store writes a file, once there is room for it.
func (d *Disk) store(id fileID, r Range, data []byte) {
	header := d.header(r)
	sum := checksum(header, data)
	size := onDisk(int64(len(header) + len(sum) + len(data)))
	d.mu.Lock()
	if d.mu.off || size > d.limit {
		d.mu.Unlock()
		return
	}
	old := d.evictLocked(size)
	d.mu.used += size
	d.mu.serial++
	temp := fmt.Sprintf("%s-%d%s", d.path(id), d.mu.serial, tempSuffix)
	d.mu.Unlock()

	for _, id := range old {
		os.Remove(d.path(id))
	}
	err := d.write(temp, header, sum, data)
	if err == nil {
		err = os.Rename(temp, d.path(id))
	}
	if err != nil {
		os.Remove(temp)
	}

	d.mu.Lock()
	warn := err != nil && !d.mu.off
	if err != nil {
		d.mu.used -= size
		d.mu.off = true
	} else {
		d.forgetLocked(id) // the file that this one replaced
		d.mu.entries[id] = d.mu.recent.PushFront(&entry{id, size})
	}
	d.mu.Unlock()
	if warn {
		d.log.Warn("The disk cache takes no more until the next start; what it has is still used. Make room or see to the directory's owner and permissions.",
			"directory", d.dir, "error", err)
	}
}

// Drop removes a range, if it is there.
func (d *Disk) Drop(r Range) {
	if d == nil {
		return
	}
	id := idOf(r)
	d.mu.Lock()
	d.forgetLocked(id)
	d.mu.Unlock()
	os.Remove(d.path(id))
}

// evictLocked forgets the entries used least recently until there is room for
// size bytes more. The caller removes their files.
func (d *Disk) evictLocked(size int64) (ids []fileID) {
	for d.mu.used+size > d.limit && d.mu.recent.Len() > 0 {
		e := d.mu.recent.Back().Value.(*entry)
		d.forgetLocked(e.id)
		ids = append(ids, e.id)
	}
	return ids
}

func (d *Disk) forgetLocked(id fileID) {
	if e, ok := d.mu.entries[id]; ok {
		d.mu.used -= e.Value.(*entry).size
		d.mu.recent.Remove(e)
		delete(d.mu.entries, id)
	}
}

// A fileID names the file of a range.
type fileID [16]byte

func idOf(r Range) fileID {
	sum := sha256.Sum256(appendRange(nil, r))
	return fileID(sum[:16])
}

func parseFileID(s string) (id fileID, ok bool) {
	if len(s) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err == nil && s == hex.EncodeToString(id[:])
}

func (d *Disk) path(id fileID) string {
	name := hex.EncodeToString(id[:])
	return filepath.Join(d.dir, name[:2], name)
}

func appendRange(b []byte, r Range) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Size))
	return append(b, r.Name...)
}

func onDisk(size int64) int64 { return (size + diskBlock - 1) / diskBlock * diskBlock }
