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

	"s3storage/internal/txlog"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

type outcome int

const (
	unknown outcome = iota
	acknowledged
	failed
)

var outcomes = []string{"unknown", "acknowledged", "not committed"}

// An attempt is a transaction that a client has begun.
type attempt struct {
	id      string // in the description
	client  string
	floor   zodb.Tid // what anybody had seen when it was begun
	writes  map[zodb.Oid]write
	checks  map[zodb.Oid]zodb.Tid // serials that they must have
	undo    *attempt
	outcome outcome
	tid     zodb.Tid
}

type write struct {
	over zodb.Tid
	data string
}

// A look is what a client has read of an object.
type look struct {
	who    string
	oid    zodb.Oid
	at     zodb.Tid
	exists bool
	rev    zodb.Revision
	cached bool
	when   time.Time
}

// A history is what clients saw, in the order in which they did.
type history struct {
	w  *world
	mu struct {
		sync.Mutex
		problems []string
		seen     zodb.Tid                 // the newest transaction that any client knows of
		known    map[txlog.Epoch]zodb.Tid // the same of each epoch
		attempts []*attempt
		acked    []*attempt
		looks    []look
		oids     map[zodb.Oid]string // who was given it
		objects  []zodb.Oid
		met      []look     // what conflicts were with
		gone     []zodb.Oid // objects that transactions relied on, and that did not exist
		counts   map[string]int
	}
}

func newHistory(w *world) *history {
	h := &history{w: w}
	h.mu.known = map[txlog.Epoch]zodb.Tid{}
	h.mu.oids = map[zodb.Oid]string{}
	h.mu.counts = map[string]int{}
	return h
}

func (h *history) problemLocked(format string, args ...any) {
	h.mu.problems = append(h.mu.problems, fmt.Sprintf("%s: ", h.w.elapsed())+fmt.Sprintf(format, args...))
}

func (h *history) problem(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problemLocked(format, args...)
}

func (h *history) someObject(rng *rand.Rand) zodb.Oid {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.objects[rng.IntN(len(h.mu.objects))]
}

// somethingOf returns a transaction that was committed of late.
func (h *history) somethingOf(rng *rand.Rand) *attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.mu.acked) < 2 {
		return nil
	}
	return h.mu.acked[len(h.mu.acked)-1-rng.IntN(min(4, len(h.mu.acked)-1))]
}

// A registration is begun when transactions are known, the newest ones of each epoch.
type registration struct {
	known  map[txlog.Epoch]zodb.Tid
	leader reign // as the node believed
}

func (h *history) registers(c *client) registration {
	leader := h.w.believed(c.at)
	h.mu.Lock()
	defer h.mu.Unlock()
	return registration{maps.Clone(h.mu.known), leader}
}

func (h *history) registered(c *client, r registration, tid zodb.Tid) {
	h.count("connections")
	known := zodb.NoTid
	for _, t := range r.known {
		known = max(known, t)
	}
	if tid < known {
		why := h.w.mayBeBehind(r.leader, tid, r.known)
		if why != "" {
			why = h.w.mayBeBehind(h.w.believed(c.at), tid, r.known)
		}
		if why != "" {
			h.problem("%s came to %s and was told that %s is the last transaction, though %s was known before, and %s", c.name, c.at.name, tid, known, why)
		}
		h.count("connections to who did not know yet that another node led")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seesLocked(tid)
}

// seesLocked notes that a client knows of a transaction.
func (h *history) seesLocked(tid zodb.Tid) {
	h.mu.seen = max(h.mu.seen, tid)
	if epoch := h.w.reigns.epoch(tid); tid > h.mu.known[epoch] {
		h.mu.known[epoch] = tid
	}
}

// announced is told of an invalidation.
func (h *history) announced(tid zodb.Tid) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.counts["invalidations"]++
	h.seesLocked(tid)
}

func (h *history) read(c *client, oid zodb.Oid, at zodb.Tid, rev zodb.Revision, exists, cached bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.counts["reads"]++
	if cached {
		h.mu.counts["reads of caches"]++
	}
	h.mu.looks = append(h.mu.looks, look{c.name, oid, at, exists, rev, cached, time.Now()})
}

func (h *history) begins(c *client) *attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.begun++
	t := &attempt{
		id: fmt.Sprintf("%s.%d", c.name, c.begun), client: c.name, floor: h.mu.seen,
		writes: map[zodb.Oid]write{}, checks: map[zodb.Oid]zodb.Tid{}, outcome: failed,
	}
	h.mu.attempts = append(h.mu.attempts, t)
	return t
}

