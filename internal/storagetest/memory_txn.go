package storagetest

import (
	"context"
	"errors"
	"fmt"

	"s3storage/internal/zodb"
)

var errAborted = errors.New("the transaction was aborted")

// memoryTxn is a transaction of a Memory. The fields under voted are guarded by
// the storage's mutex.
type memoryTxn struct {
	m      *Memory
	meta   zodb.TxnMeta
	origin zodb.Observer

	writes []write
	stores map[zodb.Oid]int // index in writes
	checks map[zodb.Oid]zodb.Tid

	voted, done bool          // done: committed or aborted
	ended       chan struct{} // closed when done
}

type write struct {
	oid    zodb.Oid
	serial zodb.Tid
	data   []byte
}

func (t *memoryTxn) Store(oid zodb.Oid, serial zodb.Tid, data []byte) error {
	if oid > zodb.MaxOid {
		return fmt.Errorf("oid %s is out of range", oid)
	}
	t.m.mu.Lock()
	t.m.mu.stats.Stores++
	t.m.mu.Unlock()
	w := write{oid, serial, data}
	if i, ok := t.stores[oid]; ok {
		t.writes[i] = w
		return nil
	}
	t.stores[oid] = len(t.writes)
	t.writes = append(t.writes, w)
	return nil
}

func (t *memoryTxn) CheckCurrent(oid zodb.Oid, serial zodb.Tid) error {
	t.checks[oid] = serial
	return nil
}

func (t *memoryTxn) Vote(ctx context.Context) (b zodb.Ballot, err error) {
	m := t.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if t.done {
			return b, errAborted
		}
		if err := ctx.Err(); err != nil {
			return b, err
		}
		if t.lockLocked() {
			break
		}
		released := m.mu.released
		m.mu.stats.Waiting++
		m.mu.Unlock()
		select {
		case <-released:
		case <-t.ended:
		case <-ctx.Done():
		}
		m.mu.Lock()
		m.mu.stats.Waiting--
	}
	b.Conflicts, err = t.judgeLocked()
	if err != nil || len(b.Conflicts) > 0 {
		m.mu.stats.Conflicts++
		t.unlockLocked()
		return b, err
	}
	t.voted = true
	return b, nil
}

// lockLocked takes all locks of the transaction, or none.
func (t *memoryTxn) lockLocked() bool {
	mu := &t.m.mu
	for oid := range t.stores {
		if mu.writers[oid] != nil || len(mu.readers[oid]) > 0 {
			return false
		}
	}
	for oid := range t.checks {
		if mu.writers[oid] != nil {
			return false
		}
	}
	for oid := range t.stores {
		mu.writers[oid] = t
	}
	for oid := range t.checks {
		if mu.readers[oid] == nil {
			mu.readers[oid] = map[*memoryTxn]struct{}{}
		}
		mu.readers[oid][t] = struct{}{}
	}
	return true
}

func (t *memoryTxn) unlockLocked() {
	mu := &t.m.mu
	for oid := range t.stores {
		if mu.writers[oid] == t {
			delete(mu.writers, oid)
		}
	}
	for oid := range t.checks {
		delete(mu.readers[oid], t)
		if len(mu.readers[oid]) == 0 {
			delete(mu.readers, oid)
		}
	}
	close(mu.released)
	mu.released = make(chan struct{})
}

func (t *memoryTxn) judgeLocked() ([]zodb.Conflict, error) {
	for oid, serial := range t.checks {
		if committed := t.m.currentLocked(oid); committed != serial {
			return nil, &zodb.ReadConflictError{Oid: oid, Committed: committed, Read: serial}
		}
	}
	var conflicts []zodb.Conflict
	for _, w := range t.writes {
		if committed := t.m.currentLocked(w.oid); committed != w.serial {
			conflicts = append(conflicts, zodb.Conflict{Oid: w.oid, Committed: committed, Read: w.serial, Data: w.data})
		}
	}
	return conflicts, nil
}

func (t *memoryTxn) Finish(done func(*zodb.Commit, error)) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if !t.voted || t.done {
		done(nil, &zodb.TransactionError{Reason: "finish without a vote"})
		return
	}
	t.endLocked()
	c := t.m.commitLocked(t)
	done(&c.Commit, nil)
	t.unlockLocked()
}

func (t *memoryTxn) Abort() {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if t.done {
		return
	}
	t.endLocked()
	t.m.mu.stats.Aborts++
	t.unlockLocked()
}

func (t *memoryTxn) endLocked() {
	t.done = true
	t.m.mu.stats.ActiveTxns--
	close(t.ended)
}
