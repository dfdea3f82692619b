package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// A Workload is what the clients do.
type Workload string

// The workloads; the comment of the package says what they are.
const (
	Fill     Workload = "fill"
	Commit   Workload = "commit"
	Load     Workload = "load"
	Mixed    Workload = "mixed"
	Upload   Workload = "upload"
	Download Workload = "download"
)

// Options say what is to be measured.
type Options struct {
	Workload    Workload `json:"workload"`
	Storage     string   `json:"storage"`     // as in zeo.ClientOptions
	Clients     int      `json:"clients"`     // connections
	Pipeline    int      `json:"pipeline"`    // loads under way on each connection
	Objects     int      `json:"objects"`     // objects in a transaction
	Reads       int      `json:"reads"`       // mixed: loads before each commit
	Size        int      `json:"size"`        // bytes of a record, or blob
	WorkingSet  int      `json:"working_set"` // objects that are loaded, or that commits go round
	Conflicting bool     `json:"conflicting"` // one object of each transaction is the same for all clients
	Existing    bool     `json:"existing"`    // load what the database holds, write nothing before
	Writers     int      `json:"writers"`     // load: clients besides that commit changes of what is loaded
	Undone      int      `json:"undone"`      // how often changes of what is loaded were undone and done again
}

// MaxPipeline bounds Options.Pipeline: see zeo.Client.LoadBeforeAsync.
const MaxPipeline = 1024

func (o *Options) check() error {
	if o.Clients < 1 || o.Objects < 1 || o.WorkingSet < 1 || o.Size < 0 || o.Reads < 0 {
		return errors.New("clients, objects and the working set are at least 1")
	}
	if o.Pipeline < 1 || o.Pipeline > MaxPipeline {
		return fmt.Errorf("between 1 and %d loads can be under way on a connection", MaxPipeline)
	}
	if o.Existing && (o.Workload != Load || o.Writers > 0) {
		return fmt.Errorf("%s writes; only loads alone can do with existing objects", o.Workload)
	}
	if o.Writers < 0 || o.Writers > o.WorkingSet || o.Writers > 0 && o.Workload != Load {
		return errors.New("only beside loads there can be writers, and no more than there are objects to load")
	}
	return nil
}

// patience is how long a server may stay silent after the end of a run, and
// after an interruption.
const (
	patience            = 60 * time.Second
	patienceInterrupted = 2 * time.Second
)

// A Session is a set of clients connected to one server. It is used from one
// goroutine.
type Session struct {
	Address string

	options Options
	workers []*worker
	writers []*worker // that commit while the workers load
	set     []object  // to be loaded
	shared  zodb.Oid  // written by all if Options.Conflicting
}

// Open connects the clients and, if loads are to be measured, writes what they
// will load.
func Open(ctx context.Context, address string, options Options) (_ *Session, err error) {
	if err := options.check(); err != nil {
		return nil, err
	}
	s := &Session{Address: address, options: options}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for i := range options.Clients + options.Writers {
		client, err := zeo.Dial(ctx, address, zeo.ClientOptions{Storage: options.Storage, ReadOnly: options.Existing})
		if err != nil {
			return nil, fmt.Errorf("client %d: %w", i+1, err)
		}
		w := newWorker(s, client, uint64(i))
		if i < options.Clients {
			s.workers = append(s.workers, w)
		} else {
			s.writers = append(s.writers, w)
		}
	}
	stop := context.AfterFunc(ctx, s.hangUp)
	err = s.prepare()
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return s, nil
}

