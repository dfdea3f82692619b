package zeo

import (
	"context"
	"fmt"
	"math"
	"math/big"
	"slices"
	"sync"
	"time"

	"s3storage/internal/zodb"
)

// packs are the packs that a server has under way. They belong to the server:
// one goes on when the client that has asked for it is gone.
type packs struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		stopped bool
	}
}

func newPacks() *packs {
	p := &packs{}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// run has f pack in the background. It returns false after stop.
func (p *packs) run(f func(ctx context.Context)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.stopped {
		return false
	}
	p.wg.Go(func() { f(p.ctx) })
	return true
}

// stop ends all packs, and waits until they have. What they did so far is lost,
// and no harm is done.
func (p *packs) stop() {
	p.mu.Lock()
	p.mu.stopped = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}

// pack(time, wait=True) -> None. Read-only clients may do it too.
func (c *conn) pack(k *call) (any, error) {
	tid, err := k.packTid()
	if err != nil {
		return nil, err
	}
	wait := true
	if len(k.args) > 1 {
		var ok bool
		if wait, ok = truth(k.args[1]); !ok {
			return nil, k.wrong(1, "wait", "bool")
		}
	}
	return c.packInBackground(k, tid, wait)
}

// packInBackground answers a call when the pack is done, or at once.
func (c *conn) packInBackground(k *call, tid zodb.Tid, wait bool) (any, error) {
	if err := c.acquire(c.slots); err != nil { // so that a client can have only so many at a time
		return nil, &protocolError{err}
	}
	id, oneWay := slices.Clone(k.id), k.oneWay
	started := c.srv.packs.run(func(ctx context.Context) {
		defer func() { <-c.slots }()
		err := c.packTo(ctx, tid)
		switch {
		case oneWay || !wait:
		case err != nil:
			c.fail(id, err)
		default:
			c.reply(id, nil)
		}
	})
	switch {
	case !started:
		<-c.slots
		return nil, &Error{classStorage, Tuple{"the server is being shut down"}}
	case wait:
		return nil, errLater
	}
	return nil, nil
}

func (c *conn) packTo(ctx context.Context, tid zodb.Tid) error {
	start := time.Now()
	log := c.log.With("storage", c.name, "to", tid.String(), "time", tid.Time().Format(time.RFC3339))
	log.Info("pack begins")
	if err := c.storage.Pack(ctx, tid); err != nil {
		log.Error("pack failed", "error", err)
		return err
	}
	log.Info("pack is done", "after", time.Since(start))
	c.srv.tellSize(c.name)
	return nil
}

// tellSize tells all clients of a storage how large it is now.
func (s *Server) tellSize(name string) {
	info := s.storages[name].Info()
	s.mu.Lock()
	var conns []*conn
	for c := range s.mu.conns {
		if p := c.registered.Load(); p != nil && *p == name {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.out.addInfo(appendInfo(nil, c.enc, info))
	}
}

// appendInfo appends the one-way message that tells how large a storage is.
func appendInfo(b []byte, e Encoding, info zodb.Info) []byte {
	b, _ = e.AppendOneWay(b, "info", Tuple{Dict{ // small numbers always can be sent
		{"length", info.Objects},
		{"size", info.Size},
	}})
	return b
}

// packTid returns the tid of the time that the first argument names in seconds
// since 1970, to the bit as Python's TimeStamp reckons it from a float.
func (k *call) packTid() (zodb.Tid, error) {
	var t float64
	switch v := k.args[0].(type) {
	case float64:
		t = v
	case int64:
		t = float64(v)
	case *big.Int:
		t, _ = new(big.Float).SetInt(v).Float64()
	default:
		return 0, k.wrong(0, "time", "float")
	}
	const earliest, latest = -2208988800, 253402300800 // the years 1900 and 10000
	if !(t > earliest && t < latest) {
		return 0, &Error{classValue, Tuple{fmt.Sprintf("%s(): %v is no time to pack to", k.name, t)}}
	}
	minute := math.Floor(t / 60)
	second := math.Mod(t, 60)
	if second < 0 {
		second += 60
	}
	const unit = 60.0 / (1 << 16) / (1 << 16)
	fraction := min(uint64(second/unit), math.MaxUint32)
	return zodb.TidAt(time.Unix(int64(minute)*60, 0)) | zodb.Tid(fraction), nil
}
