package blob

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"s3storage/internal/bucket"
	"s3storage/internal/buckettest/faults"
	"s3storage/internal/cache"
	"s3storage/internal/zodb"
)

var database = [16]byte{0xd, 0xb}

var noise = sync.OnceValue(func() []byte {
	data := make([]byte, 3*spanSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
})

// sizes lie around those of pieces and spans.
var sizes = []int{0, 1, 1000, pieceSize - 1, pieceSize, pieceSize + 1, 3 * pieceSize,
	spanSize - 1, spanSize, spanSize + 1, 2 * spanSize, 2*spanSize + pieceSize + 7}

// put uploads data, in writes of at most step bytes.
func put(t testing.TB, b bucket.Bucket, data []byte, step int) ID {
	t.Helper()
	u := NewUpload(t.Context(), b, database)
	if _, err := io.CopyBuffer(struct{ io.Writer }{u}, struct{ io.Reader }{bytes.NewReader(data)}, make([]byte, step)); err != nil {
		t.Fatal(err)
	}
	size, err := u.Finish()
	if err != nil || size != int64(len(data)) {
		t.Fatalf("%d bytes, %v", size, err)
	}
	return u.ID()
}

func read(ctx context.Context, b bucket.Bucket, disk *cache.Disk, id ID, size int) ([]byte, error) {
	r := Open(ctx, b, disk, database, id, int64(size))
	defer r.Close()
	return io.ReadAll(r)
}

func openDisk(t *testing.T, dir string) *cache.Disk {
	t.Helper()
	d, err := cache.OpenDisk(dir, 1<<30, database, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestBlobsComeBackByteForByte(t *testing.T) {
	directory, err := bucket.OpenDirectory(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	for i, size := range sizes {
		var b bucket.Bucket = bucket.NewMemory()
		if i%2 == 0 {
			b = directory
		}
		data := noise()[i : i+size]
		id := put(t, b, data, []int{64 << 10, 100_003, 3 << 20}[i%3])
		if size <= 1000 {
			r := Open(t.Context(), b, nil, database, id, int64(size))
			if err := iotest.TestReader(r, data); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
			r.Close()
		}
		got, err := read(t.Context(), b, nil, id, size)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: got %d others, %v", size, len(got), err)
		}
		var info bucket.Info
		b.List(t.Context(), id.Name(), "", func(i bucket.Info) error { info = i; return nil })
		if info.Name != id.Name() || info.Size != ObjectSize(int64(size)) {
			t.Errorf("%d bytes: object %s of %d bytes, want %s of %d", size, info.Name, info.Size, id.Name(), ObjectSize(int64(size)))
		}
	}
}

// The bytes are those of doc/format.md.
func TestBytesOfAnObject(t *testing.T) {
	m := bucket.NewMemory()
	id := put(t, m, []byte("hello"), 2)
	raw, err := m.Get(t.Context(), id.Name(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	hexID := hex.EncodeToString(id[:])
	sum := func(parts string) string {
		b, err := hex.DecodeString(parts)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	header := "73337a626c620d0a" + "0001" + "0000" + "00100000" + "0d0b0000000000000000000000000000" + hexID
	hello := hex.EncodeToString([]byte("hello"))
	want := header + sum(header) + hello + sum(hexID+"0000000000000000"+hello)
	if got := hex.EncodeToString(raw); got != want {
		t.Errorf("object\n%s, want\n%s", got, want)
	}
	if want := "blob/" + hexID; id.Name() != want {
		t.Errorf("name %s, want %s", id.Name(), want)
	}
}

// wantDamage reads an object that was changed, and wants no wrong byte and an
// error that names the object.
func wantDamage(t *testing.T, b bucket.Bucket, id ID, whole []byte, what string) error {
	t.Helper()
	got, err := read(t.Context(), b, nil, id, len(whole))
	if !errors.Is(err, zodb.ErrCorrupt) && !errors.Is(err, zodb.ErrNewerFormat) || !strings.Contains(fmt.Sprint(err), id.Name()) {
		t.Errorf("%s: error %v", what, err)
	}
	if errors.Is(err, zodb.ErrCorrupt) && !strings.Contains(err.Error(), "at offset ") {
		t.Errorf("%s: the error names no offset: %v", what, err)
	}
	if len(got) == len(whole) && len(whole) > 0 || !bytes.HasPrefix(whole, got) {
		t.Errorf("%s: %d bytes were served", what, len(got))
	}
	return err
}

func TestEveryFlippedBitOfABlobIsDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the retries wait
		for _, data := range [][]byte{{}, []byte("some bytes")} {
			m := bucket.NewMemory()
			id := put(t, m, data, 100)
			raw, err := m.Get(t.Context(), id.Name(), 1000)
			if err != nil {
				t.Fatal(err)
			}
			for i := range raw {
				for bit := range 8 {
					raw[i] ^= 1 << bit
					m.Put(t.Context(), id.Name(), raw)
					wantDamage(t, m, id, data, fmt.Sprintf("bit %d of byte %d", bit, i))
					raw[i] ^= 1 << bit
				}
			}
			for n := range raw {
				m.Put(t.Context(), id.Name(), raw[:n])
				wantDamage(t, m, id, data, fmt.Sprintf("cut to %d bytes", n))
			}
		}
	})
}

func TestDamageInALargeBlobIsDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := noise()[:2*spanSize+pieceSize+7]
		m := bucket.NewMemory()
		id := put(t, m, data, 1<<20)
		raw, err := m.Get(t.Context(), id.Name(), 100_000_000)
		if err != nil {
			t.Fatal(err)
		}
		for n := range pieces(int64(len(data))) {
			start := headerSize + int(n)*stride
			end := min(start+stride, len(raw))
			for _, at := range [][]int{{start, end - 1}, {(start + end) / 2, end - 5, end - 4}}[n%2] {
				raw[at] ^= 0x10
				m.Put(t.Context(), id.Name(), raw)
				err := wantDamage(t, m, id, data, fmt.Sprintf("byte %d", at))
				if want := fmt.Sprintf("at offset %d:", start); !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("byte %d: want %q in %v", at, want, err)
				}
				raw[at] ^= 0x10
				m.Put(t.Context(), id.Name(), raw[:at])
				wantDamage(t, m, id, data, fmt.Sprintf("cut to %d bytes", at))
			}
		}
		// Two pieces in each other's place.
		swapped := bytes.Clone(raw)
		copy(swapped[headerSize:], raw[headerSize+stride:][:stride])
		copy(swapped[headerSize+stride:], raw[headerSize:][:stride])
		m.Put(t.Context(), id.Name(), swapped)
		wantDamage(t, m, id, data, "swapped pieces")
		// A piece of another blob.
		other := put(t, m, noise()[5:][:len(data)], 1<<20)
		otherRaw, _ := m.Get(t.Context(), other.Name(), 100_000_000)
		copy(swapped, raw)
		copy(swapped[headerSize+spanPieces*stride:], otherRaw[headerSize+spanPieces*stride:][:stride])
		m.Put(t.Context(), id.Name(), swapped)
		wantDamage(t, m, id, data, "a piece of another blob")
		m.Put(t.Context(), id.Name(), otherRaw)
		wantDamage(t, m, id, data, "another blob")
	})
}

