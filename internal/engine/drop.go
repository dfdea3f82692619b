package engine

import (
	"slices"
	"time"

	"s3storage/internal/index"
	"s3storage/internal/txlog"
)

// portion is how many revisions are dropped, or forgotten, while the state is
// locked: about a millisecond of it.
const portion = 1024

// A drop is a pack that is being applied. It has what is still to be dropped.
//
// A pack is applied beside what the log settles after it: no later transaction
// refers to what it drops, and the revisions are named by their serials, so that
// it does not matter which comes first. Packs are applied one after the other, in
// the order of the log. A pack counts when all of it is done.
type drop struct {
	left []txlog.Dropped
	old  *retirement
	keep bool // what is dropped can be read for a while
}

// dropLocked begins to apply a pack. While the log is read by Open, it is done
// when this returns.
func (e *Engine) dropLocked(p *txlog.Pack) {
	e.state.packed = max(e.state.packed, p.Tid)
	for _, id := range p.Lists {
		e.state.lists = append(e.state.lists, id.Name())
	}
	d := &drop{left: p.Dropped, old: &retirement{
		packs: e.state.packs + len(e.state.drops) + 1,
		until: p.At.Add(e.opts.PackGrace),
		index: index.NewMemory(),
	}}
	if d.keep = time.Now().Before(d.old.until); d.keep {
		e.state.retired = append(e.state.retired, d.old)
	}
	e.state.drops = append(e.state.drops, d)
	switch {
	case !e.state.opened:
		e.dropSomeLocked(len(d.left))
	case len(e.state.drops) == 1:
		e.janitor.do(e.drop)
	}
}

// drop applies packs until all are applied, or the engine is closed.
func (e *Engine) drop() {
	for more := true; more && e.janitor.ctx.Err() == nil; {
		e.state.Lock()
		more = e.dropSomeLocked(portion)
		e.state.Unlock()
	}
}

// dropSomeLocked drops up to n revisions of the first pack that is being applied,
// and tells whether there is more to drop.
func (e *Engine) dropSomeLocked(n int) bool {
	d := e.state.drops[0]
	n = min(n, len(d.left))
	for _, rev := range d.left[:n] {
		r, ok := e.state.index.Remove(rev.Oid, rev.Serial)
		switch {
		case ok && d.keep:
			d.old.index.Add(rev.Oid, r)
		case ok:
			e.forgetLocked(rev.Oid, r)
		}
	}
	if d.left = d.left[n:]; len(d.left) == 0 {
		e.state.drops = slices.Delete(e.state.drops, 0, 1)
		e.state.packs++
		e.state.freed = e.state.freed || !d.keep
		e.janitor.poke()
		e.announceLocked()
	}
	return len(e.state.drops) > 0
}

// expire forgets what can no longer be read, and returns when there will be more
// to forget (zero for not before the next pack), and whether space has become
// free since it was last called.
func (e *Engine) expire() (next time.Time, freed bool) {
	for old := e.takeExpired(); old != nil; old = e.takeExpired() {
		for some := range slices.Chunk(old.Oids(), portion) {
			e.state.Lock()
			for _, oid := range some {
				for _, r := range old.Revisions(oid) {
					e.forgetLocked(oid, r)
				}
			}
			e.state.Unlock()
		}
		e.state.Lock()
		e.state.freed = true
		e.state.Unlock()
	}
	e.state.Lock()
	defer e.state.Unlock()
	if r := e.state.retired; len(r) > 0 && r[0].packs <= e.state.packs {
		next = r[0].until
	}
	freed, e.state.freed = e.state.freed, false
	return next, freed
}

// takeExpired takes what one pack dropped out of what can be read, if its time
// is over. A pack that is being applied waits until it is done.
func (e *Engine) takeExpired() *index.Memory {
	e.state.Lock()
	defer e.state.Unlock()
	r := e.state.retired
	if len(r) == 0 || r[0].packs > e.state.packs || time.Now().Before(r[0].until) {
		return nil
	}
	e.state.retired = r[1:]
	return r[0].index
}
