package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"s3storage/internal/zodb"
)

var errAborted = errors.New("the transaction was aborted")

// memoryTxn is a transaction of a Memory. The fields from records on are
// guarded by the storage's mutex.
type memoryTxn struct {
	m      *Memory
	meta   zodb.TxnMeta
	tid    zodb.Tid // given to Begin
	origin zodb.Observer

	steps  []step
	last   map[zodb.Oid]int // the last step that names the object
	checks map[zodb.Oid]zodb.Tid

	// unmerged are the objects on which undo met a conflict. The value is
	// true when the caller has stored what both states merge to.
	unmerged map[zodb.Oid]bool

	records     []*record     // what the vote made of the steps
	voted, done bool          // done: committed or aborted
	ended       chan struct{} // closed when done
}

// A step is one call that changes something.
type step struct {
	kind stepKind
	oid  zodb.Oid
	tid  zodb.Tid // the serial, the transaction to undo, or the source
	data []byte
	blob *memoryBlob
}

type stepKind int

const (
	stepStore stepKind = iota
	stepDelete
	stepUndo
	stepRestore
)

func (t *memoryTxn) Store(oid zodb.Oid, serial zodb.Tid, data []byte) error {
	return t.store(oid, serial, data, nil)
}

func (t *memoryTxn) StoreBlob(oid zodb.Oid, serial zodb.Tid, data []byte, blob zodb.BlobUpload) error {
	b := blob.(*memoryBlob)
	b.stored = true
	return t.store(oid, serial, data, b)
}

func (t *memoryTxn) store(oid zodb.Oid, serial zodb.Tid, data []byte, blob *memoryBlob) error {
	s := step{stepStore, oid, serial, notNil(data), blob}
	if _, merges := t.unmerged[oid]; merges {
		t.unmerged[oid] = true
	}
	if i, again := t.last[oid]; again && t.steps[i].kind == stepStore {
		if blob == nil {
			s.blob = t.steps[i].blob
		}
		t.steps[i] = s
		t.count()
		return nil
	}
	return t.add(s)
}

