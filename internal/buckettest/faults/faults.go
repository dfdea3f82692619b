// Package faults disturbs a bucket, so that those who use one can be tested
// against everything that a store on the other side of a network does: answers
// that get lost, writes that land after their call has failed, conflicts,
// errors with and without effect, damaged reads. What it does to a caller that
// keeps to the contract of bucket.Bucket is always allowed by it, but for
// Truncate and Flip, against which there are checksums.
//
// It knows no package testing, so that the server can run with it.
package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"s3storage/internal/bucket"
)

// ErrInjected is in every error that this package makes.
var ErrInjected = errors.New("injected fault")

// Bucket is a bucket with faults.
//
// Which fault strikes a call is drawn from the seed, the kind of operation, the
// object's name, or its alias, and how many such calls there were before: it does not depend
// on how the calls of several goroutines are interleaved.
type Bucket struct {
	b      bucket.Bucket
	config Config
	late   sync.WaitGroup // writes that have not landed
	hurry  chan struct{}  // closed by Close: all land at once

	mu struct {
		sync.Mutex
		off    bool
		closed bool
		calls  map[call]uint64
		rules  []*rule
		counts [numActions]int
		landed int
	}
}

type call struct {
	kind bucket.Kind
	name string
}

var _ bucket.Bucket = (*Bucket)(nil)

// New returns b with faults.
func New(b bucket.Bucket, c Config) *Bucket {
	f := &Bucket{b: b, config: c, hurry: make(chan struct{})}
	f.mu.calls = map[call]uint64{}
	return f
}

// Enable turns the faults on or off, random and scripted ones. At first they
// are on.
func (f *Bucket) Enable(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.off = !on
}

// A Rule is a part of a script: it strikes the calls of one kind for names
// under a prefix, from the nth on.
type Rule struct {
	Kind   bucket.Kind
	Prefix string
	Nth    int // 0 and 1 both mean the next one
	Times  int // how many calls in a row; 0 means 1, a negative number all
	Fault  Fault
}

type rule struct {
	Rule
	seen int
}

// Script adds rules. The first one that matches a call strikes it, and no
// random fault does; every rule counts the calls that match it. The prefix of a
// listing is its name.
func (f *Bucket) Script(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range rules {
		r.Nth, r.Times = max(r.Nth, 1), max(r.Times, -1)
		if r.Times == 0 {
			r.Times = 1
		}
		f.mu.rules = append(f.mu.rules, &rule{Rule: r})
	}
}

// ClearScript removes all rules.
func (f *Bucket) ClearScript() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.rules = nil
}

// Struck returns how many calls were struck by an action.
func (f *Bucket) Struck(a Action) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.counts[a]
}

// Landed returns how many late writes were tried by now, whatever came of it.
func (f *Bucket) Landed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.landed
}

// Wait returns when all late writes have landed. No call may be under way.
func (f *Bucket) Wait() { f.late.Wait() }

// Close lets all late writes land at once, those that wait for a channel too,
// and waits for them. Afterwards no write is late; other faults go on.
func (f *Bucket) Close() error {
	f.mu.Lock()
	if !f.mu.closed {
		f.mu.closed = true
		close(f.hurry)
	}
	f.mu.Unlock()
	f.late.Wait()
	return nil
}

// random returns a generator for the nth call of its kind and name.
func (f *Bucket) random(c call, n uint64) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range []byte(c.name) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return rand.New(rand.NewPCG(f.config.Seed^h, n<<8|uint64(c.kind)))
}

// strike decides what happens to a call, and waits if it is to be delayed.
func (f *Bucket) strike(ctx context.Context, k bucket.Kind, name string) (Fault, *rand.Rand, error) {
	fault, delay, r := f.decide(k, name)
	if err := bucket.Sleep(ctx, delay); err != nil {
		if fault.Action == Late {
			f.late.Done()
		}
		return Fault{}, r, bucket.NewError(f, k, name, err)
	}
	return fault, r, nil
}

func (f *Bucket) decide(k bucket.Kind, name string) (fault Fault, delay time.Duration, r *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := call{k, name}
	if f.config.Alias != nil {
		c.name = f.config.Alias(name)
	}
	n := f.mu.calls[c]
	f.mu.calls[c] = n + 1
	r = f.random(c, n)
	if f.mu.off {
		return Fault{}, 0, r
	}
	scripted := false
	for _, rule := range f.mu.rules {
		if rule.Kind != k || !strings.HasPrefix(name, rule.Prefix) {
			continue
		}
		rule.seen++
		past := rule.seen - rule.Nth
		if !scripted && past >= 0 && (rule.Times < 0 || past < rule.Times) {
			scripted = true
			fault = rule.Fault
		}
	}
	if !scripted {
		fault, delay = f.draw(k, r)
	} else if fault.Action == Delay {
		fault.Action, delay = None, fault.After
	}
	if delay > 0 {
		f.mu.counts[Delay]++
	}
	if fault.Action == Late && !isWrite(k) {
		fault.Action = Never
	}
	if fault.Action == Late && f.mu.closed {
		fault = Fault{}
	}
	if fault.Action == Late {
		f.late.Add(1) // under mu, so that Close cannot miss it
	}
	f.mu.counts[fault.Action]++
	return fault, delay, r
}

// draw throws the dice. It always throws the same number of them.
func (f *Bucket) draw(k bucket.Kind, r *rand.Rand) (Fault, time.Duration) {
	rates := &f.config.Kinds[k]
	var delay time.Duration
	wait, late := rates.DelayFor.Pick(r), rates.LateBy.Pick(r)
	if r.Float64() < rates.Delay {
		delay = wait
	}
	nevertheless := isWrite(k) && r.Float64() < f.config.Nevertheless
	either := func(without, done Action) Action {
		if nevertheless {
			return done
		}
		return without
	}
	dice := r.Float64()
	choose := func(rate float64, possible bool) bool {
		if !possible {
			return false
		}
		dice -= rate
		return dice < 0
	}
	write := isWrite(k)
	read := k == bucket.KindGet || k == bucket.KindGetRange
	switch {
	case choose(rates.Lost, write):
		return Fault{Action: Lost}, delay
	case choose(rates.Late, write):
		return Fault{Action: Late, After: late}, delay
	case choose(rates.Never, write):
		return Fault{Action: Never}, delay
	case choose(rates.Error409, k == bucket.KindPutIfAbsent):
		return Fault{Action: either(Error409, Done409)}, delay
	case choose(rates.Error500, true):
		return Fault{Action: either(Error500, Done500)}, delay
	case choose(rates.Error503, true):
		return Fault{Action: either(Error503, Done503)}, delay
	case choose(rates.Truncate, read):
		return Fault{Action: Truncate}, delay
	case choose(rates.Flip, read):
		return Fault{Action: Flip}, delay
	}
	return Fault{}, delay
}

func isWrite(k bucket.Kind) bool {
	switch k {
	case bucket.KindPutIfAbsent, bucket.KindPut, bucket.KindPutStream, bucket.KindDelete:
		return true
	}
	return false
}
