package storagetest

import (
	"testing"
	"time"

	"s3storage/internal/zodb"
)

func TestMemoryKeepsThePromises(t *testing.T) {
	Conformance(t, func(*testing.T) zodb.Storage { return NewMemory("memory", time.Now, References) })
}

func TestATidIsNeverGivenTwiceThoughTheClockStands(t *testing.T) {
	Conformance(t, func(*testing.T) zodb.Storage {
		now := time.Now()
		return NewMemory("memory", func() time.Time { return now }, References)
	})
}
