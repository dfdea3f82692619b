package s3bucket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/s3bucket"
)

// answering opens a bucket on a server that answers as told, with a counter of
// its answers.
func answering(t *testing.T, name string, answer http.HandlerFunc) (*s3bucket.Bucket, *atomic.Int64) {
	t.Helper()
	var count atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case q.Get("max-keys") == "1": // of Open
			fmt.Fprintf(w, page, false, "", "")
			return
		case q.Has("session"): // of S3 Express
			fmt.Fprint(w, session)
			return
		}
		io.Copy(io.Discard, r.Body)
		count.Add(1)
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return open(t, s3bucket.Config{Bucket: name, Endpoint: server.URL, PathStyle: true,
		AccessKeyID: "key", SecretAccessKey: "hunter2"}), &count
}

func failing(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		if code != "" {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>m</Message></Error>", code)
		}
	}
}

var sentinels = []error{bucket.ErrNotExist, bucket.ErrExist, bucket.ErrTooLarge, bucket.ErrNoBucket,
	bucket.ErrDenied, bucket.ErrBadName, bucket.ErrNoConditionalPut}

func TestWhatAnswersToPutIfAbsentMean(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		want   error // nil for unknown
	}{
		{412, "PreconditionFailed", bucket.ErrExist},
		{412, "", bucket.ErrExist},
		{409, "ConditionalRequestConflict", nil},
		{409, "OperationAborted", nil},
		{404, "NoSuchBucket", bucket.ErrNoBucket},
		{404, "", nil},
		{403, "AccessDenied", bucket.ErrDenied},
		{403, "SignatureDoesNotMatch", bucket.ErrDenied},
		{403, "RequestTimeTooSkewed", bucket.ErrDenied},
		{400, "ExpiredToken", nil},
		{400, "AuthorizationHeaderMalformed", nil}, // another region
		{500, "InternalError", nil},
		{503, "SlowDown", nil},
		{501, "NotImplemented", bucket.ErrNoConditionalPut},
	} {
		b, count := answering(t, "b", failing(test.status, test.code))
		err := b.PutIfAbsent(t.Context(), "a", []byte("1"))
		if err == nil {
			t.Errorf("%d %s: no error", test.status, test.code)
			continue
		}
		for _, sentinel := range sentinels {
			if errors.Is(err, sentinel) != (sentinel == test.want) {
				t.Errorf("%d %s: want %v, got %v", test.status, test.code, test.want, err)
			}
		}
		if count.Load() != 1 {
			t.Errorf("%d %s: %d requests, want one", test.status, test.code, count.Load())
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestPutIfAbsentIsNotRepeatedWhenTheConnectionBreaks(t *testing.T) {
	b, count := answering(t, "b", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for i := range 3 {
		if err := b.PutIfAbsent(t.Context(), "a", []byte("1")); err == nil || bucket.Refused(err) || errors.Is(err, bucket.ErrExist) {
			t.Errorf("error %v", err)
		}
		if got := count.Load(); got != int64(i+1) {
			t.Fatalf("%d requests for %d puts", got, i+1)
		}
	}
}

func TestPutIfAbsentAsksForIt(t *testing.T) {
	var header http.Header
	b, _ := answering(t, "b", func(w http.ResponseWriter, r *http.Request) { header = r.Header.Clone() })
	if err := b.PutIfAbsent(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if header.Get("If-None-Match") != "*" {
		t.Errorf("headers %v", header)
	}
	// SHA-256 of "1": the body is covered by the signature.
	if got := header.Get("X-Amz-Content-Sha256"); got != "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b" {
		t.Errorf("X-Amz-Content-Sha256 is %q", got)
	}
	if err := b.Put(t.Context(), "a", []byte("1")); err != nil || header.Get("If-None-Match") != "" {
		t.Errorf("put: %v, headers %v", err, header)
	}
}

func TestReadsAreRepeated(t *testing.T) {
	for name, broken := range map[string]http.HandlerFunc{
		"503": failing(503, "SlowDown"),
		"500": failing(500, "InternalError"),
		"truncated": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.Header().Set("Content-Range", "bytes 0-9/10")
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusPartialContent)
			}
			w.Write([]byte("01234"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := true
			b, count := answering(t, "b", func(w http.ResponseWriter, r *http.Request) {
				if bad = !bad; !bad {
					broken(w, r)
					return
				}
				http.ServeContent(w, r, "", testTime, strings.NewReader("0123456789"))
			})
			if data, err := b.Get(t.Context(), "a", 10); err != nil || string(data) != "0123456789" {
				t.Errorf("get: %q, %v", data, err)
			}
			if data, err := b.GetRange(t.Context(), "a", 0, 10); err != nil || string(data) != "0123456789" {
				t.Errorf("get-range: %q, %v", data, err)
			}
			if count.Load() != 4 {
				t.Errorf("%d requests, want 4", count.Load())
			}
		})
	}
}

func TestAnswersThatMustNotBeTrusted(t *testing.T) {
	whole := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "0123456789")
	}
	partial := func(contentRange, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", contentRange)
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, body)
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		ranged bool
	}{
		"a range was ignored":       {whole, true},
		"another range":             {partial("bytes 0-3/10", "0123"), true},
		"less than asked for":       {partial("bytes 2-3/10", "23"), true},
		"length and range disagree": {partial("bytes 2-5/10", "23"), true},
		"always truncated": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "0")
		}, false},
		"no length":                  {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "0"); w.(http.Flusher).Flush() }, false},
		"a 404 that names no object": {failing(404, ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := answering(t, "b", test.answer)
			var data []byte
			var err error
			if test.ranged {
				data, err = b.GetRange(t.Context(), "a", 2, 4)
			} else {
				data, err = b.Get(t.Context(), "a", 10)
			}
			if err == nil {
				t.Fatalf("got %q", data)
			}
			for _, sentinel := range sentinels {
				if errors.Is(err, sentinel) {
					t.Errorf("error %v", err)
				}
			}
		})
	}
}

