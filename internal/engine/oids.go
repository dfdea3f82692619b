package engine

import (
	"context"
	"fmt"
	"sync"

	"s3storage/internal/zodb"
)

// oids hands out object identifiers.
//
// Invariant: next never lies above a high-water mark that is settled in the
// log, at the moment in which an oid below next is given out.
type oids struct {
	mu    sync.Mutex
	next  zodb.Oid
	asked zodb.Oid // the mark that was asked for last
	batch zodb.Oid // how many oids were asked for then
}

const (
	firstOidBatch = 1 << 10
	lastOidBatch  = 1 << 20
)

// NewOids implements zodb.Storage.
func (e *Engine) NewOids(ctx context.Context, n int) ([]zodb.Oid, error) {
	if err := e.ReadOnly(); err != nil {
		return nil, err
	}
	want := zodb.Oid(max(n, 1))
	var first zodb.Oid
	err := e.await(ctx, func() bool {
		o := &e.oids
		o.mu.Lock()
		defer o.mu.Unlock()
		mark := e.state.oidMark
		// Ask for more before the last are gone, so that nobody waits.
		if o.asked = max(o.asked, mark); o.next+want+o.batch/2 > o.asked {
			o.batch = min(max(2*o.batch, firstOidBatch), lastOidBatch)
			o.asked = o.next + max(want, o.batch)
			e.log.RaiseOidMark(o.asked)
		}
		if o.next+want > mark {
			return false
		}
		first = o.next
		o.next += want
		return true
	})
	if err != nil {
		return nil, err
	}
	out := make([]zodb.Oid, want)
	for i := range out {
		out[i] = first + zodb.Oid(i)
	}
	return out, nil
}

// maxChosenOid bounds the oids that clients may choose themselves, without
// having been given them, so that there are always more to give out.
const maxChosenOid zodb.Oid = 1 << 62

// refuse returns an error for an oid that may not be stored.
func (o *oids) refuse(oid zodb.Oid) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if oid > maxChosenOid && oid >= o.next {
		return fmt.Errorf("oid %s is out of range: it was not given out, and the highest that a client may choose is %s", oid, maxChosenOid)
	}
	return nil
}

// stored makes sure that an oid which a client chose itself is never given out,
// and returns the mark that must be settled with the transaction for that.
func (o *oids) stored(oid zodb.Oid) (mark zodb.Oid) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next = max(o.next, oid+1)
	o.asked = max(o.asked, o.next)
	return oid + 1
}
