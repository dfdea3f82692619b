package engine

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// slowStreams takes streams and ends none before release.
type slowStreams struct {
	bucket.Bucket
	release chan struct{}
}

func (b slowStreams) PutStream(ctx context.Context, name string, r io.Reader) error {
	err := b.Bucket.PutStream(ctx, name, r)
	<-b.release
	return err
}

// A client sends one blob after the other, and does not ask whether they stand.
func TestBlobsWaitWhileTooManyAreNotInTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slowStreams{bucket.NewMemory(), make(chan struct{})}
		e := openEngine(t, b)
		txn := begin(t, e)
		for i := range maxFinishing {
			blob, err := e.NewBlob(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := txn.StoreBlob(zodb.Oid(i+1), zodb.NoTid, []byte("record"), blob); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := e.NewBlob(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("one more: %v", err)
		}
		close(b.release)
		blob, err := e.NewBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		blob.Abort()
		vote(t, txn)
		txn.Abort()
	})
}
