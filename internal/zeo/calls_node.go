package zeo

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"s3storage/internal/zodb"
)

// The calls of other nodes that serve the same database. They are not part of the
// ZEO protocol; stock clients do not make them. They give no more rights than ZEO's
// own calls: whoever may read may follow, whoever may write may commit.
//
//	s3_register(storage, name, address) -> tid  register, for another node: it is told of
//	                                  no commits. Fails where this node does not lead
//	s3_follow() -> (epoch, slot)      from there on s3_log(slot, object) is sent for
//	                                  each object that becomes part of the log, and
//	                                  s3_end(epoch, slot, last tid, turn) several times a
//	                                  second; turn is how many others had better ask for
//	                                  the lead before this one, when the leader is lost
//	s3_end() -> (epoch, slot)         where the log ends
//	s3_sync() -> slot                 the same, when what is being put is part of it
//	s3_followers() -> [(name, address, slot)]  who follows, and how far each is
//	s3_applied(slot)                  one-way: how far the other node is
//	s3_finish(id) -> (tid, epoch)     tpc_finish that does not wait for the log
//	s3_pack(tid)                      pack to a transaction
//	s3_blob(id), s3_forget(id)        a blob that the other node puts, or has put
//	s3_store_blob(oid, serial, data, blob id, size, id)
var nodeMethods = map[string]method{
	"s3_follow":     {0, 0, ofNode((*conn).follow)},
	"s3_end":        {0, 0, ofNode((*conn).nodeEnd)},
	"s3_sync":       {0, 0, ofNode((*conn).nodeSync)},
	"s3_followers":  {0, 0, ofNode((*conn).followers)},
	"s3_applied":    {1, 1, ofNode((*conn).nodeApplied)},
	"s3_finish":     {1, 1, ofNode((*conn).nodeFinish)},
	"s3_pack":       {1, 1, ofNode((*conn).nodePack)},
	"s3_blob":       {1, 1, ofNode((*conn).announceBlob)},
	"s3_forget":     {1, 1, ofNode((*conn).forgetBlob)},
	"s3_store_blob": {6, 6, ofNode((*conn).storeBlobOf)},
}

// endEvery is how often a node that follows is told where the log ends. When it
// hears nothing for several times as long, the leader is gone, or does not run.
const endEvery = 500 * time.Millisecond

// errNotLeader is what other nodes are told by one that does not lead.
var errNotLeader = &Error{classStorage, Tuple{"this node does not lead the database"}}

// An otherNode is what a connection of another node has besides.
type otherNode struct {
	leader  zodb.Leader
	name    string
	address string // where others reach it; empty where they do not
	follows bool   // written by the one that reads, guarded by conn.mu
	applied uint64 // slot, likewise
	blobs   map[[16]byte]struct{}
}

// registerNode registers another node. Unlike a client it is not told of transactions,
// and waits for nothing: it asks when it has to.
func (c *conn) registerNode(k *call) (any, error) {
	storageName, storage, err := c.wanted(k, false)
	if err != nil {
		return nil, err
	}
	name, ok := k.args[1].(string)
	if !ok {
		return nil, k.wrong(1, "name", "str")
	}
	address, ok := k.args[2].(string)
	if !ok {
		return nil, k.wrong(2, "address", "str")
	}
	leader, ok := storage.(zodb.Leader)
	if !ok {
		return nil, errNotLeader
	}
	_, _, last, err := leader.LogEnd()
	if err != nil {
		return nil, errNotLeader
	}
	c.enterStorage(storageName, storage, false)
	c.mu.Lock()
	c.mu.peer = &otherNode{leader: leader, name: name[:min(len(name), maxLabel)], address: address[:min(len(address), maxLabel)], blobs: make(map[[16]byte]struct{})}
	c.mu.Unlock()
	c.log.Info("registered", "storage", storageName, "node", name, "encoding", c.enc.String())
	return last, nil
}

func (c *conn) peer() *otherNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.peer
}

