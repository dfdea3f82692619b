package zeo

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/zodb"
)

// Time is virtual in these tests: it passes when all goroutines wait.

const testTimeout = time.Minute

// A pipeServer serves connections in memory.
type pipeServer struct {
	*testServer
	listener *oneListener
}

func servePipes(t *testing.T, opts Options) *pipeServer {
	t.Helper()
	s := &pipeServer{newTestServer(t, newMemory(), opts), &oneListener{conns: make(chan net.Conn)}}
	done := make(chan error)
	go func() { done <- s.Serve(s.listener, Access{}) }()
	t.Cleanup(func() {
		s.Shutdown(context.Background())
		<-done
	})
	return s
}

func (s *pipeServer) join(label string) *peer {
	server, client := net.Pipe()
	s.listener.conns <- server
	s.t.Cleanup(func() { client.Close() })
	p := &peer{t: s.t, nc: client, enc: Z5, frames: NewFrameReader(client, DefaultMaxFrame)}
	p.frame()
	p.hello()
	p.want("register", "1", false)
	p.tell("set_client_label", label)
	return p
}

func TestAClientThatVotesAndDoesNotFinishIsTimedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := servePipes(t, Options{TransactionTimeout: testTimeout})
		slow, other := s.join("the slow one"), s.join("another")
		slow.begin(1)
		slow.tell("storea", zodb.Oid(1), nil, []byte("slow"), 1)
		slow.want("vote", 1)
		other.begin(1)
		other.tell("storea", zodb.Oid(1), nil, []byte("other"), 1)
		vote := other.ask("vote", 1)

		time.Sleep(testTimeout - time.Nanosecond)
		slow.want("ping")
		if n := s.storage.Stats().Waiting; n != 1 {
			t.Errorf("%d votes wait", n)
		}
		time.Sleep(time.Nanosecond)
		slow.wantClosed()
		if v, err := other.answer(vote); err != nil || !Equal(tuples(v), Tuple{}) {
			t.Errorf("the vote that waited: %v, %v", v, err)
		}
		other.want("tpc_finish", 1)
		r, _, err := s.storage.LoadBefore(t.Context(), 1, zodb.MaxTid)
		if err != nil || string(r.Data) != "other" {
			t.Errorf("%q, %v", r.Data, err)
		}
		log := s.logged.String()
		for _, want := range []string{"level=ERROR", "transaction timeout", "timeout=1m0s", `label="the slow one"`, "peer=pipe", "transaction=aborted", "storage=1"} {
			if !strings.Contains(log, want) {
				t.Errorf("%q is not in the log: %s", want, log)
			}
		}
	})
}

func TestOnlyTheTimeFromVoteToFinishIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := servePipes(t, Options{TransactionTimeout: testTimeout})
		p, other := s.join("p"), s.join("other")

		// Before the vote there is all the time in the world.
		p.begin(1)
		p.tell("storea", zodb.Oid(1), nil, []byte("x"), 1)
		time.Sleep(3 * testTimeout)
		p.want("vote", 1)
		time.Sleep(testTimeout / 2)
		t1 := wantTid(t, p.want("tpc_finish", 1))

		// Each transaction has its own time, whether it is finished,
		time.Sleep(testTimeout / 4)
		t2 := p.commit(1, t1, "y")
		time.Sleep(testTimeout / 4)
		// aborted,
		p.begin(2)
		p.tell("storea", zodb.Oid(1), t2, []byte("z"), 2)
		p.want("vote", 2)
		p.want("tpc_abort", 2)
		time.Sleep(2 * testTimeout)
		// or has met a conflict, which leaves it without locks.
		p.begin(3)
		p.tell("storea", zodb.Oid(1), t1, []byte("z"), 3)
		if v := tuples(p.want("vote", 3)).(Tuple); len(v) != 1 {
			t.Errorf("conflicts: %v", v)
		}
		time.Sleep(2 * testTimeout)
		other.commit(1, t2, "w")
		p.want("ping")

		// The end of a connection ends its timeout.
		other.begin(4)
		other.tell("storea", zodb.Oid(2), nil, []byte("x"), 4)
		other.want("vote", 4)
		other.nc.Close()
		time.Sleep(2 * testTimeout)
		p.want("ping")
		if log := s.logged.String(); strings.Contains(log, "timeout") {
			t.Error(log)
		}
	})
}

func TestStatusTellsOfTheTimeoutAndOfTheLockHeldLongest(t *testing.T) {
	for _, timeout := range []time.Duration{0, testTimeout} {
		synctest.Test(t, func(t *testing.T) {
			s := servePipes(t, Options{TransactionTimeout: timeout})
			p, q := s.join("p"), s.join("q")
			status := func() Dict { return tuples(p.want("server_status")).(Dict) }
			want := func(key string, value any) {
				t.Helper()
				if got, ok := status().Get(key); !ok || got != value {
					t.Errorf("%s is %v, %v; want %v", key, got, ok, value)
				}
			}
			if timeout > 0 {
				want("timeout-thread-is-alive", true)
			} else {
				want("timeout-thread-is-alive", "stub")
			}
			want("lock_time", nil)
			for oid, voter := range map[zodb.Oid]*peer{1: p, 2: q} {
				voter.begin(1)
				voter.tell("storea", oid, nil, []byte("x"), 1)
			}
			p.want("vote", 1)
			first := float64(time.Now().Unix())
			time.Sleep(time.Second)
			q.want("vote", 1)
			want("lock_time", first)
			p.want("tpc_finish", 1)
			want("lock_time", first+1)
			var ruok map[string]map[string]any
			if err := json.Unmarshal(s.statusJSON(), &ruok); err != nil || ruok["1"]["lock_time"] != first+1 {
				t.Errorf("%v, %v", ruok, err)
			}
			q.want("tpc_abort", 1)
			want("lock_time", nil)
		})
	}
}
