package bucket

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
)

// handles keeps directories open, so that syncing one needs no open(2), and no
// put needs a mkdir(2) or a look at whether its directory is there.
//
// A directory that is in here has a durable name: when it is opened for the
// first time, the one above it is synced, whether this process has made it or
// another one just did.
type handles struct {
	root string
	sync func(*os.File) error
	mu   struct {
		sync.Mutex
		open map[string]*handle // by slash-separated path below root, "." for root
	}
}

type handle struct {
	f    *os.File
	refs int  // guarded by handles.mu
	dead bool // no longer in the map: whoever releases it last closes it
}

const maxHandles = 128

func newHandles(root string, sync func(*os.File) error) *handles {
	h := &handles{root: root, sync: sync}
	h.mu.open = map[string]*handle{}
	return h
}

// acquire returns an open directory, which the caller must release. It is made
// if it is missing and create is set.
func (h *handles) acquire(dir string, create bool) (*handle, error) {
	if d := h.cached(dir); d != nil {
		return d, nil
	}
	full := h.root
	if dir != "." {
		parent, err := h.acquire(path.Dir(dir), create)
		if err != nil {
			return nil, err
		}
		defer h.release(parent)
		full += "/" + dir
		if create {
			if err := os.Mkdir(full, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		}
		if err := h.sync(parent.f); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(full, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return h.add(dir, f), nil
}

func (h *handles) cached(dir string) *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.mu.open[dir]
	if d != nil {
		d.refs++
	}
	return d
}

func (h *handles) add(dir string, f *os.File) *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.mu.open[dir]; d != nil { // somebody else was faster
		f.Close()
		d.refs++
		return d
	}
	for name, d := range h.mu.open {
		if len(h.mu.open) < maxHandles {
			break
		}
		if d.refs == 0 {
			h.dropLocked(name, d)
		}
	}
	d := &handle{f: f, refs: 1}
	h.mu.open[dir] = d
	return d
}

func (h *handles) release(d *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.refs--
	if d.refs == 0 && d.dead {
		d.f.Close()
	}
}

func (h *handles) dropLocked(name string, d *handle) {
	delete(h.mu.open, name)
	d.dead = true
	if d.refs == 0 {
		d.f.Close()
	}
}

// forget drops all handles: the next puts open their directories again.
func (h *handles) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, d := range h.mu.open {
		h.dropLocked(name, d)
	}
}

func (h *handles) close() { h.forget() }