// prepare sees to the objects that have to be there before the first run.
func (s *Session) prepare() (err error) {
	first := s.workers[0]
	switch s.options.Workload {
	case Load, Mixed:
		if s.options.Existing {
			return s.findExisting()
		}
		if s.set, err = first.writeNew(s.options.WorkingSet); err != nil {
			return err
		}
		for i, w := range s.writers {
			// From here on only the writer looks at the serials.
			n, m := len(s.set), len(s.writers)
			w.own = slices.Clone(s.set[i*n/m : (i+1)*n/m])
			if w.blob.oid, err = w.oid(); err != nil {
				return err
			}
		}
	case Download:
		blob := object{}
		if blob.oid, err = first.oid(); err != nil {
			return err
		}
		if err := first.upload(&blob, s.options.Size); err != nil {
			return err
		}
		s.set = []object{blob}
	case Commit:
		share := max(s.options.WorkingSet/len(s.workers), s.options.Objects)
		for _, w := range s.workers {
			if err := w.takeOids(share); err != nil {
				return err
			}
		}
	}
	if s.options.Conflicting {
		objects, err := first.writeNew(1)
		if err != nil {
			return err
		}
		s.shared = objects[0].oid
	}
	// All shall have heard of what was written.
	for _, w := range s.all() {
		if err := w.client.Ping(); err != nil {
			return err
		}
	}
	return nil
}

// findExisting takes the first oids. Databases hand them out from 0 on, so that there
// are objects of most of them; those that are missing are passed over when they are
// loaded. To look which these are would have the server read all of them before.
func (s *Session) findExisting() error {
	c := s.workers[0].client
	for oid := range zodb.Oid(s.options.WorkingSet) {
		s.set = append(s.set, object{oid: oid})
	}
	for _, o := range s.set {
		_, ok, err := c.LoadBefore(o.oid, c.LastTid()+1)
		if ok || err != nil && !isMissing(err) {
			return err
		}
	}
	return errors.New("there are no objects with small oids to load")
}

func isMissing(err error) bool {
	var unknown *zodb.POSKeyError
	return errors.As(err, &unknown)
}

func (s *Session) all() []*worker { return slices.Concat(s.workers, s.writers) }

// Close disconnects.
func (s *Session) Close() {
	for _, w := range s.all() {
		w.client.Close()
	}
}

// hangUp ends connections, so that nobody waits for the server any more.
func (s *Session) hangUp() {
	for _, w := range s.all() {
		go w.client.Close()
	}
}

// A limit tells workers when to stop.
type limit struct {
	ctx      context.Context
	deadline time.Time
	left     atomic.Int64
}

// next reports whether there is time for one more.
func (l *limit) next(now time.Time) bool {
	return now.Before(l.deadline) && l.left.Add(-1) >= 0 && l.ctx.Err() == nil
}

// Run lets the clients work for a time, or until they have done count commits,
// or loads; 0 sets no such bound. It returns what was measured until then even
// with an error. The end of ctx ends the run, which is no error.
func (s *Session) Run(ctx context.Context, d time.Duration, count int64) (*Figures, error) {
	if count <= 0 {
		count = 1 << 62
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, w := range s.all() {
		w.begin()
	}
	cpu, start := cpuTime(), time.Now()
	l := &limit{ctx: ctx, deadline: start.Add(d)}
	l.left.Store(count)
	finished := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(ctx, cancel, d+patience, finished) })

	beside, enough := context.WithCancel(ctx)
	besides := &limit{ctx: beside, deadline: l.deadline.Add(patience)}
	besides.left.Store(1 << 62)
	var wg, writers sync.WaitGroup
	for _, w := range s.writers {
		writers.Go(func() {
			if err := w.writeBeside(besides); err != nil {
				cancel(err)
			}
		})
	}
	for _, w := range s.workers {
		wg.Go(func() {
			if err := w.run(l); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	enough()
	elapsed := time.Since(start)
	writers.Wait()
	close(finished)
	watch.Wait()

	f := &Figures{Elapsed: elapsed, CPU: cpuTime() - cpu}
	for _, w := range s.all() {
		w.end(f)
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return f, fmt.Errorf("%s: %w", s.Address, err)
	}
	return f, nil
}

// watch hangs up on a server that does not let a run come to its end.
func (s *Session) watch(ctx context.Context, cancel context.CancelCauseFunc, d time.Duration, finished <-chan struct{}) {
	select {
	case <-finished:
		return
	case <-time.After(d):
		cancel(fmt.Errorf("the server did not answer for %s", patience))
	case <-ctx.Done():
		select {
		case <-finished:
			return
		case <-time.After(patienceInterrupted):
		}
	}
	s.hangUp()
}
