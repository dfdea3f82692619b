package engine

import (
	"context"
	"slices"
	"sync"

	"s3storage/internal/zodb"
)

// A lockTable holds the locks of transactions between vote and finish.
//
// A request gets all its locks at once or none: while it waits it holds
// nothing, so that there is no deadlock, and a client that went to sleep after
// its vote holds up only those that want the same objects. Among requests that
// wait for one object, the one that came first is looked at first.
type lockTable struct {
	mu struct {
		sync.Mutex
		held    map[zodb.Oid]int // exclusive, or else the number of those who share it
		waiting map[zodb.Oid][]*lockRequest
		waiters int64
	}
}

const exclusive = -1

// A lockRequest names the objects that a transaction writes and those that it
// relies upon. No oid is in both.
type lockRequest struct {
	write, check []zodb.Oid
	granted      chan struct{}
}

func newLockTable() *lockTable {
	t := &lockTable{}
	t.mu.held = make(map[zodb.Oid]int)
	t.mu.waiting = make(map[zodb.Oid][]*lockRequest)
	return t
}

// waiters returns how many requests wait.
func (t *lockTable) waiters() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.waiters
}

// acquire waits until it holds all locks of r. On error it holds none.
func (t *lockTable) acquire(ctx context.Context, r *lockRequest) error {
	t.mu.Lock()
	if t.tryLocked(r) {
		t.mu.Unlock()
		return nil
	}
	r.granted = make(chan struct{})
	r.each(func(oid zodb.Oid) { t.mu.waiting[oid] = append(t.mu.waiting[oid], r) })
	t.mu.waiters++
	t.mu.Unlock()
	select {
	case <-r.granted:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	select {
	case <-r.granted:
		t.mu.Unlock()
		t.release(r)
	default:
		t.forgetLocked(r)
		t.mu.Unlock()
	}
	return context.Cause(ctx)
}

// release lets go of the locks of r, and hands them on.
func (t *lockTable) release(r *lockRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.each(func(oid zodb.Oid) {
		if n := t.mu.held[oid]; n > 1 {
			t.mu.held[oid] = n - 1
		} else {
			delete(t.mu.held, oid)
		}
	})
	r.each(func(oid zodb.Oid) {
		for _, w := range slices.Clone(t.mu.waiting[oid]) {
			if t.tryLocked(w) {
				t.forgetLocked(w)
				close(w.granted)
			}
		}
	})
}

// tryLocked takes all locks of r if all can be had.
func (t *lockTable) tryLocked(r *lockRequest) bool {
	for _, oid := range r.write {
		if t.mu.held[oid] != 0 {
			return false
		}
	}
	for _, oid := range r.check {
		if t.mu.held[oid] == exclusive {
			return false
		}
	}
	for _, oid := range r.write {
		t.mu.held[oid] = exclusive
	}
	for _, oid := range r.check {
		t.mu.held[oid]++
	}
	return true
}

// forgetLocked takes r off the lists of those who wait.
func (t *lockTable) forgetLocked(r *lockRequest) {
	r.each(func(oid zodb.Oid) {
		rest := slices.DeleteFunc(t.mu.waiting[oid], func(w *lockRequest) bool { return w == r })
		if len(rest) == 0 {
			delete(t.mu.waiting, oid)
		} else {
			t.mu.waiting[oid] = rest
		}
	})
	t.mu.waiters--
}

func (r *lockRequest) each(f func(zodb.Oid)) {
	for _, oid := range r.write {
		f(oid)
	}
	for _, oid := range r.check {
		f(oid)
	}
}
