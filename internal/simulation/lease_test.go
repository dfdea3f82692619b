package simulation

import (
	"context"
	"sync"
	"time"

	"s3storage/internal/bucket"
)

const (
	leaseTimeout = 5 * time.Second
	leasePoll    = 200 * time.Millisecond
)

// leases are what grants the lease. It lies when it is told to.
type leases struct {
	mu struct {
		sync.Mutex
		holder *process
		since  time.Time // when the holder was heard last, if it is silent
		silent bool      // the holder is dead
		lie    lie
	}
}

type lie int

const (
	honest    lie = iota
	everybody     // gets it
	nobody        // gets it
)

func (l *leases) tell(what lie) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.lie = what
}

// forget forgets who has the lease, and does not tell.
func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.holder = nil
}

// died has the lease of a process run out.
func (l *leases) died(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.holder == p && !l.mu.silent {
		l.mu.silent, l.mu.since = true, time.Now()
	}
}

// ask tells whether a process has the lease now.
func (l *leases) ask(p *process) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.mu.lie {
	case everybody:
		return true
	case nobody:
		return false
	}
	if h := l.mu.holder; h != nil && h != p {
		since, silent := l.mu.since, l.mu.silent
		if !silent {
			h.host.mu.Lock()
			since, silent = h.host.mu.since, h.host.mu.frozen != nil
			h.host.mu.Unlock()
		}
		if !silent || time.Since(since) < leaseTimeout {
			return false
		}
	}
	l.mu.holder, l.mu.silent = p, false
	return true
}

func (l *leases) free(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.holder == p {
		l.mu.holder = nil
	}
}

// A lease is that of one process.
type lease struct{ p *process }

func (l *lease) Acquire(ctx context.Context) error {
	for {
		if err := l.p.reach(ctx, l.p.host.name); err != nil {
			return err
		}
		if l.p.host.w.leases.ask(l.p) {
			return nil
		}
		if err := bucket.Sleep(ctx, leasePoll); err != nil {
			return err
		}
	}
}

func (l *lease) Release(ctx context.Context) error {
	if err := l.p.reach(ctx, l.p.host.name); err != nil {
		return err
	}
	l.p.host.w.leases.free(l.p)
	return nil
}

func (l *lease) Close() error   { return nil }
func (l *lease) String() string { return "a simulated lease" }
