package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"s3storage/internal/buckettest/localserver"
)

// TestMain sets what the AWS library reads from the environment, for tests that
// run side by side.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
		"AWS_REGION": "eu-central-1", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func TestALeaseInSQS(t *testing.T) {
	t.Parallel()
	python, err := filepath.Abs("../../.venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(python, "-c", "import moto.server").CombinedOutput(); err != nil {
		t.Fatalf("no SQS server here, run make setup: %v\n%s", err, out)
	}
	s := localserver.New(t)
	s.AsThisUser() // who may not be allowed to read .venv
	s.Command = func() *exec.Cmd {
		return s.Program(python, "-m", "moto.server", "-H", "127.0.0.1", "-p", strconv.Itoa(s.Port))
	}
	s.Answers = func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address()+"/moto-api/data.json", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}
	s.Start(t)

	// It keeps its queues in memory, so it is not stopped, but its answers are
	// replaced: those to what ends so, "" for all.
	var cut atomic.Pointer[string]
	server := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.Address()})
	server.ErrorLog = log.New(io.Discard, "", 0)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if what := cut.Load(); what != nil && strings.HasSuffix(r.Header.Get("X-Amz-Target"), *what) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		server.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)

	queue := func(t *testing.T) string {
		database := databaseOf(t)
		return fmt.Sprintf("%s/123456789012/%x.fifo", proxy.URL, database[:])
	}
	all := &system{
		open: func(t *testing.T, o Options) Lease {
			l, err := Open(t.Context(), "sqs+"+queue(t), o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = l.(*keeper).granter.(*inSQS).client.CreateQueue(t.Context(), &sqs.CreateQueueInput{
				QueueName: aws.String(path.Base(queue(t))), Attributes: map[string]string{"FifoQueue": "true"}})
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
		down: func(*testing.T) { cut.Store(new(string)) },
		up:   func(*testing.T) { cut.Store(nil) },
		lose: func(t *testing.T) {
			l, err := newInSQS(t.Context(), "sqs+"+queue(t), Options{Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.granter.(*inSQS).client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: aws.String(queue(t))}); err != nil {
				t.Fatal(err)
			}
		},
		life: 5 * time.Second,
	}
	conform(t, all,
		promise{name: "a token is replaced before it is out for too long", test: tokenReplaced},
		promise{name: "a renewal that fails loses nothing", alone: true, test: func(t *testing.T, s *system) {
			one := s.node(t, "one")
			acquire(t, one)
			one.end()
			cut.Store(aws.String("ChangeMessageVisibility"))
			lost, err := one.renew(t.Context())
			cut.Store(nil)
			if lost || err == nil {
				t.Errorf("lost %v, %v", lost, err)
			}
		}},
		promise{name: "surplus tokens are deleted", test: surplusDeleted},
		promise{name: "a queue of another database is refused", test: foreignQueue},
		promise{name: "a queue that is not there is told of", test: noQueue})
}

func tokenReplaced(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.node(t, "two")
	acquire(t, one)
	one.end()
	l := one.granter.(*inSQS)
	before := l.handle
	l.received = l.received.Add(-maxOut)
	if lost, err := l.renew(t.Context()); lost || err != nil || l.handle == before {
		t.Fatalf("lost %v, %v", lost, err)
	}
	one.start()
	oneToken(t, l)
	s.refused(t, two)
}

// oneToken checks that there is one token, and somebody has it.
func oneToken(t *testing.T, l *inSQS) {
	t.Helper()
	if here, out, err := l.count(t.Context()); here != "0" || out != "1" || err != nil {
		t.Errorf("%s tokens in the queue, %s out, %v", here, out, err)
	}
}

func surplusDeleted(t *testing.T, s *system) {
	one, two := s.node(t, "one"), s.node(t, "two")
	for range 4 {
		if err := one.granter.(*inSQS).send(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	acquire(t, one)
	oneToken(t, one.granter.(*inSQS))
	s.refused(t, two)
}

func foreignQueue(t *testing.T, s *system) {
	other := s.node(t, "other").granter.(*inSQS)
	other.token = "something else"
	if err := other.send(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.node(t, "one").Acquire(t.Context()); !errors.Is(err, errForeign) {
		t.Errorf("Acquire: %v", err)
	}
	if got, err := other.receive(t.Context(), 0); !got || err != nil {
		t.Errorf("what was found was not put back: %v", err)
	}
}

func noQueue(t *testing.T, s *system) {
	l := s.node(t, "one")
	l.granter.(*inSQS).queue += "x"
	if err := l.Acquire(t.Context()); err == nil || t.Context().Err() != nil {
		t.Errorf("Acquire: %v", err)
	}
}

func TestWhatIsNoFIFOQueueIsNoLocation(t *testing.T) {
	for _, location := range []string{"sqs+https://", "sqs+https://sqs.eu-central-1.amazonaws.com/1/name", "sqs+http://user@host/1/name.fifo"} {
		if _, err := Open(t.Context(), location, Options{}); !errors.Is(err, ErrLocation) {
			t.Errorf("%s: %v", location, err)
		}
	}
}
