package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// inBucket is a lease in an object of the bucket. It needs nothing besides the
// right to read and write that object.
//
// The holder does nothing but read it, every three fifths of the timeout: there
// are no heartbeats, for writes are dear. A candidate that finds a holder
// writes a challenge. A holder that lives finds it and writes itself back; if
// the challenge stands after the timeout, the candidate writes itself as the
// holder. Writes may cross, so whoever has written waits a moment and reads
// what stands: the last write wins.
//
// When the bucket is down, nothing can be written to the log either; the holder
// keeps the lease, and no candidate takes it. If the object is deleted or
// damaged, the holder writes it again, unless a candidate comes first. A bucket
// whose reads are stale makes two holders possible, until one of them reads
// what the other wrote.
type inBucket struct {
	Options

	stop func()        // ends keep; nil: it was not started
	done chan struct{} // closed when keep has ended

	mu struct {
		sync.Mutex
		held *record // nil: not held
	}
}

func newInBucket(o Options) *inBucket { return &inBucket{Options: o} }

func (l *inBucket) look() time.Duration   { return l.Timeout * 3 / 5 } // between two reads of a holder
func (l *inBucket) poll() time.Duration   { return l.Timeout / 10 }    // between two reads of a candidate
func (l *inBucket) settle() time.Duration { return l.Timeout / 20 }    // from a write until it is looked at

func (l *inBucket) String() string {
	return fmt.Sprintf("object %s in %s", ObjectName, l.Bucket.Properties().Location)
}

func (l *inBucket) set(r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.held = r
}

func (l *inBucket) held() *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.held
}

func (l *inBucket) Held() bool { return l.held() != nil }

// read returns what stands; where there is nothing that can be used, a record
// of a free lease.
func (l *inBucket) read(ctx context.Context) (*record, error) {
	data, err := l.Bucket.Get(ctx, ObjectName, maxRecord)
	if err == nil {
		var r *record
		if r, err = decodeRecord(data); err == nil && r.Database == l.Database {
			return r, nil
		}
	}
	for _, unusable := range []error{bucket.ErrNotExist, bucket.ErrTooLarge, zodb.ErrCorrupt} {
		if errors.Is(err, unusable) {
			err = nil
		}
	}
	return &record{Database: l.Database}, err
}

func (l *inBucket) write(ctx context.Context, r *record) error {
	return l.Bucket.Put(ctx, ObjectName, r.encode())
}

func (l *inBucket) Holder(ctx context.Context) (Holder, error) {
	r, err := l.read(ctx)
	if err != nil || r.Term == [16]byte{} {
		return Holder{}, err
	}
	return r.Holder, nil
}

func nonce() (n [16]byte) {
	_, _ = rand.Read(n[:])
	return n
}

// hopeless tells of errors that waiting does not mend.
func hopeless(err error) bool {
	return errors.Is(err, bucket.ErrDenied) || errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, zodb.ErrNewerFormat)
}

// A candidacy is what a candidate remembers between two looks.
type candidacy struct {
	seen  record    // what stood last
	since time.Time // since when it has stood
	again time.Time // no challenge before this time
}

// Acquire implements Lease.
func (l *inBucket) Acquire(ctx context.Context) error {
	if l.Held() {
		return nil
	}
	l.end()
	var c candidacy
	for down := false; ; {
		round, cancel := context.WithTimeout(ctx, l.Timeout)
		mine, err := l.try(round, &c)
		cancel()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the lease, %s: %w", l, ctx.Err())
		case hopeless(err):
			return fmt.Errorf("acquire the lease, %s: %w", l, err)
		case err != nil && !down:
			l.Logger.Warn("cannot reach the lease; nobody new leads until that works again", "lease", l.String(), "err", err)
		case mine != nil:
			l.set(mine)
			l.start()
			return nil
		}
		down = err != nil
		// Not quite the same time for all, so that candidates part.
		pause(ctx, l.poll()/2+mathrand.N(l.poll()))
	}
}

