package faults

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"s3storage/internal/bucket"
)

// Rates are the probabilities of faults, 0 to 1. At most one strikes a call,
// but for Delay, which comes in addition; those that make no sense for an
// operation (a conflict of a read, a damaged write) never do.
type Rates struct {
	Delay    float64
	DelayFor bucket.Delay

	Lost     float64 // of writes: done, then reported as failed
	Late     float64 // of writes: reported as timed out, done LateBy afterwards
	LateBy   bucket.Delay
	Never    float64 // of writes: reported as timed out, never done
	Error409 float64 // of PutIfAbsent: the conflict of two concurrent requests
	Error500 float64
	Error503 float64

	Truncate float64 // of reads: the end is missing, and no error says so
	Flip     float64 // of reads: one bit is wrong
}

// Config says how often what happens.
type Config struct {
	Seed  uint64
	Kinds [bucket.NumKinds]Rates

	// Alias, if set, returns what stands for an object's name where faults are drawn:
	// names may be random, and what happens by a seed should not be.
	Alias func(name string) string

	// Nevertheless is the share of the errors 409, 500 and 503 that come
	// after a write was done.
	Nevertheless float64

	// Eventual is the share of the writes that a store as Eventual is shows late,
	// and EventualFor its Tp. New takes no notice of it.
	Eventual    float64
	EventualFor time.Duration
}

// Parse reads a configuration such as
//
//	seed=1,delay=0.1:20ms,lost=0.05,late=0.05:100ms..2s,never=0.01,409=0.02,500=0.05,503=0.05,truncate=0.02,flip=0.02
//
// After the colon stands how long, as one time or as a range. A rate holds for
// all operations, or, as in put-if-absent.lost=0.2, for one kind; of several
// the last one holds. nevertheless=0.5 is the share of errors 409, 500 and 503
// that strike after the write; without it, half of them. eventual=1:2s makes the
// store below all that one as NewEventual does, and is for all kinds.
func Parse(s string) (Config, error) {
	c := Config{Nevertheless: 0.5}
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		if err := c.parse(entry); err != nil {
			return Config{}, fmt.Errorf("fault %q: %w", entry, err)
		}
	}
	return c, nil
}

func (c *Config) parse(entry string) error {
	word, value, ok := strings.Cut(entry, "=")
	if !ok {
		return fmt.Errorf("want word=value")
	}
	if word == "seed" {
		seed, err := strconv.ParseUint(value, 10, 64)
		c.Seed = seed
		return err
	}
	value, times, timed := strings.Cut(value, ":")
	rate, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return err
	}
	if !(rate >= 0 && rate <= 1) {
		return fmt.Errorf("%v is no probability", rate)
	}
	if word == "nevertheless" {
		c.Nevertheless = rate
		return nil
	}
	if word == "eventual" {
		c.Eventual = rate
		c.EventualFor, err = time.ParseDuration(times)
		return err
	}
	kinds := c.Kinds[:]
	if kind, fault, ok := strings.Cut(word, "."); ok {
		k, err := bucket.ParseKind(kind)
		if err != nil {
			return err
		}
		word, kinds = fault, c.Kinds[k:k+1]
	}
	if timed != (word == "delay" || word == "late") {
		return fmt.Errorf("delay and late, and no others, have a time: delay=0.1:20ms")
	}
	var delay bucket.Delay
	if timed {
		if delay, err = bucket.ParseDelay(times); err != nil {
			return err
		}
	}
	for i := range kinds {
		r := &kinds[i]
		switch word {
		case "delay":
			r.Delay, r.DelayFor = rate, delay
		case "late":
			r.Late, r.LateBy = rate, delay
		case "lost":
			r.Lost = rate
		case "never":
			r.Never = rate
		case "409":
			r.Error409 = rate
		case "500":
			r.Error500 = rate
		case "503":
			r.Error503 = rate
		case "truncate":
			r.Truncate = rate
		case "flip":
			r.Flip = rate
		default:
			return fmt.Errorf("there is no fault %q", word)
		}
	}
	return nil
}

// A Fault is what strikes one call.
type Fault struct {
	Action Action
	After  time.Duration   // of Late: when the write is done
	Until  <-chan struct{} // of Late, in place of After: done when this is closed
}

// An Action is a kind of fault.
type Action uint8

// The actions. The errors of all but Delay, Truncate and Flip leave the
// outcome of a write unknown, as far as the caller can tell.
const (
	None     Action = iota
	Delay           // counted only: a call may have been delayed and struck by another fault
	Lost            // the write is done, and an error returned
	Late            // an error is returned, and the write done later, whoever still waits
	Never           // an error is returned, as by Late, and the write never done
	Error409        // an error is returned without effect
	Error500        // "
	Error503        // "
	Done409         // an error is returned after the write was done
	Done500         // "
	Done503         // "
	Truncate        // a read returns less than it should
	Flip            // a read returns a wrong bit
	numActions
)

var actionNames = [numActions]string{"none", "delay", "lost", "late", "never", "409", "500", "503",
	"409-done", "500-done", "503-done", "truncate", "flip"}

func (a Action) String() string { return actionNames[a] }
