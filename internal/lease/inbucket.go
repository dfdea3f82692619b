package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
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
	candidacy
	held *record // nil: not held
}

func newInBucket(o Options) *keeper {
	poll := o.Timeout / 10
	return &keeper{
		Options: o,
		granter: &inBucket{Options: o},
		// Not quite the same time for all, so that candidates part.
		poll: func() time.Duration { return poll/2 + mathrand.N(poll) },
		look: o.Timeout * 3 / 5,
	}
}

func (l *inBucket) String() string {
	return fmt.Sprintf("object %s in %s", ObjectName, l.Bucket.Properties().Location)
}

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

func (l *inBucket) holder(ctx context.Context) (Holder, error) {
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

func (l *inBucket) hopeless(err error) bool {
	return errors.Is(err, bucket.ErrDenied) || errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, zodb.ErrNewerFormat)
}

// A candidacy is what a candidate remembers between two looks.
type candidacy struct {
	seen  record    // what stood last
	since time.Time // since when it has stood
	again time.Time // no challenge before this time
}

// take looks once, and does what is to be done.
func (l *inBucket) take(ctx context.Context) (got bool, err error) {
	r, err := l.read(ctx)
	if err != nil {
		return false, err
	}
	now, c := time.Now(), &l.candidacy
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
		return l.claim(ctx)
	case r.Challenge == [16]byte{} && now.Before(c.again):
		return false, nil
	case r.Challenge != [16]byte{} && (mine || now.Sub(c.since) < 2*l.Timeout):
		return false, nil // wait for the answer; another challenger may be dead, too
	}
	r.Challenge = nonce()
	r.Challenger = Holder{Node: l.Node, Address: l.Address}
	return false, l.write(ctx, r)
}

func same(a, b *record) bool { return a.Term == b.Term && a.Challenge == b.Challenge }

// claim writes this node as the holder, and looks whether that stands.
func (l *inBucket) claim(ctx context.Context) (got bool, err error) {
	r := &record{Database: l.Database, Term: nonce(), Holder: Holder{l.Node, l.Address, time.Now()}}
	if err := l.write(ctx, r); err != nil {
		return false, err
	}
	pause(ctx, l.Timeout/20)
	stands, err := l.read(ctx)
	if err != nil || stands.Term != r.Term {
		return false, err
	}
	l.held = r
	return true, nil
}

// renew answers a challenge.
func (l *inBucket) renew(ctx context.Context) (lost bool, err error) {
	r, err := l.read(ctx)
	switch {
	case err != nil:
		return false, err
	case r.Term != l.held.Term && r.Term != [16]byte{}:
		return true, nil
	case !same(r, l.held): // challenged, deleted or damaged
		return false, l.write(ctx, l.held)
	}
	return false, nil
}

func (l *inBucket) free(ctx context.Context) error {
	r, err := l.read(ctx)
	if err != nil || r.Term != l.held.Term {
		return err
	}
	return l.write(ctx, &record{Database: l.Database, Holder: Holder{Since: time.Now()}})
}

func (l *inBucket) drop() { l.candidacy, l.held = candidacy{}, nil }
