package simulation

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// reigns is the store, which notes what epochs there were.
type reigns struct {
	bucket.Bucket
	w  *world
	mu struct {
		sync.Mutex
		begun map[txlog.Epoch]time.Time // when their first objects stood, or were sealed for
		of    map[zodb.Tid]txlog.Epoch  // transactions
	}
}

func newReigns(w *world) *reigns {
	r := &reigns{Bucket: w.memory, w: w}
	r.mu.begun = map[txlog.Epoch]time.Time{}
	r.mu.of = map[zodb.Tid]txlog.Epoch{}
	return r
}

func (r *reigns) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	err := r.Bucket.PutIfAbsent(ctx, name, data)
	if err == nil && strings.HasPrefix(name, txlog.Prefix) {
		r.stands(name, data)
	}
	return err
}

func (r *reigns) stands(name string, data []byte) {
	o, err := txlog.Decode(name, data)
	if err != nil {
		r.w.history.problem("%s: %v", name, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	epoch := o.Epoch
	if o.Seal() != nil {
		epoch++
	}
	if _, ok := r.mu.begun[epoch]; !ok {
		r.mu.begun[epoch] = time.Now()
	}
	for _, e := range o.Entries {
		if e.Txn != nil {
			r.mu.of[e.Txn.Tid] = o.Epoch
		}
	}
}

// epoch returns in which one a transaction was put into the log.
func (r *reigns) epoch(tid zodb.Tid) txlog.Epoch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.of[tid]
}

// A reign is that of a process, as it believes itself, or nobody's.
type reign struct {
	p     *process
	epoch txlog.Epoch
}

// believed returns the reign that a node lives in, as far as it knows.
func (w *world) believed(h *host) reign {
	p := h.running()
	n := p.opened()
	if n == nil {
		return reign{}
	}
	s := n.Status()
	if !s.Leads && s.Linked {
		for _, other := range w.hosts {
			if other.name == s.Leader.Name {
				p = other.running()
			}
		}
		if n = p.opened(); n == nil {
			return reign{}
		}
		s = n.Status()
	}
	if !s.Leads {
		return reign{}
	}
	return reign{p, s.Epoch}
}

// The time after which a leader with nothing to write looks whether it still leads, and
// the longest that a call takes.
const (
	looksEvery = 10 * time.Second
	callTakes  = time.Second
)

// mayBeBehind says why a node may not show the state of a transaction though a later
// one is known, or nothing if it may: a leader that was taken over, and has nothing to
// write, does not know it before it looks, and neither does who follows it. But it knows
// all of its own reign. A look may come to nothing.
func (w *world) mayBeBehind(r reign, shown zodb.Tid, known map[txlog.Epoch]zodb.Tid) string {
	if r.p == nil {
		return "it knew of no leader that could tell it less"
	}
	for epoch, tid := range known {
		if epoch <= r.epoch && tid > shown {
			return fmt.Sprintf("%s is of epoch %d, its leader of epoch %d", tid, epoch, r.epoch)
		}
	}
	w.reigns.mu.Lock()
	defer w.reigns.mu.Unlock()
	var over time.Time
	for epoch, begun := range w.reigns.mu.begun {
		if epoch > r.epoch && (over.IsZero() || begun.Before(over)) {
			over = begun
		}
	}
	may := looksEvery + callTakes
	r.p.host.mu.Lock()
	for _, s := range r.p.host.mu.stalled {
		if s.to.After(over) {
			may += s.to.Sub(s.from)
		}
	}
	r.p.host.mu.Unlock()
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	for name, all := range r.p.mu.untold {
		if strings.HasPrefix(name, txlog.Prefix+fmt.Sprintf("%016x", uint64(r.epoch))) {
			for _, at := range all {
				if at.After(over) {
					may += looksEvery + callTakes
				}
			}
		}
	}
	if behind := time.Since(over); behind > may {
		return fmt.Sprintf("its leader was taken over %s ago, and should have known it after %s", behind, may)
	}
	return ""
}
