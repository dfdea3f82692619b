package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// An object is one that a worker writes.
type object struct {
	oid    zodb.Oid
	serial zodb.Tid
}

// A worker is one client and what it measures.
type worker struct {
	session *Session
	client  *zeo.Client
	txn     int64 // the id of the last transaction
	record  []byte

	oids   []zodb.Oid // handed out, not yet used
	own    []object   // written over and over; serial zodb.NoTid before the first time
	next   int        // where in own the next transaction starts
	batch  []*object  // of the transaction under way
	shared object

	turn int    // of a writer beside loads: how many transactions it has committed
	blob object // that it writes

	// mu guards what the reader of the connection uses too.
	mu struct {
		sync.Mutex
		rand    *rand.Rand
		figures *Figures
		err     error
	}
	told int64 // invalidations before this run
}

func newWorker(s *Session, client *zeo.Client, seed uint64) *worker {
	w := &worker{session: s, client: client}
	w.mu.rand = rand.New(rand.NewPCG(seed, uint64(len(s.options.Workload))))
	w.mu.figures = new(Figures)
	return w
}

// begin starts to measure, end adds what was measured to f.
func (w *worker) begin() {
	w.told = w.client.Invalidations()
	w.mu.figures = new(Figures)
}

func (w *worker) end(f *Figures) {
	w.mu.figures.Told = w.client.Invalidations() - w.told
	f.addWork(w.mu.figures)
}

// run does the session's work until l says that it is time.
func (w *worker) run(l *limit) error {
	switch w.session.options.Workload {
	case Load:
		return w.loadUntil(l)
	case Upload:
		return w.uploadUntil(l)
	case Download:
		return w.downloadUntil(l)
	}
	for l.next(time.Now()) {
		if w.session.options.Workload == Mixed {
			if err := w.loadSome(l, w.session.options.Reads); err != nil {
				return err
			}
		}
		if err := w.commit(); err != nil {
			return err
		}
	}
	return nil
}

// maxOids is what servers hand out at once.
const maxOids = 100

// oid returns one that was never used.
func (w *worker) oid() (zodb.Oid, error) {
	if len(w.oids) == 0 {
		oids, err := w.client.NewOids(maxOids)
		if err != nil {
			return 0, err
		}
		if len(oids) == 0 {
			return 0, errors.New("the server hands out no oids")
		}
		w.oids = oids
	}
	oid := w.oids[0]
	w.oids = w.oids[1:]
	return oid, nil
}

// takeOids gives the worker so many objects of its own, to be written for the
// first time by its commits.
func (w *worker) takeOids(n int) error {
	for range n {
		oid, err := w.oid()
		if err != nil {
			return err
		}
		w.own = append(w.own, object{oid: oid})
	}
	return nil
}

// writeNew commits n new objects, changes them and has the changes undone and
// done again as often as the options say.
func (w *worker) writeNew(n int) ([]object, error) {
	objects := make([]object, n)
	for some := range slices.Chunk(objects, maxOids) {
		var batch []*object
		for i := range some {
			oid, err := w.oid()
			if err != nil {
				return nil, err
			}
			some[i].oid = oid
			batch = append(batch, &some[i])
		}
		if err := w.alone(w.try(batch)); err != nil {
			return nil, err
		}
		if w.session.options.Undone == 0 {
			continue
		}
		if err := w.alone(w.try(batch)); err != nil {
			return nil, err
		}
		for range 2 * w.session.options.Undone {
			if err := w.alone(w.undo(batch)); err != nil {
				return nil, err
			}
		}
	}
	return objects, nil
}

// alone makes an error of a conflict over objects that only this worker changes.
func (w *worker) alone(conflict bool, err error) error {
	if conflict {
		return fmt.Errorf("%s: the server tells of a conflict over objects that nobody else has changed", w.session.Address)
	}
	return err
}

// undo takes back the transaction that has changed the objects last.
func (w *worker) undo(batch []*object) (conflict bool, err error) {
	tid, conflict, err := w.transaction(func(id int64) error { return w.client.Undoa(batch[0].serial, id) })
	if err != nil || conflict {
		return conflict, err
	}
	for _, obj := range batch {
		obj.serial = tid
	}
	return false, nil
}

// commit commits one transaction, as often as it takes.
func (w *worker) commit() error {
	o := &w.session.options
	w.batch = w.batch[:0]
	if o.Conflicting {
		w.shared.oid = w.session.shared
		w.batch = append(w.batch, &w.shared)
	}
	for len(w.batch) < o.Objects {
		obj, err := w.pick()
		if err != nil {
			return err
		}
		w.batch = append(w.batch, obj)
	}
	start := time.Now()
	for {
		conflict, err := w.try(w.batch)
		if err != nil {
			return err
		}
		if !conflict {
			break
		}
		w.mu.figures.Conflicts++
		if w.shared.serial, err = w.client.GetTid(w.shared.oid); err != nil {
			return err
		}
	}
	w.mu.figures.Commits.Add(time.Since(start))
	w.mu.figures.Stored += int64(len(w.batch))
	return nil
}