func notNil(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

func (t *memoryTxn) Delete(oid zodb.Oid, serial zodb.Tid) error {
	return t.add(step{kind: stepDelete, oid: oid, tid: serial})
}

func (t *memoryTxn) Undo(undone zodb.Tid) error {
	t.steps = append(t.steps, step{kind: stepUndo, tid: undone})
	return nil
}

func (t *memoryTxn) Restore(oid zodb.Oid, data []byte, source zodb.Tid) error {
	if t.tid == zodb.NoTid {
		return &zodb.TransactionError{Reason: "restore in a transaction that was begun without a tid"}
	}
	return t.add(step{kind: stepRestore, oid: oid, tid: source, data: data})
}

func (t *memoryTxn) add(s step) error {
	if s.oid > zodb.MaxOid {
		return fmt.Errorf("oid %s is out of range", s.oid)
	}
	t.last[s.oid] = len(t.steps)
	t.steps = append(t.steps, s)
	t.count()
	return nil
}

func (t *memoryTxn) count() {
	t.m.mu.Lock()
	t.m.mu.stats.Stores++
	t.m.mu.Unlock()
}

func (t *memoryTxn) CheckCurrent(oid zodb.Oid, serial zodb.Tid) error {
	t.checks[oid] = serial
	return nil
}

func (t *memoryTxn) Vote(ctx context.Context) (zodb.Ballot, error) {
	m := t.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if t.done {
			return zodb.Ballot{}, errAborted
		}
		if err := ctx.Err(); err != nil {
			return zodb.Ballot{}, err
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
	ballot, records, err := t.judgeLocked()
	if err != nil || len(ballot.Conflicts) > 0 {
		m.mu.stats.Conflicts++
		for _, c := range ballot.Conflicts {
			if i, stored := t.last[c.Oid]; !stored || t.steps[i].kind != stepStore {
				t.unmerged[c.Oid] = false
			}
		}
		t.unlockLocked()
		return ballot, err
	}
	t.records, t.voted = records, true
	return ballot, nil
}

// lockLocked takes all locks of the transaction, or none. A transaction with a
// given tid is the only one between vote and finish, or another might get a
// later tid before it.
func (t *memoryTxn) lockLocked() bool {
	mu := &t.m.mu
	for other := range mu.voted {
		if t.tid != zodb.NoTid || other.tid != zodb.NoTid {
			return false
		}
	}
	writes := t.writesLocked()
	for oid := range writes {
		if mu.writers[oid] != nil || len(mu.readers[oid]) > 0 {
			return false
		}
	}
	for oid := range t.checks {
		if mu.writers[oid] != nil {
			return false
		}
	}
	for oid := range writes {
		mu.writers[oid] = t
	}
	for oid := range t.checks {
		if mu.readers[oid] == nil {
			mu.readers[oid] = map[*memoryTxn]struct{}{}
		}
		mu.readers[oid][t] = struct{}{}
	}
	mu.voted[t] = struct{}{}
	return true
}

// writesLocked returns the objects that the transaction may change.
func (t *memoryTxn) writesLocked() map[zodb.Oid]struct{} {
	oids := map[zodb.Oid]struct{}{}
	for _, s := range t.steps {
		if s.kind != stepUndo {
			oids[s.oid] = struct{}{}
		} else if undone := t.m.txnLocked(s.tid); undone != nil {
			for _, r := range undone.records {
				oids[r.oid] = struct{}{}
			}
		}
	}
	return oids
}

func (t *memoryTxn) unlockLocked() {
	mu := &t.m.mu
	for oid, owner := range mu.writers {
		if owner == t {
			delete(mu.writers, oid)
		}
	}
	for oid := range t.checks {
		delete(mu.readers[oid], t)
		if len(mu.readers[oid]) == 0 {
			delete(mu.readers, oid)
		}
	}
	delete(mu.voted, t)
	close(mu.released)
	mu.released = make(chan struct{})
}

// judgeLocked takes the steps in their order, and returns what they come to.
func (t *memoryTxn) judgeLocked() (ballot zodb.Ballot, records []*record, err error) {
	m := t.m
	if t.tid != zodb.NoTid && t.tid <= m.mu.last {
		return ballot, nil, &zodb.TransactionError{Reason: fmt.Sprintf("the given tid %s is not above the last, %s", t.tid, m.mu.last)}
	}
	for oid, serial := range t.checks {
		cur := m.currentLocked(oid)
		switch {
		case cur == nil || cur.data == nil:
			return ballot, nil, &zodb.POSKeyError{Oid: oid}
		case cur.tid != serial:
			return ballot, nil, &zodb.ReadConflictError{Oid: oid, Committed: cur.tid, Read: serial}
		}
	}
	p := &plan{m: m, byOid: map[zodb.Oid]*planned{}}
	for _, s := range t.steps {
		switch s.kind {
		case stepStore:
			w := p.write(&record{oid: s.oid, data: s.data, blob: s.blob})
			if cur := m.currentLocked(s.oid); cur != nil && cur.tid != s.tid {
				w.conflict = &zodb.Conflict{Oid: s.oid, Committed: cur.tid, Read: s.tid, Data: s.data}
			}
		case stepDelete:
			cur := m.currentLocked(s.oid)
			switch {
			case cur == nil:
				return ballot, nil, &zodb.POSKeyError{Oid: s.oid}
			case cur.tid != s.tid:
				return ballot, nil, &zodb.ConflictError{Oid: s.oid, Committed: cur.tid, Read: s.tid}
			}
			p.write(&record{oid: s.oid})
		case stepUndo:
			if err := p.undo(s.tid, t.unmerged); err != nil {
				return ballot, nil, err
			}
		case stepRestore:
			r := &record{oid: s.oid, data: s.data}
			src := m.revisionLocked(s.oid, s.tid)
			if src != nil && bytes.Equal(src.data, s.data) && (src.data == nil) == (s.data == nil) {
				r.share = s.tid
			}
			p.write(r)
		}
	}
	for _, w := range p.order {
		switch {
		case w.conflict != nil:
			ballot.Conflicts = append(ballot.Conflicts, *w.conflict)
		case w.undo:
			ballot.Undone = append(ballot.Undone, w.rec.oid)
		}
		records = append(records, w.rec)
	}
	if len(ballot.Conflicts) > 0 {
		return zodb.Ballot{Conflicts: ballot.Conflicts}, nil, nil
	}
	return ballot, records, nil
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
	done(c, nil)
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
