package engine

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

func TestVotesAreRefusedWhenTooMuchCannotBeWrittenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slowSegments{Bucket: bucket.NewMemory()}
		var said bytes.Buffer
		const limit = 64 << 10
		e := openEngine(t, b, func(o *Options) {
			o.FlushBytes, o.MaxUnflushed = 4<<10, limit
			o.Logger = slog.New(slog.NewTextHandler(&said, nil))
		})
		gate := make(chan struct{})
		b.gate.Store(&gate)
		serial := zodb.NoTid
		var err error
		n := 0
		for ; err == nil && n < 1000; n++ {
			txn := begin(t, e, stored{0, serial, record(fmt.Sprint(n, strings.Repeat(" much", 200)))})
			if _, err = txn.Vote(t.Context()); err != nil {
				txn.Abort()
			} else if serial, err = finish(txn); err != nil {
				t.Fatal(err)
			}
		}
		if !errors.Is(err, errNoRoom) {
			t.Fatalf("after %d commits: %v", n, err)
		}
		if n < limit>>11 {
			t.Errorf("refused after %d commits", n)
		}
		if w := e.Work(); w.Stages[StageRoom].Time != roomPatience || w.Unflushed < limit || w.MaxUnflushed != limit {
			t.Errorf("waited %v for room, with %d of %d bytes unflushed", w.Stages[StageRoom].Time, w.Unflushed, w.MaxUnflushed)
		}
		if !strings.Contains(said.String(), "REFUSING COMMITS") {
			t.Errorf("the operator was told: %s", said.String())
		}
		// It waits for a while before it is refused.
		voted := make(chan error)
		go func() {
			txn := begin(t, e, stored{0, serial, record("the last one")})
			_, err := txn.Vote(t.Context())
			if err == nil {
				_, err = finish(txn)
			}
			voted <- err
		}()
		synctest.Wait()
		b.gate.Store(nil)
		close(gate)
		if err := <-voted; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !strings.Contains(said.String(), "taking commits again") {
			t.Errorf("the operator was told: %s", said.String())
		}
	})
}
