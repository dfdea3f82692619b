package simulation

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"s3storage/internal/buckettest/faults"
	"s3storage/internal/node"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A weakness is a mistake that nodes make, so that it is seen that it would be found.
type weakness struct {
	serve func(*node.Node) zodb.Storage // what clients and other nodes are served
	puts  func(error) error             // what a put of an object of the log comes to
}

func (w *weakness) storage(n *node.Node) zodb.Storage {
	if w.serve == nil {
		return n
	}
	return w.serve(n)
}

func (w *weakness) put(name string, err error) error {
	if w.puts == nil || !strings.HasPrefix(name, txlog.Prefix) {
		return err
	}
	return w.puts(err)
}

// trusting takes a put without an answer for one that has succeeded.
func trusting(err error) error {
	if errors.Is(err, faults.ErrInjected) {
		return nil
	}
	return err
}

// A forward node does not wait, when a client comes, until it has caught up.
type forward struct{ *node.Node }

func (forward) Sync(context.Context) error { return nil }

// A hasty node acknowledges what is in the queue for the log.
type hasty struct{ *node.Node }

func (h hasty) Begin(meta zodb.TxnMeta, tid zodb.Tid, origin zodb.Observer) (zodb.Transaction, error) {
	t, err := h.Node.Begin(meta, tid, origin)
	if f, leads := t.(zodb.Forwarded); leads {
		return hastyTransaction{f}, err
	}
	return t, err
}

type hastyTransaction struct{ zodb.Forwarded }

func (h hastyTransaction) Finish(done func(*zodb.Commit, error)) {
	var once sync.Once
	h.Forwarded.Finish(func(c *zodb.Commit, err error) { once.Do(func() { done(c, err) }) })
	if tid, epoch := h.Sequenced(); epoch != 0 {
		once.Do(func() { done(&zodb.Commit{Tid: tid}, nil) })
	}
}

// A generous node gives out oids as if it had given out none before it was started.
type generous struct {
	*node.Node
	next *atomic.Uint64
}

func (g generous) NewOids(_ context.Context, n int) (oids []zodb.Oid, err error) {
	for range n {
		oids = append(oids, zodb.Oid(g.next.Add(1)))
	}
	return oids, nil
}

// A forgetful node does not tell its clients of each seventh commit.
type forgetful struct {
	*node.Node
	mu   *sync.Mutex
	told map[zodb.Observer]*forgetting
}

type forgetting struct {
	zodb.Observer
	commits int
}

func (f *forgetting) Committed(c *zodb.Commit) {
	if f.commits++; f.commits%7 != 0 {
		f.Observer.Committed(c)
	}
}

func (f forgetful) Subscribe(obs zodb.Observer) zodb.Tid {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told[obs] = &forgetting{Observer: obs}
	return f.Node.Subscribe(f.told[obs])
}

func (f forgetful) Unsubscribe(obs zodb.Observer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if told := f.told[obs]; told != nil {
		f.Node.Unsubscribe(told)
	}
}

// A modern node shows the newest state whatever it is asked for.
type modern struct{ *node.Node }

func (m modern) LoadBefore(ctx context.Context, oid zodb.Oid, _ zodb.Tid) (zodb.Revision, bool, error) {
	return m.Node.LoadBefore(ctx, oid, zodb.MaxTid)
}

func (m modern) LoadBeforeCached(zodb.Oid, zodb.Tid) (rev zodb.Revision, ok, hit bool, err error) {
	return rev, false, false, nil
}