// ofNode is a method for connections of other nodes only.
func ofNode(answer func(*conn, *otherNode, *call) (any, error)) func(*conn, *call) (any, error) {
	return func(c *conn, k *call) (any, error) {
		p := c.peer()
		if p == nil {
			return nil, violation("%s is for those who call s3_register", k.name)
		}
		return answer(c, p, k)
	}
}

func (c *conn) follow(p *otherNode, k *call) (any, error) {
	if p.follows {
		return nil, violation("s3_follow was called twice")
	}
	c.out.hold() // so that the answer comes first
	epoch, slot, err := p.leader.FollowLog(c)
	var frame []byte
	if err == nil && !k.oneWay {
		frame, _ = c.enc.AppendReply(nil, k.id, Tuple{int64(epoch), int64(slot)})
	}
	c.out.release(frame)
	if err != nil {
		return nil, errNotLeader
	}
	c.mu.Lock()
	p.follows = true
	c.mu.Unlock()
	c.tasks.Go(func() { c.tellEnds(p.leader) })
	c.log.Info("another node follows", "node", p.name, "slot", slot)
	return nil, errLater
}

// tellEnds tells the other node where the log ends, until the connection is at its
// end.
func (c *conn) tellEnds(leader zodb.Leader) {
	tick := time.NewTicker(endEvery)
	defer tick.Stop()
	for {
		epoch, slot, last, err := leader.LogEnd()
		if err != nil {
			c.out.end() // it had better look for another leader
			return
		}
		frame, _ := c.enc.AppendOneWay(nil, "s3_end", Tuple{int64(epoch), int64(slot), last, c.srv.turn(c)}) // always can be sent
		c.out.addInfo(frame)
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
	}
}

// LogObject implements zodb.LogObserver.
func (c *conn) LogObject(slot uint64, data []byte) {
	frame, err := c.enc.AppendOneWay(nil, "s3_log", Tuple{int64(slot), data})
	if err != nil {
		c.out.fail(err)
		return
	}
	c.out.addNews(frame)
}

// LogEnded implements zodb.LogObserver.
func (c *conn) LogEnded() { c.out.end() }

func (c *conn) nodeEnd(p *otherNode, _ *call) (any, error) {
	epoch, slot, _, err := p.leader.LogEnd()
	if err != nil {
		return nil, errNotLeader
	}
	return Tuple{int64(epoch), int64(slot)}, nil
}

func (c *conn) nodeSync(p *otherNode, k *call) (any, error) {
	return c.later(k, func(ctx context.Context) (any, error) {
		if err := p.leader.AwaitSent(ctx); err != nil {
			return nil, errNotLeader
		}
		_, slot, _, err := p.leader.LogEnd()
		if err != nil {
			return nil, errNotLeader
		}
		return int64(slot), nil
	})
}

func (c *conn) followers(_ *otherNode, _ *call) (any, error) {
	list := List{}
	for _, f := range c.srv.Followers(c.name) {
		list = append(list, Tuple{f.Name, f.Address, int64(f.Applied)})
	}
	return list, nil
}

func (c *conn) nodeApplied(p *otherNode, k *call) (any, error) {
	slot, ok := k.args[0].(int64)
	if !ok || slot < 0 {
		return nil, k.wrong(0, "slot", "int")
	}
	c.mu.Lock()
	p.applied = uint64(slot)
	c.mu.Unlock()
	return nil, nil
}

func (c *conn) nodeFinish(_ *otherNode, k *call) (any, error) {
	t, err := c.current(k, 0)
	if err != nil {
		return nil, err
	}
	forwarded, ok := t.inner.(zodb.Forwarded)
	if !ok {
		return nil, errNotLeader
	}
	if err := c.beginFinish(t); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.mu.finishing++ // until the answer is queued: before that the connection must not end
	c.mu.Unlock()
	defer c.endFinish()
	failed := make(chan error, 1) // what is known of it before Finish returns
	forwarded.Finish(func(_ *zodb.Commit, err error) {
		failed <- err
		c.endFinish()
	})
	tid, epoch := forwarded.Sequenced()
	if epoch == 0 {
		return nil, <-failed
	}
	if !k.oneWay {
		c.reply(k.id, Tuple{tid, int64(epoch)})
	}
	return nil, errLater
}

