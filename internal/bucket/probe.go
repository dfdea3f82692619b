package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrNoConditionalPut says that the store does not keep the promise of
// PutIfAbsent, so that two servers could both believe that they committed, and
// one transaction would be lost.
var ErrNoConditionalPut = errors.New("the store does not keep put-if-absent")

// ProbePrefix is what the names begin with that Probe writes to.
const ProbePrefix = "probe/"

const (
	probeRaces    = 16 // names raced for
	probeWriters  = 8  // for each name
	probeAtOnce   = 8  // races under way at a time; with 4 a branch takes 0.4 s more where a request takes 30 ms
	probeReads    = 6  // of an object whose bytes are not as expected
	probeSize     = 4 << 10
	probeBackoff  = 50 * time.Millisecond
	probeTime     = 30 * time.Second // given up after that
	probeCleaning = 10 * time.Second
)

// Probe lets several writers race for names of its own, below ProbePrefix, and
// returns an error that wraps ErrNoConditionalPut if not exactly one of them
// wins each, if the winner's bytes are not what is read then, or if an object
// that is there can be put once more. This is invariant I2: a bucket is probed
// before the first use. What was written is removed again.
//
// A writer whose outcome is unknown tries again, as the log does.
func Probe(ctx context.Context, b Bucket) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	prefix := ProbePrefix + fmt.Sprintf("%x", randomBytes(8))
	var (
		wg     sync.WaitGroup
		gate   = make(chan struct{}, probeAtOnce)
		errs   = make([]error, probeRaces)
		failed = make(chan struct{})
		once   sync.Once
	)
races:
	for i := range probeRaces {
		select {
		case gate <- struct{}{}:
		case <-failed:
			break races
		}
		wg.Go(func() {
			defer func() { <-gate }()
			r := race{b: b, name: fmt.Sprintf("%s/%02d", prefix, i)}
			errs[i] = r.run(ctx)
			r.clean(ctx)
			if errs[i] != nil {
				once.Do(func() { close(failed) })
			}
		})
	}
	wg.Wait()
	for _, err := range errs { // a verdict says more than a failure
		if errors.Is(err, ErrNoConditionalPut) {
			return err
		}
	}
	return errors.Join(errs...)
}

// A race is one name that all writers want.
type race struct {
	b    Bucket
	name string
}

// An entrant is one writer of a race, and how it fared.
type entrant struct {
	data    []byte
	won     bool // a put succeeded
	unknown bool // a put before may have
	err     error
}

func (r *race) run(ctx context.Context) error {
	entrants := make([]entrant, probeWriters)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range entrants {
		e := &entrants[i]
		e.data = randomBytes(probeSize)
		wg.Go(func() {
			<-start
			r.put(ctx, e)
		})
	}
	close(start)
	wg.Wait()

	winners := 0
	for _, e := range entrants {
		if e.err != nil {
			return fmt.Errorf("probing for put-if-absent: %w", e.err)
		}
		if e.won {
			winners++
		}
	}
	if winners > 1 {
		return r.verdict("%d of %d writers were told that they alone wrote one object", winners, probeWriters)
	}
	owner := -1
	found, err := r.read(ctx, func(data []byte) bool {
		owner = slices.IndexFunc(entrants, func(e entrant) bool { return bytes.Equal(e.data, data) })
		return owner >= 0
	})
	if err != nil {
		return err
	}
	switch {
	case owner < 0:
		return r.verdict("%d writers raced for one object, and it has none's bytes", probeWriters)
	case winners == 1 && !entrants[owner].won:
		return r.verdict("one writer was told that it wrote an object, which then had the bytes of another")
	case winners == 0 && !entrants[owner].unknown:
		return r.verdict("%d writers raced for one object, and all were told that there is one already", probeWriters)
	}

	second := entrant{data: randomBytes(probeSize)}
	r.put(ctx, &second)
	if second.err != nil {
		return fmt.Errorf("probing for put-if-absent: %w", second.err)
	}
	if second.won {
		return r.verdict("an object that existed was put once more")
	}
	again, err := r.read(ctx, func(data []byte) bool { return bytes.Equal(data, found) })
	if err != nil {
		return err
	}
	if !bytes.Equal(again, found) {
		return r.verdict("a put that was refused changed the object")
	}
	return nil
}

// put tries until the outcome is known.
func (r *race) put(ctx context.Context, e *entrant) {
	for {
		err := r.b.PutIfAbsent(ctx, r.name, e.data)
		switch {
		case err == nil:
			e.won = true
			return
		case errors.Is(err, ErrExist):
			return
		case Refused(err):
			e.err = err
			return
		}
		e.unknown = true
		if Sleep(ctx, probeBackoff) != nil {
			e.err = err
			return
		}
	}
}

// read returns the bytes of the object, which must be there. What is not
// expected may only have been damaged on the way: it is read again.
func (r *race) read(ctx context.Context, expected func([]byte) bool) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		data, err := r.b.Get(ctx, r.name, probeSize)
		switch {
		case err == nil && (expected(data) || attempt == probeReads):
			return data, nil
		case err == nil:
		case errors.Is(err, ErrNotExist):
			return nil, r.verdict("an object that was written cannot be read")
		case errors.Is(err, ErrTooLarge):
			return nil, r.verdict("an object is larger than what was written")
		case Refused(err):
			return nil, fmt.Errorf("probing for put-if-absent: %w", err)
		}
		if Sleep(ctx, probeBackoff) != nil {
			return nil, fmt.Errorf("probing for put-if-absent: %w", err)
		}
	}
}

// clean removes the object, also if the probe was cancelled.
func (r *race) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeCleaning)
	defer cancel()
	for range 3 {
		if r.b.Delete(ctx, r.name) == nil {
			return
		}
	}
}

func (r *race) verdict(format string, args ...any) error {
	return &Error{Op: "probe", Location: r.b.Properties().Location, Err: fmt.Errorf(
		"%w: %s. Use a store that knows the header If-None-Match for writing "+
			"(Amazon S3 does, and gateways in newer versions), or a local directory that can link(2) files",
		ErrNoConditionalPut, fmt.Sprintf(format, args...))}
}

// Refused reports that an error of a Bucket says for certain that nothing was
// done, and that asking again will not help unless somebody changes something.
// ErrExist and ErrNotExist, which are answers, are not meant.
func Refused(err error) bool {
	for _, sentinel := range []error{ErrNoBucket, ErrDenied, ErrBadName, ErrTooLarge, ErrNoConditionalPut} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