// pick returns the next object to write.
func (w *worker) pick() (*object, error) {
	if w.session.options.Workload != Commit {
		oid, err := w.oid()
		return &object{oid: oid}, err
	}
	return w.nextOwn(), nil
}

func (w *worker) nextOwn() *object {
	obj := &w.own[w.next]
	w.next = (w.next + 1) % len(w.own)
	return obj
}

// try runs a transaction once and notes the serials that it gave.
func (w *worker) try(batch []*object) (conflict bool, err error) {
	tid, conflict, err := w.transaction(func(id int64) error {
		for _, obj := range batch {
			w.record = appendRecord(w.record[:0], w.mu.rand, w.session.options.Size)
			if err := w.client.Storea(obj.oid, obj.serial, w.record, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || conflict {
		return conflict, err
	}
	for _, obj := range batch {
		obj.serial = tid
	}
	return false, nil
}

// transaction commits what change, which is given the id, makes part of it, or
// aborts it for a conflict.
func (w *worker) transaction(change func(id int64) error) (tid zodb.Tid, conflict bool, err error) {
	w.txn++
	c, id := w.client, w.txn
	if err := c.TpcBegin(id, "bench", string(w.session.options.Workload)); err != nil {
		return 0, false, err
	}
	if err := change(id); err != nil {
		return 0, false, err
	}
	_, conflicts, err := c.Vote(id)
	if len(conflicts) > 0 || isConflict(err) {
		return 0, true, c.TpcAbort(id)
	}
	if err != nil {
		return 0, false, fmt.Errorf("vote: %w", err)
	}
	if tid, err = c.TpcFinish(id); err != nil {
		return 0, false, fmt.Errorf("tpc_finish: %w", err)
	}
	return tid, false, nil
}

// isConflict recognises what a server says that resolves conflicts itself, and
// could not.
func isConflict(err error) bool {
	var e *zeo.Error
	return errors.As(err, &e) && e.Class == "ZODB.POSException.ConflictError"
}

// loadUntil keeps loads under way until l says that it is time.
func (w *worker) loadUntil(l *limit) error {
	return w.loads(w.session.options.Pipeline, l.next)
}

// loadSome loads n objects.
func (w *worker) loadSome(l *limit, n int) error {
	left := n
	return w.loads(min(n, w.session.options.Pipeline), func(time.Time) bool {
		left--
		return left >= 0 && l.ctx.Err() == nil
	})
}

// loads keeps so many loads under way for as long as more, which is called
// under mu, says so.
func (w *worker) loads(pipeline int, more func(time.Time) bool) error {
	var wg sync.WaitGroup
	w.mu.err = nil
	now := time.Now()
	for range pipeline {
		wg.Add(1)
		l := &loader{w: w, wg: &wg, more: more}
		l.done = l.loaded
		l.next(now)
	}
	_ = w.client.Flush() // if this fails, the loads do too
	wg.Wait()
	return w.mu.err
}

// A loader has one load under way.
type loader struct {
	w     *worker
	wg    *sync.WaitGroup
	more  func(time.Time) bool
	done  func(zeo.LoadReply, error)
	start time.Time
}

// next queues a load, or ends.
func (l *loader) next(now time.Time) {
	l.w.mu.Lock()
	ok := l.w.mu.err == nil && l.more(now)
	set := l.w.session.set
	oid := set[l.w.mu.rand.IntN(len(set))].oid
	l.w.mu.Unlock()
	if !ok {
		l.wg.Done()
		return
	}
	l.start = now
	l.w.client.LoadBeforeAsync(oid, l.w.client.LastTid()+1, l.done)
}

// loaded is called with the reply.
func (l *loader) loaded(r zeo.LoadReply, err error) {
	now := time.Now()
	missing := r.None || err != nil && isMissing(err)
	l.w.mu.Lock()
	switch {
	case missing && l.w.session.options.Existing:
	case missing:
		l.w.mu.err = fmt.Errorf("load %s: the object does not exist", r.Oid)
	case err != nil:
		l.w.mu.err = fmt.Errorf("load %s: %w", r.Oid, err)
	default:
		l.w.mu.figures.Loads.Add(now.Sub(l.start))
	}
	l.w.mu.Unlock()
	l.next(now)
}