func (c *conn) nodePack(_ *otherNode, k *call) (any, error) {
	tid, err := k.tid(0)
	if err != nil {
		return nil, err
	}
	return c.packInBackground(k, tid, true)
}

// blobID reads an argument that names a blob.
func (k *call) blobID(i int) (id [16]byte, err error) {
	b, err := k.bytes(i, "blob")
	if err == nil && len(b) != len(id) {
		err = &Error{classValue, Tuple{fmt.Sprintf("%s(): a blob's id has %d bytes, not %d", k.name, len(id), len(b))}}
	}
	copy(id[:], b)
	return id, err
}

// maxAnnounced is how many blobs one node can be about to put.
const maxAnnounced = 100_000

func (c *conn) announceBlob(p *otherNode, k *call) (any, error) {
	id, err := k.blobID(0)
	if err != nil {
		return nil, err
	}
	if c.readOnly {
		return nil, errReadOnlyConnection
	}
	if len(p.blobs) >= maxAnnounced {
		return nil, &Error{classStorage, Tuple{"too many blobs are being stored"}}
	}
	if err := p.leader.AnnounceBlob(id); err != nil {
		return nil, errNotLeader
	}
	p.blobs[id] = struct{}{}
	return nil, nil
}

func (c *conn) forgetBlob(p *otherNode, k *call) (any, error) {
	id, err := k.blobID(0)
	if err != nil {
		return nil, err
	}
	p.forget(id)
	return nil, nil
}

func (p *otherNode) forget(id [16]byte) {
	if _, ok := p.blobs[id]; ok {
		delete(p.blobs, id)
		p.leader.ForgetBlob(id)
	}
}

func (c *conn) storeBlobOf(_ *otherNode, k *call) (any, error) {
	id, err := k.blobID(3)
	if err != nil {
		return nil, err
	}
	size, ok := k.args[4].(int64)
	if !ok || size < 0 {
		return nil, k.wrong(4, "size", "int")
	}
	return c.change(k, 5, func(t *txn, oid zodb.Oid, serial zodb.Tid) error {
		data, err := k.ownData()
		if err != nil {
			return err
		}
		forwarded, ok := t.inner.(zodb.Forwarded)
		if !ok {
			return errNotLeader
		}
		return forwarded.StoreBlobOf(oid, serial, data, id, size)
	})
}

// leave is called at the end of the connection.
func (p *otherNode) leave(c *conn) {
	p.leader.UnfollowLog(c)
	for id := range p.blobs {
		p.forget(id)
	}
}

// A Follower is another node that is told of the log.
type Follower struct {
	Name    string // as it has given it
	Address string // where others reach it; that of its end of the connection, if they do not
	Applied uint64 // the slot of the log up to which it has everything
}

// Followers returns the nodes that follow a storage.
func (s *Server) Followers(storage string) (all []Follower) {
	s.each(storage, func(c *conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p := c.mu.peer; p != nil && p.follows {
			all = append(all, Follower{p.name, cmp.Or(p.address, peerName(c.nc)), p.applied})
		}
	})
	slices.SortFunc(all, func(a, b Follower) int {
		return slices.Compare([]string{a.Address, a.Name}, []string{b.Address, b.Name})
	})
	return all
}

// turn returns the place of a node that follows in the line of those that ask for the
// lead when this one is lost. Of each storage another one is the first, so that the
// leads of a server that led several go to different ones.
func (s *Server) turn(c *conn) int64 {
	c.mu.Lock()
	address := cmp.Or(c.mu.peer.address, peerName(c.nc))
	c.mu.Unlock()
	all := s.Followers(c.name)
	place := slices.IndexFunc(all, func(f Follower) bool { return f.Address == address })
	if place < 0 {
		return 0 // it is going
	}
	first := slices.Index(slices.Sorted(maps.Keys(s.storages)), c.name) % len(all)
	return int64((place - first + len(all)) % len(all))
}

// HangUp closes all connections to a storage: its clients then verify their caches.
func (s *Server) HangUp(storage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.mu.conns {
		if name := c.registered.Load(); name != nil && *name == storage {
			c.out.fail(errHungUp)
		}
	}
}
