package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// A client is one of ZEO: it keeps a cache, which it empties when it connects anew, and
// looks at the database as it was after the last transaction that it was told of.
type client struct {
	w     *world
	name  string
	rng   *rand.Rand // of this client alone, which does one thing at a time
	at    *host
	zeo   *zeo.Client
	begun int // transactions

	mu struct {
		sync.Mutex
		generation  int // of the connection
		cache       map[zodb.Oid]zodb.Revision
		invalidated map[zodb.Oid]zodb.Tid
		last        zodb.Tid
	}
}

// txnID names a transaction to the server: a connection has one at a time.
const txnID = 1

// connected connects the client to a node, if it is not.
func (c *client) connected() bool {
	if c.zeo != nil && c.zeo.Err() == nil {
		return true
	}
	c.leave()
	if c.rng.IntN(3) == 0 {
		c.at = c.w.hosts[c.rng.IntN(len(c.w.hosts))]
	}
	c.mu.Lock()
	c.mu.generation++
	generation := c.mu.generation
	c.mu.cache, c.mu.invalidated, c.mu.last = map[zodb.Oid]zodb.Revision{}, map[zodb.Oid]zodb.Tid{}, 0
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	r := c.w.history.registers(c)
	conn, err := connect(ctx, c.w.net, c.name, nil, c.at.name, zeo.ClientOptions{
		OnInvalidate: func(tid zodb.Tid, oids []zodb.Oid) { c.invalidate(generation, tid, oids) },
	})
	if err != nil {
		c.w.history.failed(c, "register", err)
		return false
	}
	// It may be told of transactions already.
	tid := conn.LastTid()
	c.zeo = conn
	c.mu.Lock()
	c.mu.last = max(c.mu.last, tid)
	c.mu.Unlock()
	c.w.history.registered(c, r, tid)
	return true
}

// leave ends the connection.
func (c *client) leave() {
	if c.zeo != nil {
		c.zeo.Close()
		c.zeo = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.generation++
}

// invalidate takes in what others have committed.
func (c *client) invalidate(generation int, tid zodb.Tid, oids []zodb.Oid) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.mu.generation {
		return
	}
	for _, oid := range oids {
		delete(c.mu.cache, oid)
		c.mu.invalidated[oid] = tid
	}
	if c.w.history.announced(tid); tid <= c.mu.last {
		last := c.mu.last
		c.w.background.Go(func() { c.ordered(generation, last, tid) })
	}
	c.mu.last = max(c.mu.last, tid)
}