func TestTooLargeIsNotRead(t *testing.T) {
	b, count := answering(t, "b", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<40))
		w.Write(make([]byte, 1000))
	})
	if _, err := b.Get(t.Context(), "a", 1000); !errors.Is(err, bucket.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	if count.Load() != 1 {
		t.Errorf("%d requests", count.Load())
	}
}

var testTime = time.Date(2024, 8, 20, 0, 0, 0, 0, time.UTC)

const session = `<CreateSessionResult><Credentials><AccessKeyId>k</AccessKeyId><SecretAccessKey>s</SecretAccessKey>` +
	`<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>`

const page = `<ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>%s</NextContinuationToken>%s</ListBucketResult>`

func contents(keys ...string) string {
	var s strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&s, "<Contents><Key>%s</Key><Size>1</Size></Contents>", key)
	}
	return s.String()
}

func listed(t *testing.T, b bucket.Bucket, prefix, after string) (string, error) {
	var names []string
	err := b.List(t.Context(), prefix, after, func(i bucket.Info) error { names = append(names, i.Name); return nil })
	return strings.Join(names, " "), err
}

func TestListingsOutOfOrderAreRefused(t *testing.T) {
	for name, keys := range map[string][]string{"order": {"a", "c", "b"}, "twice": {"a", "b", "b"}} {
		b, _ := answering(t, "b", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, page, false, "", contents(keys...))
		})
		if names, err := listed(t, b, "", ""); err == nil || !strings.Contains(err.Error(), "order") {
			t.Errorf("%s: listed %q, %v", name, names, err)
		}
	}
}

func TestListingsThatEndInTheMiddleAreRefused(t *testing.T) {
	b, _ := answering(t, "b", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, page, true, "", contents("a"))
	})
	if names, err := listed(t, b, "", ""); err == nil {
		t.Errorf("listed %q", names)
	}
}

// The listings of S3 Express directory buckets come in no order, only for
// prefixes that end with a slash, and know no start-after.
func TestUnsortedListings(t *testing.T) {
	b, _ := answering(t, "log--use1-az4--x-s3", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if p := q.Get("prefix"); q.Has("start-after") || p != "" && !strings.HasSuffix(p, "/") {
			failing(400, "InvalidArgument")(w, r)
			return
		}
		if q.Get("continuation-token") == "" {
			fmt.Fprintf(w, page, true, "more", contents("log/3", "log/1", "log/Upper"))
			return
		}
		fmt.Fprintf(w, page, false, "", contents("log/2", "log/20"))
	})
	for _, test := range []struct{ prefix, after, want string }{
		{"", "", "log/1 log/2 log/20 log/3"}, {"log/2", "", "log/2 log/20"}, {"log/", "log/2", "log/20 log/3"},
	} {
		if names, err := listed(t, b, test.prefix, test.after); err != nil || names != test.want {
			t.Errorf("prefix %q after %q: %q, %v", test.prefix, test.after, names, err)
		}
	}
}

func TestCancelledWhileWaiting(t *testing.T) {
	arrived := make(chan struct{})
	b, _ := answering(t, "b", func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	for what, call := range map[string]func(context.Context) error{
		"get":           func(ctx context.Context) error { _, err := b.Get(ctx, "a", 1); return err },
		"put-if-absent": func(ctx context.Context) error { return b.PutIfAbsent(ctx, "a", []byte("1")) },
		"list": func(ctx context.Context) error {
			return b.List(ctx, "", "", func(bucket.Info) error { return nil })
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- call(ctx) }()
		<-arrived
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
