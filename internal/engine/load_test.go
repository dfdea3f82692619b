package engine

import (
	"bytes"
	"log/slog"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

func TestWhatIsOnlyNotInMemoryIsNoErrorInTheLog(t *testing.T) {
	var log bytes.Buffer
	e := openEngine(t, bucket.NewMemory(), func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	big := bytes.Repeat([]byte("data"), 1<<20)
	var large []stored // so large that it goes into payload objects
	for oid := range zodb.Oid(5) {
		large = append(large, stored{oid, 0, string(big)})
	}
	commit(t, e, large...)
	if _, _, hit, err := e.LoadBeforeCached(0, zodb.MaxTid); hit || err != nil {
		t.Fatalf("hit: %t, error: %v", hit, err)
	}
	if rev := load(t, e, 0); !bytes.Equal(rev.Data, big) {
		t.Errorf("%d bytes", len(rev.Data))
	}
	closeEngine(t, e)
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
}