// given notes new oids.
func (h *history) given(c *client, oids []zodb.Oid) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.counts["oids"] += len(oids)
	for _, oid := range oids {
		if before, twice := h.mu.oids[oid]; twice {
			h.problemLocked("%s was given oid %s, which %s was given before", c.name, oid, before)
		}
		h.mu.oids[oid] = c.name
	}
}

// finishes notes that a transaction may be committed from now on.
func (h *history) finishes(t *attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.outcome = unknown
}

func (h *history) ends(t *attempt, o outcome, tid zodb.Tid, err error) {
	h.w.trace("a transaction ended", "which", t.id, "outcome", outcomes[o], "tid", tid, "err", err)
	h.mu.Lock()
	defer h.mu.Unlock()
	t.outcome, t.tid = o, tid
	h.mu.counts[outcomes[o]]++
	if o != acknowledged {
		return
	}
	h.seesLocked(tid)
	h.mu.acked = append(h.mu.acked, t)
	for oid, w := range t.writes {
		if w.over == zodb.NoTid && len(h.mu.objects) < 40 {
			h.mu.objects = append(h.mu.objects, oid)
		}
	}
}

// conflicts notes what a client was told that its transaction conflicts with: that it
// has been told of by then. If its node has lagged so far behind that it cannot tell, it
// ends the connection.
func (h *history) conflicts(c *client, oid zodb.Oid, committed zodb.Tid) {
	last := c.snapshot()
	if last < committed {
		time.Sleep(time.Second)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.counts["conflicts"]++
	h.mu.met = append(h.mu.met, look{who: c.name, oid: oid, at: committed, when: time.Now()})
	if last < committed && c.zeo.Err() == nil {
		h.problemLocked("%s was told of a conflict with %s of %s, and knows of %s only", c.name, committed, oid, last)
	}
}

// refused notes why a transaction could not be voted for.
func (h *history) refused(c *client, t *attempt, err error) {
	var conflict *zodb.ConflictError
	var read *zodb.ReadConflictError
	var key *zodb.POSKeyError
	switch {
	case errors.As(err, &conflict):
		h.conflicts(c, conflict.Oid, conflict.Committed)
	case errors.As(err, &read):
		h.conflicts(c, read.Oid, read.Committed)
	case errors.As(err, &key) && t.checks[key.Oid] != zodb.NoTid:
		h.mu.Lock()
		defer h.mu.Unlock()
		h.mu.gone = append(h.mu.gone, key.Oid)
	case t.undo != nil && (errors.As(err, new(*zodb.UndoError)) || errors.As(err, new(*zodb.MultipleUndoErrors))):
		h.count("undo refused")
	default:
		h.failed(c, "vote", err)
	}
}

func (h *history) count(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.counts[what]++
}

// failed judges an error that is no conflict.
func (h *history) failed(c *client, what string, err error) {
	kind := ""
	var own *zeo.Error
	switch {
	case errors.Is(err, errRefused), errors.Is(err, context.DeadlineExceeded), c.zeo != nil && c.zeo.Err() != nil,
		what == "register" && !errors.As(err, &own) && !errors.Is(err, zodb.ErrNotCommitted):
		kind = "connection lost"
	case errors.Is(err, zodb.ErrNotCommitted):
		kind = "told to try again"
	case errors.As(err, &own) && strings.Contains(err.Error(), "StorageError"):
		kind = "trouble with the store"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.counts[kind]++
	if kind == "" {
		h.problemLocked("%s: %s: %v (%T)", c.name, what, err, err)
	}
}

// A revision of an object, as the log has it in the end.
type revision struct {
	tid  zodb.Tid
	data *string // nil where it does not exist any more
}

// A transaction of the final log.
type transaction struct {
	tid     zodb.Tid
	id      string
	records map[zodb.Oid]*string
}

// judge compares what clients saw with the log of the end.
func (h *history) judge(log []transaction) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	byID := map[string]*transaction{}
	objects := map[zodb.Oid][]revision{}
	attempts := map[string]*attempt{}
	for _, a := range h.mu.attempts {
		attempts[a.id] = a
	}
	last := zodb.NoTid
	for i := range log {
		t := &log[i]
		if t.tid <= last {
			h.problemLocked("%s stands behind %s in the log", t.tid, last)
		}
		last = t.tid
		if byID[t.id] != nil {
			h.problemLocked("%s was committed twice, as %s and %s", t.id, byID[t.id].tid, t.tid)
		}
		byID[t.id] = t
		if a := attempts[t.id]; a == nil {
			h.problemLocked("%s, %q, is nobody's", t.tid, t.id)
		} else {
			h.judgeCommittedLocked(t, a, objects, byID)
		}
		for oid, data := range t.records {
			objects[oid] = append(objects[oid], revision{t.tid, data})
		}
	}
	for _, a := range h.mu.attempts {
		if a.outcome == acknowledged && byID[a.id] == nil {
			h.problemLocked("%s, acknowledged as %s, is lost", a.id, a.tid)
		}
	}
	for _, l := range h.mu.looks {
		h.judgeLookLocked(l, objects[l.oid])
	}
	for _, m := range h.mu.met {
		if !slices.ContainsFunc(objects[m.oid], func(r revision) bool { return r.tid == m.at }) {
			h.problemLocked("%s was told of a conflict with %s of %s, which does not exist", m.who, m.at, m.oid)
		}
	}
	for _, oid := range h.mu.gone {
		if !slices.ContainsFunc(objects[oid], func(r revision) bool { return r.data == nil }) {
			h.problemLocked("object %s was said not to exist any more, and always did", oid)
		}
	}
	return h.mu.problems
}

// current returns what an object was at a time, or the zero revision.
func current(all []revision, at zodb.Tid) (r revision, next zodb.Tid) {
	i, _ := slices.BinarySearchFunc(all, at+1, func(r revision, tid zodb.Tid) int {
		return int(min(1, max(-1, int64(r.tid)-int64(tid))))
	})
	if i < len(all) {
		next = all[i].tid
	}
	if i > 0 {
		r = all[i-1]
	}
	return r, next
}

// judgeCommittedLocked looks whether what was committed is what was asked for, on the
// state that was asked for.
func (h *history) judgeCommittedLocked(t *transaction, a *attempt, objects map[zodb.Oid][]revision, byID map[string]*transaction) {
	switch {
	case a.outcome == failed:
		h.problemLocked("%s failed, or was not finished, and is there as %s", a.id, t.tid)
	case a.outcome == acknowledged && a.tid != t.tid:
		h.problemLocked("%s was acknowledged as %s and is there as %s", a.id, a.tid, t.tid)
	}
	if t.tid <= a.floor {
		h.problemLocked("%s was begun after %s was seen, and is there as %s", a.id, a.floor, t.tid)
	}
	for oid, serial := range a.checks {
		if now, _ := current(objects[oid], t.tid); now.tid != serial {
			h.problemLocked("%s relied on %s of %s, and was committed as %s over %s", a.id, serial, oid, t.tid, now.tid)
		}
	}
	want := map[zodb.Oid]*string{}
	for oid, w := range a.writes {
		want[oid] = &w.data
		if now, _ := current(objects[oid], t.tid); now.tid != w.over {
			h.problemLocked("%s, over %s of %s, was committed as %s over %s", a.id, w.over, oid, t.tid, now.tid)
		}
	}
	if a.undo != nil {
		undone := byID[a.undo.id]
		if undone == nil {
			h.problemLocked("%s has undone %s, which is not there before it", a.id, a.undo.id)
			return
		}
		for oid := range undone.records {
			before, _ := current(objects[oid], undone.tid-1)
			want[oid] = before.data
		}
	}
	if len(want) != len(t.records) {
		h.problemLocked("%s of %d objects was committed with %d", a.id, len(want), len(t.records))
	}
	for oid, data := range want {
		if got, ok := t.records[oid]; !ok || (got == nil) != (data == nil) || got != nil && *got != *data {
			h.problemLocked("%s, %s: what was committed of %s is not what was stored", a.id, t.tid, oid)
		}
	}
}

func (h *history) judgeLookLocked(l look, all []revision) {
	now, next := current(all, l.at)
	exists := now.data != nil
	switch {
	case exists != l.exists:
		h.problemLocked("%s at %s, from its cache %v: object %s, as of %s, exists: %v, should be %v", l.who, l.when.Sub(h.w.started), l.cached, l.oid, l.at, l.exists, exists)
	case exists && (now.tid != l.rev.Serial || *now.data != string(l.rev.Data)):
		h.problemLocked("%s at %s, from its cache %v: object %s, as of %s, is %s, should be %s", l.who, l.when.Sub(h.w.started), l.cached, l.oid, l.at, l.rev.Serial, now.tid)
	case exists && l.rev.Next != zodb.NoTid && next != l.rev.Next:
		h.problemLocked("%s: object %s, as of %s, is followed by %s, should be %s", l.who, l.oid, l.at, l.rev.Next, next)
	}
}