// ordered judges that an invalidation came behind a later one: a node that has begun
// anew at a checkpoint ends the connection.
func (c *client) ordered(generation int, last, tid zodb.Tid) {
	time.Sleep(3 * time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation == c.mu.generation {
		c.w.history.problem("%s was told of %s after %s", c.name, tid, last)
	}
}

// snapshot is the last transaction that the client has been told of.
func (c *client) snapshot() zodb.Tid {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.last
}

// load returns an object as it was at a snapshot, or false where it did not exist.
func (c *client) load(oid zodb.Oid, at zodb.Tid) (rev zodb.Revision, ok bool, err error) {
	c.mu.Lock()
	rev, ok = c.mu.cache[oid]
	generation := c.mu.generation
	c.mu.Unlock()
	if ok && rev.Serial <= at {
		c.w.history.read(c, oid, at, rev, true, true)
		return rev, true, nil
	}
	done := make(chan struct{})
	c.zeo.LoadBeforeAsync(oid, at+1, func(r zeo.LoadReply, e error) {
		defer close(done)
		err, ok = e, !r.None
		if rev = r.Rev; err != nil || !ok {
			return
		}
		rev.Data = slices.Clone(rev.Data)
		if rev.Next == zodb.NoTid {
			c.mu.Lock()
			defer c.mu.Unlock()
			if generation == c.mu.generation {
				c.mu.cache[oid] = rev
			}
		}
	})
	_ = c.zeo.Flush() // if this fails, the load does too
	<-done
	var key *zodb.POSKeyError
	if errors.As(err, &key) {
		ok, err = false, nil
	}
	if err != nil {
		c.w.history.failed(c, "load", err)
		return rev, false, err
	}
	c.w.history.read(c, oid, at, rev, ok, false)
	return rev, ok, nil
}

func (c *client) pause(most time.Duration) {
	time.Sleep(time.Duration(c.rng.Int64N(int64(most))))
}

// work does one thing after the other until the schedule is over.
func (c *client) work() {
	for !isClosed(c.w.quiet) {
		c.pause(c.w.plan.think)
		if c.rng.IntN(25) == 0 {
			c.leave()
			c.at = c.w.hosts[c.rng.IntN(len(c.w.hosts))]
		}
		if c.connected() {
			c.transact()
		}
	}
	c.leave()
}

// transact does a transaction, whatever becomes of it.
func (c *client) transact() *attempt {
	at := c.snapshot()
	read := map[zodb.Oid]zodb.Revision{}
	for range 1 + c.rng.IntN(3) {
		oid := c.w.history.someObject(c.rng)
		rev, ok, err := c.load(oid, at)
		if err != nil {
			return nil
		}
		if ok {
			read[oid] = rev
		}
		if c.rng.IntN(4) == 0 {
			c.pause(50 * time.Millisecond)
		}
	}
	t := c.w.history.begins(c)
	oids := slices.Sorted(maps.Keys(read))
	switch what := c.rng.IntN(100); {
	case what < 30: // it has only read
		return nil
	case what < 40: // new objects
		made, err := c.zeo.NewOids(1 + c.rng.IntN(3))
		if err != nil {
			c.w.history.failed(c, "new_oids", err)
			return nil
		}
		c.w.history.given(c, made)
		for _, oid := range made {
			t.writes[oid] = write{zodb.NoTid, c.data(t, oid)}
		}
	case what < 48:
		if t.undo = c.w.history.somethingOf(c.rng); t.undo == nil {
			return nil
		}
	default:
		for i, oid := range oids {
			if i > 0 && c.rng.IntN(2) == 0 {
				t.checks[oid] = read[oid].Serial
				continue
			}
			t.writes[oid] = write{read[oid].Serial, c.data(t, oid)}
		}
		if len(t.writes) == 0 {
			return nil
		}
	}
	c.commit(t)
	return t
}

// data is what no other transaction writes.
func (c *client) data(t *attempt, oid zodb.Oid) string {
	return fmt.Sprintf("%s %s %s", t.id, oid, strings.Repeat("x", c.rng.IntN(c.w.plan.size)))
}

// commit tries to commit a transaction.
func (c *client) commit(t *attempt) {
	err := c.zeo.TpcBegin(txnID, c.name, t.id)
	if t.undo != nil {
		err = errors.Join(err, c.zeo.Undoa(t.undo.tid, txnID))
	}
	for _, oid := range slices.Sorted(maps.Keys(t.writes)) {
		err = errors.Join(err, c.zeo.Storea(oid, t.writes[oid].over, []byte(t.writes[oid].data), txnID))
	}
	for _, oid := range slices.Sorted(maps.Keys(t.checks)) {
		err = errors.Join(err, c.zeo.CheckCurrent(oid, t.checks[oid], txnID))
	}
	var undone []zodb.Oid
	var conflicts []zodb.Conflict
	if err == nil {
		undone, conflicts, err = c.zeo.Vote(txnID)
	}
	switch {
	case err != nil:
		c.w.history.ends(t, failed, 0, err)
		c.w.history.refused(c, t, err)
	case len(conflicts) > 0:
		c.w.history.ends(t, failed, 0, err)
		for _, conflict := range conflicts {
			c.w.history.conflicts(c, conflict.Oid, conflict.Committed)
		}
	case c.rng.IntN(20) == 0:
		c.w.history.ends(t, failed, 0, err)
	default:
		if c.rng.IntN(4) == 0 {
			c.pause(100 * time.Millisecond)
		}
		c.w.history.finishes(t)
		tid, err := c.zeo.TpcFinish(txnID)
		switch {
		case err == nil:
			c.w.history.ends(t, acknowledged, tid, nil)
			c.committed(t, tid, undone)
			return
		case c.zeo.Err() != nil:
			c.w.history.ends(t, unknown, 0, err)
		default:
			c.w.history.ends(t, failed, 0, err)
			c.w.history.failed(c, "tpc_finish", err)
		}
	}
	if c.zeo.Err() == nil {
		_ = c.zeo.TpcAbort(txnID) // if this fails, the connection does too
	}
}

// committed has the cache hold what was written.
func (c *client) committed(t *attempt, tid zodb.Tid, undone []zodb.Oid) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for oid, w := range t.writes {
		if c.mu.invalidated[oid] < tid {
			c.mu.cache[oid] = zodb.Revision{Data: []byte(w.data), Serial: tid}
		}
	}
	for _, oid := range undone {
		if c.mu.invalidated[oid] < tid {
			delete(c.mu.cache, oid)
		}
	}
	c.mu.last = max(c.mu.last, tid)
}
