package catalog_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/weakstore"
)

// A dying store is one whose process dies when an object was deleted, before PostgreSQL
// has heard of it.
type dying struct {
	bucket.Bucket
	die context.CancelFunc
}

// Delete implements bucket.Bucket.
func (d dying) Delete(ctx context.Context, name string) error {
	err := d.Bucket.Delete(ctx, name)
	d.die()
	return err
}

func TestADeletionThatWasBrokenOffLeavesNoObject(t *testing.T) {
	c := weakstore.Start(t)
	memory, name := bucket.NewMemory(), c.Name()
	ctx, die := context.WithCancel(t.Context())
	b := c.Open(t, dying{memory, die}, name, 0)
	put(t, b, "log/1", "one")
	until(t, "it is in the store", func() bool { return in(t, memory, "log/1", "one") })
	if err := b.Delete(ctx, "log/1"); err == nil {
		t.Fatal("it was not broken off")
	}
	next := c.Open(t, memory, name, 0)
	if _, err := next.Get(t.Context(), "log/1", 100); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("what was deleted: %v", err)
	}
	if n, err := next.CleanUp(t.Context(), 0); err != nil || n != 1 {
		t.Errorf("%d were cleaned up, %v", n, err)
	}
}

// A failing store takes the first stream and does not say so.
type failing struct {
	bucket.Bucket
	streams, deletes atomic.Int64
}

// PutStream implements bucket.Bucket.
func (s *failing) PutStream(ctx context.Context, name string, r io.Reader) error {
	err := s.Bucket.PutStream(ctx, name, r)
	if s.streams.Add(1) == 1 {
		return bucket.NewError(s, bucket.KindPutStream, name, errors.New("500"))
	}
	return err
}

// Delete implements bucket.Bucket.
func (s *failing) Delete(ctx context.Context, name string) error {
	s.deletes.Add(1)
	return s.Bucket.Delete(ctx, name)
}

// A deletion may land late, when the next attempt has succeeded.
func TestNothingIsDeletedBetweenTwoAttemptsAtAStream(t *testing.T) {
	c := weakstore.Start(t)
	s := &failing{Bucket: bucket.NewMemory()}
	b := c.Open(t, s, c.Name(), 0)
	err := bucket.Retry(t.Context(), 3, func() error {
		return b.PutStream(t.Context(), "segment/1", strings.NewReader(strings.Repeat("large", 200<<10)))
	})
	if n := s.deletes.Load(); err != nil || n > 0 {
		t.Errorf("%d deletions, %v", n, err)
	}
	if _, err := b.Get(t.Context(), "segment/1", 1<<30); err != nil {
		t.Error(err)
	}
}

func TestAStreamThatIsDeletedMeanwhileFails(t *testing.T) {
	c := weakstore.Start(t)
	memory, name := bucket.NewMemory(), c.Name()
	b := c.Open(t, memory, name, 3*time.Second)
	var wg sync.WaitGroup
	var err error
	wg.Go(func() {
		err = b.PutStream(t.Context(), "blob/1", strings.NewReader(strings.Repeat("large", 200<<10)))
	})
	until(t, "it is in the store", func() bool {
		_, err := memory.Get(t.Context(), "blob/1", 1<<30)
		return err == nil
	})
	if n, err := b.CleanUp(t.Context(), 0); err != nil || n != 1 {
		t.Errorf("%d were cleaned up, %v", n, err)
	}
	wg.Wait()
	if err == nil {
		t.Error("what was deleted is said to be written")
	}
}

// A caller that gives up must not have PostgreSQL end its wait for the standby: others
// would see what may be lost with the primary.
func TestWhatNoStandbyHasIsNotSeenWhenItsWriterGivesUp(t *testing.T) {
	c := weakstore.Start(t)
	name := c.Name()
	writer, reader := c.Open(t, bucket.NewMemory(), name, 0), c.Open(t, bucket.NewMemory(), name, 0)
	put(t, writer, "log/0", "zero")
	admin, err := pgx.Connect(t.Context(), c.Location)
	if err != nil {
		t.Fatal(err)
	}
	set := func(statement string) {
		t.Helper()
		for _, q := range []string{statement, "SELECT pg_reload_conf()"} {
			if _, err := admin.Exec(context.Background(), q); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
	defer set("ALTER SYSTEM RESET synchronous_standby_names")
	until(t, "it waits for standbys", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return writer.Put(ctx, "probe", nil) != nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := writer.PutIfAbsent(ctx, "log/1", []byte("one")); err == nil {
		t.Fatal("it did not wait")
	}
	for range 20 { // a request to cancel takes its time
		if data, err := reader.Get(t.Context(), "log/1", 100); !errors.Is(err, bucket.ErrNotExist) {
			t.Fatalf("another node sees %q, %v", data, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}
