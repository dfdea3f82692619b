package lease

import (
	"context"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"s3storage/internal/buckettest/localserver"
)

func TestALeaseInMemcached(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("memcached")
	if err != nil {
		t.Fatal("no memcached here: run make servers, or install the package memcached")
	}
	s := localserver.New(t)
	client := memcache.New(s.Address())
	t.Cleanup(func() { _ = client.Close() })
	s.Command = func() *exec.Cmd {
		return s.Program(path, "-l", "127.0.0.1", "-p", strconv.Itoa(s.Port), "-U", "0", "-m", "8")
	}
	s.Answers = func(context.Context) error { return client.Ping() }
	s.Start(t)
	all := &system{
		open: func(t *testing.T, o Options) Lease {
			l, err := Open(t.Context(), "memcached://"+s.Address(), o)
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
		down: s.Stop, up: s.Start,
		lose: func(t *testing.T) {
			if err := client.FlushAll(); err != nil {
				t.Fatal(err)
			}
		},
		life: 5 * time.Second,
	}
	restarted := *all
	restarted.lose = s.Restart
	conform(t, all, knowsDatabases, knowsNodes,
		promise{name: "restarted it has forgotten", alone: true, test: func(t *testing.T, _ *system) { forgotten(t, &restarted) }},
		promise{name: "what others wrote there is written over", test: func(t *testing.T, all *system) {
			one := all.node(t, "one")
			if err := client.Set(&memcache.Item{Key: one.granter.(*inMemcached).key, Value: []byte("nonsense")}); err != nil {
				t.Fatal(err)
			}
			acquire(t, one)
			until(t, one, "one")
		}})
}

func TestNodesThatListMemcachedServersInAnyOrderChooseTheSame(t *testing.T) {
	chosen := map[string]bool{}
	for i := range 20 {
		var servers []string
		for _, location := range []string{"memcached://b:1,a,[::1]:3", "memcached://[::1]:3,b:1,a:11211"} {
			l, err := Open(t.Context(), location, Options{Database: [16]byte{byte(i)}})
			if err != nil {
				t.Fatal(err)
			}
			servers = append(servers, l.(*keeper).granter.(*inMemcached).server)
		}
		if servers[0] != servers[1] {
			t.Errorf("%q and %q for the same database", servers[0], servers[1])
		}
		chosen[servers[0]] = true
	}
	if len(chosen) != 3 {
		t.Errorf("of three servers, %d are chosen for some database: %v", len(chosen), chosen)
	}
	for _, location := range []string{"memcached://", "memcached://a,,b", "memcached://user@host:1", "memcached://a/b"} {
		if _, err := Open(t.Context(), location, Options{}); err == nil {
			t.Errorf("%s is a location", location)
		}
	}
}
