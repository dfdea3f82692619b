package blob

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
)

func wantNoObjects(t *testing.T, b bucket.Bucket) {
	t.Helper()
	err := b.List(context.Background(), "", "", func(i bucket.Info) error {
		t.Errorf("%s is left, of %d bytes", i.Name, i.Size)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	directory, err := bucket.OpenDirectory(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	for _, b := range []bucket.Bucket{bucket.NewMemory(), directory} {
		for what, use := range map[string]func(*Upload){
			"at once":        func(*Upload) {},
			"in the middle":  func(u *Upload) { u.Write(noise()[:pieceSize+5]) },
			"after the end":  func(u *Upload) { u.Write(noise()[:5]); u.Finish() },
			"a second time":  func(u *Upload) { u.Write(noise()[:5]); u.Abort() },
			"of a cancelled": func(u *Upload) { u.Write(noise()[:5]); u.cancel() },
		} {
			u := NewUpload(t.Context(), b, database)
			use(u)
			if err := u.Abort(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			wantNoObjects(t, b)
			if n, err := b.CleanUp(t.Context(), 0); n != 0 || err != nil {
				t.Errorf("%s: %d unfinished writes are left, %v", what, n, err)
			}
			if _, err := u.Write([]byte("x")); err == nil {
				t.Errorf("%s: written after it was aborted", what)
			}
		}
	}
}

// A stuck bucket takes no bytes until its context ends.
type stuck struct{ *bucket.Memory }

func (stuck) PutStream(ctx context.Context, _ string, _ io.Reader) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestWriteWaitsForTheBucketUntilTheUploadIsEnded(t *testing.T) {
	for _, how := range []string{"abort", "context"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			u := NewUpload(ctx, stuck{bucket.NewMemory()}, database)
			written := make(chan error, 1)
			go func() {
				_, err := u.Write(noise()[:uploadBuffers*uploadBuffer])
				written <- err
			}()
			synctest.Wait()
			if len(written) > 0 {
				t.Errorf("Write did not wait: %v", <-written)
			}
			if how == "context" {
				cancel()
				if err := <-written; !errors.Is(err, context.Canceled) {
					t.Errorf("Write: %v", err)
				}
				if _, err := u.Finish(); !errors.Is(err, context.Canceled) {
					t.Errorf("Finish: %v", err)
				}
			}
			if err := u.Abort(); err != nil {
				t.Error(err)
			}
			if how == "abort" {
				if err := <-written; !errors.Is(err, context.Canceled) {
					t.Errorf("Write: %v", err)
				}
			}
		})
	}
}

func TestFailedPutIsToldToTheWriterAndRemoved(t *testing.T) {
	for _, action := range []faults.Action{faults.Lost, faults.Never, faults.Error500, faults.Done503} {
		m := bucket.NewMemory()
		b := faults.New(m, faults.Config{})
		b.Script(faults.Rule{Kind: bucket.KindPutStream, Fault: faults.Fault{Action: action}},
			faults.Rule{Kind: bucket.KindDelete, Fault: faults.Fault{Action: faults.Error503}})
		u := NewUpload(t.Context(), b, database)
		_, err := u.Write(noise()[:pieceSize])
		if err == nil {
			_, err = u.Finish()
		}
		if !errors.Is(err, faults.ErrInjected) {
			t.Errorf("%v: error %v", action, err)
		}
		if err := u.Abort(); err != nil {
			t.Errorf("%v: Abort: %v", action, err)
		}
		wantNoObjects(t, m)
	}
}

func TestWrittenBytesMayBeChangedAfterwards(t *testing.T) {
	m := bucket.NewMemory()
	u := NewUpload(t.Context(), m, database)
	b := []byte("hello")
	if _, err := u.Write(b); err != nil {
		t.Fatal(err)
	}
	copy(b, "?????")
	if _, err := u.Finish(); err != nil {
		t.Fatal(err)
	}
	if data, err := read(t.Context(), m, nil, u.ID(), 5); err != nil || string(data) != "hello" {
		t.Errorf("%q, %v", data, err)
	}
}

// A transaction may have many blobs, and keeps them until it is committed.
func TestAFinishedUploadHoldsNoBuffers(t *testing.T) {
	u := NewUpload(t.Context(), bucket.NewMemory(), database)
	if _, err := u.Write(noise()[:2*pieceSize]); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Finish(); err != nil {
		t.Fatal(err)
	}
	if cap(u.out) > 0 || len(u.empty) > 0 || len(u.full) > 0 {
		t.Errorf("it holds %d bytes and %d buffers", cap(u.out), len(u.empty)+len(u.full))
	}
}
