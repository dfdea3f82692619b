package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// A turn is what a node that follows was told last; -1 if it was told nothing.
type turn struct{ atomic.Int64 }

func (*turn) LogObject(uint64, []byte) {}

func (t *turn) LogEnd(_, _ uint64, _ zodb.Tid, turn int) { t.Store(int64(turn)) }

func TestForEachStorageAnotherNodeIsTheFirstToLeadNext(t *testing.T) {
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	storages := map[string]zodb.Storage{}
	for _, name := range []string{"a", "b", "c"} {
		e, err := engine.Open(t.Context(), bucket.NewMemory(), engine.Options{Node: name, Creator: "test", Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close(context.Background())
		storages[name] = e
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := zeo.NewServer(storages, zeo.Options{Logger: logger})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l, zeo.Access{}) }()
	defer func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		<-served
	}()
	// follow has a node of an address follow a storage.
	follow := func(storage, address string) (*turn, *zeo.Client) {
		told := &turn{}
		told.Store(-1)
		c, err := zeo.Dial(t.Context(), l.Addr().String(), zeo.ClientOptions{Storage: storage, Node: "node", NodeAddress: address, Follower: told})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, _, err := c.Follow(); err != nil {
			t.Fatal(err)
		}
		return told, c
	}
	a1, _ := follow("a", "host-1:8100")
	eventually(t, "who is alone is the first", func() bool { return a1.Load() == 0 })
	a2, gone := follow("a", "host-2:8100")
	b2, _ := follow("b", "host-2:8100") // in another order
	b1, _ := follow("b", "host-1:8100")
	c1, _ := follow("c", "host-1:8100")
	c2, _ := follow("c", "host-2:8100")
	for _, x := range []struct {
		name string
		told *turn
		turn int64
	}{{"a1", a1, 0}, {"a2", a2, 1}, {"b1", b1, 1}, {"b2", b2, 0}, {"c1", c1, 0}, {"c2", c2, 1}} {
		eventually(t, x.name+" has its turn", func() bool { return x.told.Load() == x.turn })
	}
	if all := s.Followers("b"); len(all) != 2 || all[0].Address != "host-1:8100" || all[1].Address != "host-2:8100" {
		t.Errorf("%+v", all)
	}
	gone.Close()
	a3, _ := follow("a", "") // whom others do not reach
	eventually(t, "the new one has a turn of its own", func() bool { return a1.Load()+a3.Load() == 1 })
}