func TestBlobOfAnotherDatabaseOrSizeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bucket.NewMemory()
		id := put(t, m, []byte("hello"), 5)
		r := Open(t.Context(), m, nil, [16]byte{1}, id, 5)
		defer r.Close()
		if _, err := io.ReadAll(r); !errors.Is(err, zodb.ErrCorrupt) || !strings.Contains(err.Error(), "database") {
			t.Errorf("another database: %v", err)
		}
		for _, size := range []int{-1, 4, 6, 1 << 30, 1 << 60} {
			if data, err := read(t.Context(), m, nil, id, size); !errors.Is(err, zodb.ErrCorrupt) || len(data) > 0 {
				t.Errorf("size %d: %q, %v", size, data, err)
			}
		}
		if _, err := read(t.Context(), m, nil, NewID(), 5); !errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("a missing object: %v", err)
		}
	})
}

func TestReadsGoOnThroughFaultsOfTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bucket.NewMemory()
		data := noise()[:2*spanSize+100]
		id := put(t, m, data, 1<<20)
		for seed := range 20 {
			c, err := faults.Parse(fmt.Sprintf("seed=%d,503=0.05,500=0.05,truncate=0.05,flip=0.05,delay=0.3:1ms..1s", seed))
			if err != nil {
				t.Fatal(err)
			}
			got, err := read(t.Context(), faults.New(m, c), nil, id, len(data))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("seed %d: %d bytes that differ, %v", seed, len(got), err)
			}
		}
	})
}

func TestReaderReadsOneSpanAheadOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := bucket.Observe(bucket.NewMemory())
		data := noise()[:3*spanSize]
		id := put(t, o, data, 1<<20)
		r := Open(t.Context(), o, nil, database, id, int64(len(data)))
		defer r.Close()
		for i := range 3 {
			synctest.Wait()
			if n := o.Snapshot().Kinds[bucket.KindGetRange].Count; int(n) != i+1 {
				t.Errorf("%d ranges were fetched before span %d was taken", n, i)
			}
			if _, err := io.CopyN(io.Discard, r, spanSize); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestClosingAReaderEndsItsFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bucket.NewMemory()
		id := put(t, m, []byte("hello"), 5)
		delays, err := bucket.ParseDelays("get-range=1h")
		if err != nil {
			t.Fatal(err)
		}
		r := Open(t.Context(), bucket.Slow(m, delays, 1), nil, database, id, 5)
		r.Close()
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("reading after: %v", err)
		}
	})
}

func TestCachedBlobsAreNotFetchedAgain(t *testing.T) {
	o := bucket.Observe(bucket.NewMemory())
	dir := t.TempDir()
	disk := openDisk(t, dir)
	data := noise()[:2*spanSize+100]
	id := put(t, o, data, 1<<20)
	fetched := func() uint64 { return o.Snapshot().Kinds[bucket.KindGetRange].Count }
	check := func(what string, want uint64) {
		t.Helper()
		before := fetched()
		got, err := read(t.Context(), o, disk, id, len(data))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes that differ, %v", what, len(got), err)
		}
		if n := fetched() - before; n != want {
			t.Errorf("%s: %d ranges were fetched, want %d", what, n, want)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := read(t.Context(), o, disk, id, len(data)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes that differ, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if n := fetched(); n != 3 {
		t.Errorf("eight readers of a cold blob fetched %d ranges, want 3", n)
	}
	check("again", 0)
	files, err := filepath.Glob(filepath.Join(dir, "??", "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files %q, %v", files, err)
	}
	damaged, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)/2] ^= 1
	if err := os.WriteFile(files[1], damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	check("with a damaged file in the cache", 1)
	check("once more", 0)
}

func TestDamagedRangesAreNotCached(t *testing.T) {
	m := bucket.NewMemory()
	b := faults.New(m, faults.Config{})
	b.Script(faults.Rule{Kind: bucket.KindGetRange, Times: 2, Fault: faults.Fault{Action: faults.Flip}})
	o := bucket.Observe(b)
	disk := openDisk(t, t.TempDir())
	id := put(t, o, []byte("hello"), 5)
	for range 2 {
		if data, err := read(t.Context(), o, disk, id, 5); err != nil || string(data) != "hello" {
			t.Errorf("%q, %v", data, err)
		}
	}
	if n := o.Snapshot().Kinds[bucket.KindGetRange].Count; n != 3 {
		t.Errorf("%d ranges were fetched, want 3", n)
	}
}
