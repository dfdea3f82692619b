package zeo

import (
	"sync"

	"s3storage/internal/zodb"
)

// news encodes each commit of a storage once for all connections.
type news struct {
	mu struct {
		sync.Mutex
		commit *zodb.Commit
		frames map[Encoding][]byte
	}
}

// frame returns the invalidation for c, to be copied.
func (n *news) frame(e Encoding, c *zodb.Commit) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.commit != c {
		n.mu.commit, n.mu.frames = c, make(map[Encoding][]byte, 2)
	}
	f := n.mu.frames[e]
	if f == nil {
		// Oids and tids always can be sent.
		f, _ = e.AppendOneWay(nil, "invalidateTransaction", Tuple{c.Tid, c.Oids})
		n.mu.frames[e] = f
	}
	return f
}

// Committed is called by the storage, under its lock: see zodb.Observer.
func (c *conn) Committed(commit *zodb.Commit) {
	c.out.addNews(c.news.frame(c.enc, commit))
}