// try looks once, and does what is to be done. It returns the record of this
// node as the holder if that stands.
func (l *inBucket) try(ctx context.Context, c *candidacy) (*record, error) {
	r, err := l.read(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if !same(r, &c.seen) {
		if r.Term == c.seen.Term && c.seen.Challenge != [16]byte{} && r.Challenge == [16]byte{} {
			c.again = now.Add(l.Timeout + mathrand.N(l.Timeout)) // the holder lives
		}
		c.seen, c.since = *r, now
	}
	free := r.Term == [16]byte{} || l.is(r.Holder)
	mine := l.is(r.Challenger)
	switch {
	case free, mine && r.Challenge != [16]byte{} && now.Sub(c.since) >= l.Timeout:
		return l.take(ctx)
	case r.Challenge == [16]byte{} && now.Before(c.again):
		return nil, nil
	case r.Challenge != [16]byte{} && (mine || now.Sub(c.since) < 2*l.Timeout):
		return nil, nil // wait for the answer; another challenger may be dead, too
	}
	r.Challenge = nonce()
	r.Challenger = Holder{Node: l.Node, Address: l.Address}
	return nil, l.write(ctx, r)
}

func same(a, b *record) bool { return a.Term == b.Term && a.Challenge == b.Challenge }

func (l *inBucket) is(h Holder) bool { return h.Node == l.Node && h.Address == l.Address }

// take writes this node as the holder, and returns that if it stands.
func (l *inBucket) take(ctx context.Context) (*record, error) {
	r := &record{Database: l.Database, Term: nonce(), Holder: Holder{l.Node, l.Address, time.Now()}}
	if err := l.write(ctx, r); err != nil {
		return nil, err
	}
	pause(ctx, l.settle())
	stands, err := l.read(ctx)
	if err != nil || stands.Term != r.Term {
		return nil, err
	}
	return r, nil
}

func (l *inBucket) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.stop, l.done = cancel, done
	go func() {
		defer close(done)
		l.keep(ctx)
	}()
}

// end ends the background work and waits for it.
func (l *inBucket) end() {
	if l.stop != nil {
		l.stop()
		<-l.done
		l.stop = nil
	}
}

// keep answers challenges until another node holds the lease.
func (l *inBucket) keep(ctx context.Context) {
	for down := false; ; {
		pause(ctx, l.look())
		if ctx.Err() != nil {
			return
		}
		// An answer must not come later than a challenger waits.
		round, cancel := context.WithTimeout(ctx, l.Timeout-l.look())
		lost, err := l.answer(round)
		cancel()
		if lost {
			l.Logger.Warn("another node has taken the lease", "lease", l.String())
			l.set(nil)
			return
		}
		if err != nil && !down && ctx.Err() == nil {
			l.Logger.Warn("cannot reach the lease; this node leads on", "lease", l.String(), "err", err)
		}
		down = err != nil
	}
}

func (l *inBucket) answer(ctx context.Context) (lost bool, err error) {
	held := l.held()
	r, err := l.read(ctx)
	switch {
	case err != nil:
		return false, err
	case r.Term != held.Term && r.Term != [16]byte{}:
		return true, nil
	case !same(r, held): // challenged, deleted or damaged
		return false, l.write(ctx, held)
	}
	return false, nil
}

// Release implements Lease.
func (l *inBucket) Release(ctx context.Context) error {
	l.end()
	held := l.held()
	if held == nil {
		return nil
	}
	l.set(nil)
	r, err := l.read(ctx)
	if err == nil && r.Term == held.Term {
		err = l.write(ctx, &record{Database: l.Database, Holder: Holder{Since: time.Now()}})
	}
	if err != nil {
		return fmt.Errorf("release the lease, %s: %w", l, err)
	}
	return nil
}

// Close implements Lease.
func (l *inBucket) Close() error {
	l.end()
	l.set(nil)
	return nil
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
