package s3bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/s3bucket"
)

// A fault is what happens to a request on its way to the server.
type fault int

const (
	none       fault = iota
	unsent           // the connection breaks before
	lost             // it is done, and the connection breaks before the answer
	failed           // 500
	doneFailed       // it is done, and 500
	done200          // it is done, and 200 with an error in the body
	denied           // 403
	gone             // 404 NoSuchUpload
)

// what names the requests of a stream.
func what(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "create"
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return "part " + q.Get("partNumber")
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "complete"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "abort"
	case r.Method == http.MethodPut:
		return "put"
	}
	return r.Method
}

// between opens a bucket on the real server behind a proxy that asks decide
// about each request, and returns what was asked for, one after the other.
func between(t *testing.T, decide func(what string) fault) (*s3bucket.Bucket, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		seen = append(seen, what(r))
		f := decide(what(r))
		mu.Unlock()
		if f == lost || f == doneFailed || f == done200 {
			proxy.ServeHTTP(httptest.NewRecorder(), r)
		}
		switch f {
		case unsent, lost:
			panic(http.ErrAbortHandler)
		case failed, doneFailed:
			failing(500, "InternalError")(w, r)
		case done200:
			failing(200, "InternalError")(w, r)
		case denied:
			failing(403, "AccessDenied")(w, r)
		case gone:
			failing(404, "NoSuchUpload")(w, r)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(between.Close)
	c := newConfig(t, "data")
	c.Endpoint = between.URL
	return open(t, c), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

func wantStream(t *testing.T, b bucket.Bucket, name string, data []byte) {
	t.Helper()
	if err := b.PutStream(t.Context(), name, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	got, err := b.Get(t.Context(), name, int64(len(data)))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes that differ from the %d put, %v", len(got), len(data), err)
	}
	wantUploads(t, b, 0)
}

func wantUploads(t *testing.T, b bucket.Bucket, want int) {
	t.Helper()
	if n, err := b.CleanUp(t.Context(), -time.Minute); err != nil || n != want {
		t.Errorf("%d unfinished uploads, want %d: %v", n, want, err)
	}
}

func randomBytes(seed byte, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

// Each request of a stream fails in each way, twice in a row.
func TestStreamsSurviveEveryFault(t *testing.T) {
	for _, request := range []string{"create", "part 1", "part 2", "part 3", "complete", "put"} {
		size := 20_000_000
		if request == "put" {
			size = 100_000
		}
		data := randomBytes(byte(len(request)), size)
		for f := unsent; f <= done200; f++ {
			if f == done200 && request != "complete" {
				continue // only that answers before it knows
			}
			t.Run(fmt.Sprintf("%s/%d", request, f), func(t *testing.T) {
				left := 2
				b, seen := between(t, func(what string) fault {
					if what != request || left == 0 {
						return none
					}
					left--
					return f
				})
				if err := b.PutStream(t.Context(), "blob/a", bytes.NewReader(data)); err != nil {
					t.Fatal(err, seen())
				}
				got, err := b.Get(t.Context(), "blob/a", int64(len(data)))
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d bytes that differ from the %d put, %v", len(got), len(data), err)
				}
				orphans := 0
				if request == "create" && f >= lost && f != failed {
					orphans = 2 // nobody has ever learned of them
				}
				wantUploads(t, b, orphans)
			})
		}
	}
}

// Amazon forgets an upload once it is complete. Whoever asks again, because the
// first answer was lost, learns that there is no such upload.
func TestUploadThatIsForgottenAfterALostAnswerIsFound(t *testing.T) {
	first := true
	b, seen := between(t, func(what string) fault {
		if what != "complete" {
			return none
		}
		if first {
			first = false
			return lost
		}
		return gone
	})
	b.SetPatience(3, time.Minute)
	wantStream(t, b, "a", randomBytes(1, 9_000_000))
	if requests := fmt.Sprint(seen()); !strings.Contains(requests, "complete HEAD") {
		t.Errorf("requests %s", requests)
	}
}

// An upload that was lost, as when somebody has cleaned up, is no success.
func TestUploadThatIsGoneFails(t *testing.T) {
	b, _ := between(t, func(what string) fault {
		if what == "complete" {
			return gone
		}
		return none
	})
	b.SetPatience(3, time.Minute)
	err := b.PutStream(t.Context(), "a", bytes.NewReader(randomBytes(1, 9_000_000)))
	if err == nil || bucket.Final(err) || !strings.Contains(err.Error(), "NoSuchUpload") {
		t.Errorf("error %v", err)
	}
	wantUploads(t, b, 0)
}

// An object of the same size that was there before is not taken for the one
// that an upload with a lost answer has made.
func TestLostUploadIsNotTakenForAnOlderObject(t *testing.T) {
	broken := false
	b, _ := between(t, func(what string) fault {
		if broken && what == "complete" {
			return failed
		}
		return none
	})
	b.SetPatience(3, time.Minute)
	old := randomBytes(1, 9_000_000)
	wantStream(t, b, "a", old)
	broken = true
	err := b.PutStream(t.Context(), "a", bytes.NewReader(randomBytes(2, len(old))))
	if err == nil || bucket.Final(err) {
		t.Errorf("error %v", err)
	}
	if got, err := b.Get(t.Context(), "a", int64(len(old))); err != nil || !bytes.Equal(got, old) {
		t.Errorf("the older object has changed, %v", err)
	}
	wantUploads(t, b, 0)
}

func TestStreamThatCannotBeSentIsAborted(t *testing.T) {
	for _, request := range []string{"create", "part 1", "part 2", "part 3", "put"} {
		t.Run(request, func(t *testing.T) {
			b, seen := between(t, func(what string) fault {
				if what == request {
					return failed
				}
				return none
			})
			b.SetPatience(3, time.Minute)
			size := 20_000_000
			if request == "put" {
				size = 5
			}
			err := b.PutStream(t.Context(), "a", bytes.NewReader(randomBytes(1, size)))
			if err == nil || bucket.Final(err) || !strings.Contains(err.Error(), "InternalError") {
				t.Errorf("error %v", err)
			}
			if _, err := b.Get(t.Context(), "a", 100); !errors.Is(err, bucket.ErrNotExist) {
				t.Errorf("the object: %v", err)
			}
			tried := 0
			for _, s := range seen() {
				if s == request {
					tried++
				}
			}
			if tried != 3 {
				t.Errorf("tried %d times, want 3: %v", tried, seen())
			}
			wantUploads(t, b, 0)
		})
	}
}

// A crashed process leaves its uploads.
func TestCleaningUpAbortsOldUploadsOnly(t *testing.T) {
	var works atomic.Bool
	b, _ := between(t, func(what string) fault {
		if !works.Load() && (strings.HasPrefix(what, "part") || what == "abort") {
			return denied
		}
		return none
	})
	b.SetPatience(1, time.Minute)
	for i := range 3 {
		if err := b.PutStream(t.Context(), fmt.Sprintf("blob/%d", i), bytes.NewReader(make([]byte, 9_000_000))); err == nil {
			t.Fatal("no error")
		}
	}
	if n, err := b.CleanUp(t.Context(), time.Hour); n != 0 || err != nil {
		t.Errorf("of the last hour: %d, %v", n, err)
	}
	if _, err := b.CleanUp(t.Context(), -time.Minute); !errors.Is(err, bucket.ErrDenied) {
		t.Errorf("where uploads cannot be aborted: %v", err)
	}
	works.Store(true)
	wantUploads(t, b, 3)
	wantUploads(t, b, 0)
}

func TestCleaningUpStaysBelowThePrefix(t *testing.T) {
	c := newConfig(t, "data")
	neighbour := c
	neighbour.Prefix = "data2"
	b := open(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// An upload that is under way: its reader waits.
	r, w := io.Pipe()
	done := make(chan error)
	go func() { done <- open(t, neighbour).PutStream(ctx, "blob/a", r) }()
	for range 2 {
		if _, err := w.Write(make([]byte, 9<<20)); err != nil {
			t.Fatal(err)
		}
	}
	wantUploads(t, b, 0)
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// More streams than there is memory for: those whose readers are silent stop
// nobody, and end well in the end.
func TestSilentStreamsLeaveMemoryToOthers(t *testing.T) {
	b := open(t, newConfig(t, ""))
	b.SetPatience(3, 10*time.Millisecond)
	const silent = 10
	var wg sync.WaitGroup
	writers := make([]*io.PipeWriter, silent)
	for i := range writers {
		r, w := io.Pipe()
		writers[i] = w
		wg.Go(func() {
			if err := b.PutStream(t.Context(), fmt.Sprintf("silent/%d", i), r); err != nil {
				t.Error(err)
			}
		})
		if _, err := w.Write(make([]byte, 2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	wantStream(t, b, "small", randomBytes(1, 1000))
	wantStream(t, b, "medium", randomBytes(2, 3<<20))
	for _, w := range writers {
		w.Close()
	}
	wg.Wait()
}

func TestPartsGrowSoThatTheLargestObjectFits(t *testing.T) {
	total := 0
	for n := 1; n <= 10_000; n++ {
		total += s3bucket.PartSize(n)
	}
	if total < 5<<40 || s3bucket.PartSize(1) < 5<<20 || s3bucket.PartSize(10_000) > 5<<30 {
		t.Errorf("10,000 parts of %d to %d bytes make %d", s3bucket.PartSize(1), s3bucket.PartSize(10_000), total)
	}
}
