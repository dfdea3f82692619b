package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"s3storage/internal/bucket"
)

const longest = 20_000_000

var noise = sync.OnceValue(func() []byte {
	data := make([]byte, longest+256)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	return data
})

// random returns n bytes, others for each seed, which must not be changed.
func random(seed byte, n int) []byte { return noise()[seed:][:n] }

// streamSizes lie around the sizes of buffers and of parts.
func streamSizes() []int {
	sizes := []int{0, 1, 1000, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300_000, 1 << 20, 1<<20 + 1}
	if !testing.Short() {
		sizes = append(sizes, 5<<20, 8<<20-1, 8<<20, 8<<20+1, longest)
	}
	return sizes
}

func testStream(t *testing.T, b bucket.Bucket) {
	for i, size := range streamSizes() {
		data := random(byte(i), size)
		name := fmt.Sprintf("blob/%d", size)
		must(t, b.PutStream(t.Context(), name, bytes.NewReader(data)))
		wantObject(t, b, name, data)
	}
	data := random(1, 3000)
	for how, wrap := range map[string]func(io.Reader) io.Reader{
		"byte-by-byte":          iotest.OneByteReader,
		"end-with-the-last":     iotest.DataErrReader,
		"half-of-what-is-asked": iotest.HalfReader,
	} {
		must(t, b.PutStream(t.Context(), how, wrap(bytes.NewReader(data))))
		wantObject(t, b, how, data)
	}
	must(t, b.List(t.Context(), "blob/", "", func(info bucket.Info) error {
		if want := fmt.Sprintf("blob/%d", info.Size); info.Name != want {
			t.Errorf("%s is listed with %d bytes", info.Name, info.Size)
		}
		return nil
	}))
	wantNothingLeft(t, b)
}

func testStreamReplaces(t *testing.T, b bucket.Bucket) {
	must(t, b.Put(t.Context(), "a", []byte("first")))
	for i, size := range streamSizes() {
		data := random(byte(i), size)
		must(t, b.PutStream(t.Context(), "a", bytes.NewReader(data)))
		wantObject(t, b, "a", data)
	}
	wantError(t, b.PutIfAbsent(t.Context(), "a", nil), bucket.ErrExist, b, bucket.KindPutIfAbsent, "a")
	must(t, b.Put(t.Context(), "a", []byte("last")))
	wantObject(t, b, "a", []byte("last"))
}

// An interrupted reader gives some bytes, then calls stop and returns its error.
type interrupted struct {
	io.Reader
	stop func() error
}

func (r *interrupted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		err = r.stop()
	}
	return n, err
}

// testStreamFails has readers fail, and contexts end, in the middle.
func testStreamFails(t *testing.T, b bucket.Bucket) {
	must(t, b.Put(t.Context(), "old", []byte("old")))
	broken := errors.New("broken")
	for i, size := range streamSizes() {
		if size > 1<<20 && size != longest {
			continue // enough of those
		}
		for _, name := range []string{"new", "old"} {
			reader := &interrupted{bytes.NewReader(random(byte(i), size)), func() error {
				return fmt.Errorf("%w, as by the wrong %w", broken, fs.ErrPermission)
			}}
			err := b.PutStream(t.Context(), name, reader)
			wantError(t, err, broken, b, bucket.KindPutStream, name)

			ctx, cancel := context.WithCancel(t.Context())
			reader = &interrupted{bytes.NewReader(random(byte(i), size)), func() error {
				cancel()
				return nil // it would go on
			}}
			err = b.PutStream(ctx, name, io.MultiReader(reader, endless{}))
			wantError(t, err, context.Canceled, b, bucket.KindPutStream, name)
			cancel()
		}
		_, err := b.Get(t.Context(), "new", 100_000_000)
		wantError(t, err, bucket.ErrNotExist, b, bucket.KindGet, "new")
	}
	wantObject(t, b, "old", []byte("old"))
	wantNothingLeft(t, b)
}

// An endless reader gives zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func testStreamsSideBySide(t *testing.T, b bucket.Bucket) {
	sizes := streamSizes()
	each(t, 12, 24, func(i int) error {
		data := random(byte(i), sizes[i%len(sizes)])
		name := fmt.Sprintf("blob/%d", i)
		if err := b.PutStream(t.Context(), name, bytes.NewReader(data)); err != nil {
			return err
		}
		got, err := b.Get(t.Context(), name, int64(len(data)))
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("%s has %d other bytes", name, len(got))
		}
		return err
	})
	wantNothingLeft(t, b)
}

func testCleanUp(t *testing.T, b bucket.Bucket) {
	names := []string{"a", "b/c"}
	putAll(t, b, names)
	for _, age := range []time.Duration{everything, time.Hour} {
		n, err := b.CleanUp(t.Context(), age)
		must(t, err)
		if n != 0 {
			t.Errorf("%d things were removed where nothing was unfinished", n)
		}
	}
	if got := list(t, b, "", ""); !slices.Equal(got, names) {
		t.Errorf("listed %q", got)
	}
	for _, name := range names {
		wantObject(t, b, name, []byte(name))
	}
}

// everything is for CleanUp: older than this are also those of the next minute,
// whichever clock counts.
const everything = -time.Minute

// wantNothingLeft checks that no parts of unfinished writes are in the store.
func wantNothingLeft(t *testing.T, b bucket.Bucket) {
	t.Helper()
	n, err := b.CleanUp(t.Context(), everything)
	must(t, err)
	if n != 0 {
		t.Errorf("%d unfinished writes were left in the store", n)
	}
}
