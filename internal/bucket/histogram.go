package bucket

import (
	"math/bits"
	"time"
)

// A Histogram counts durations in classes that are at most an eighth wide: the
// durations below 8 µs by the microsecond, and then each doubling in eight
// classes, up to an hour and more.
type Histogram struct {
	Counts [histogramSize]uint64
}

const (
	histogramBits = 3
	histogramSize = (32 - histogramBits + 1) << histogramBits
)

func class(d time.Duration) int {
	us := uint64(max(0, d/time.Microsecond))
	if us < 1<<histogramBits {
		return int(us)
	}
	shift := bits.Len64(us) - histogramBits - 1
	return min(histogramSize-1, shift<<histogramBits+int(us>>shift))
}

// UpTo returns the duration that all those in class i stay below.
func (h *Histogram) UpTo(i int) time.Duration {
	i++
	if i < 1<<histogramBits {
		return time.Duration(i) * time.Microsecond
	}
	shift := i>>histogramBits - 1
	return time.Duration(i-shift<<histogramBits) << shift * time.Microsecond
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) { h.Counts[class(d)]++ }

// Total returns how many durations were counted.
func (h *Histogram) Total() uint64 {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile returns a duration that the share q (0 to 1) of those counted stays
// below, and not much more than is needed for that; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Total()
	if total == 0 {
		return 0
	}
	left := q * float64(total)
	last := 0
	for i, c := range h.Counts {
		if c == 0 {
			continue
		}
		last = i
		if left -= float64(c); left <= 0 {
			break
		}
	}
	return h.UpTo(last)
}
