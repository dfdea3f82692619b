package bench

import (
	"math/bits"
	"time"
)

const (
	histogramBits = 6 // 64 buckets for each power of two: 1.6 % at worst
	histogramSize = (64 - histogramBits + 1) << histogramBits
)

// A Histogram counts durations in buckets whose width grows with them, so that
// each percentile is right within 1.6 %. The zero value is empty.
type Histogram struct {
	counts []int64
	count  int64
	sum    time.Duration
	max    time.Duration
}

// bucketOf returns the bucket of a duration: below 1<<histogramBits its
// nanoseconds, above that the power of two and the bits after the first.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-histogramBits-1, 0)
	return shift<<histogramBits + int(v>>shift)
}

// bucketEnd returns the longest duration of a bucket.
func bucketEnd(i int) time.Duration {
	shift := max(i>>histogramBits-1, 0)
	return time.Duration(i-shift<<histogramBits+1)<<shift - 1
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	if h.counts == nil {
		h.counts = make([]int64, histogramSize)
	}
	h.counts[bucketOf(d)]++
	h.count++
	h.sum += d
	h.max = max(h.max, d)
}

// Merge counts what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	if other.count == 0 {
		return
	}
	if h.counts == nil {
		h.counts = make([]int64, histogramSize)
	}
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.count += other.count
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Count returns how many durations were counted.
func (h *Histogram) Count() int64 { return h.count }

// Max returns the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean returns the mean, exactly.
func (h *Histogram) Mean() time.Duration {
	if h.count == 0 {
		return 0
	}
	return h.sum / time.Duration(h.count)
}

// Quantile returns the duration that a share q of those counted do not exceed.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(int64(q*float64(h.count)+0.5), 1)
	for i, n := range h.counts {
		if rank -= n; rank <= 0 && n > 0 {
			return min(bucketEnd(i), h.max)
		}
	}
	return h.max
}
