package s3bucket

import "time"

// SetPatience sets how often a request of a stream is tried, and how long its
// reader may be silent and keep its memory.
func (b *Bucket) SetPatience(attempts int, silence time.Duration) {
	b.patience, b.silence = attempts, silence
}

// PartSize is partSize.
func PartSize(n int) int { return partSize(n) }
