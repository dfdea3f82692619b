package bench

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A Plan is a whole benchmark.
type Plan struct {
	Options
	Address  string
	Versus   string        // the server to compare with, or ""
	Duration time.Duration // to measure each server
	Count    int64         // commits or loads after which to stop; 0 for no such bound
	Warmup   time.Duration // not counted
	Slice    time.Duration // Versus: how long a turn takes
}

// A Ratio sums up the ratios of rounds.
type Ratio struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func ratioOf(rounds []float64) Ratio {
	if len(rounds) == 0 {
		return Ratio{}
	}
	s := slices.Sorted(slices.Values(rounds))
	n := len(s)
	return Ratio{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1]}
}

// Measure does what the plan says. It returns a report of what was measured, if
// anything was, with an error too. The end of ctx ends it early, which is no
// error.
func Measure(ctx context.Context, p Plan) (*Report, error) {
	own, err := Open(ctx, p.Address, p.Options)
	if err != nil {
		return nil, err
	}
	defer own.Close()
	r := &Report{Plan: p, Figures: new(Figures)}
	if p.Versus == "" {
		if err := own.warm(ctx, p.Warmup); err != nil {
			return nil, err
		}
		f, err := own.Run(ctx, p.Duration, p.Count)
		r.Figures.Add(f)
		return r, err
	}
	versus, err := Open(ctx, p.Versus, p.Options)
	if err != nil {
		return nil, err
	}
	defer versus.Close()
	if err := errors.Join(own.warm(ctx, p.Warmup), versus.warm(ctx, p.Warmup)); err != nil {
		return nil, err
	}
	r.Against = new(Figures)
	err = r.compare(ctx, own, versus)
	return r, err
}

func (s *Session) warm(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	_, err := s.Run(ctx, d, 0)
	return err
}

// compare lets two sessions work by turns, a slice each a round, the one that
// comes first being the second in the next round. Only rounds that came to
// their end count.
func (r *Report) compare(ctx context.Context, own, versus *Session) error {
	p := &r.Plan
	slice := min(p.Slice, p.Duration)
	if slice <= 0 {
		return errors.New("a comparison takes time: slice and duration are more than 0")
	}
	for done := time.Duration(0); done < p.Duration && (p.Count <= 0 || r.Figures.count() < p.Count); done += slice {
		first, second := own, versus
		if len(r.Rounds)%2 == 1 {
			first, second = versus, own
		}
		a, err := first.Run(ctx, slice, p.Count)
		if err != nil {
			return err
		}
		b, err := second.Run(ctx, slice, p.Count)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // to end early is no error
		}
		if first != own {
			a, b = b, a
		}
		r.Figures.Add(a)
		r.Against.Add(b)
		if base := b.Rate(); base > 0 {
			r.Rounds = append(r.Rounds, a.Rate()/base)
		}
	}
	return nil
}
