package zeo

import (
	"bytes"

	"s3storage/internal/zodb"
)

// A loadKey is the id of a loadBefore.
type loadKey struct {
	oid zodb.Oid
	tid zodb.Tid
}

// A clientLoad is a load under way. Loads with the same id wait in a chain: their
// replies are the same.
type clientLoad struct {
	done func(LoadReply, error)
	next *clientLoad
}

// LoadBefore returns the revision of the object before tid. ok is false where
// the object came to be only at tid or later.
func (c *Client) LoadBefore(oid zodb.Oid, tid zodb.Tid) (rev zodb.Revision, ok bool, err error) {
	ch := make(chan struct{})
	c.LoadBeforeAsync(oid, tid, func(r LoadReply, e error) {
		rev, ok, err = r.Rev, !r.None, e
		rev.Data = bytes.Clone(rev.Data)
		close(ch)
	})
	_ = c.Flush() // if this fails, the load does too
	<-ch
	return rev, ok && err == nil, err
}

// LoadBeforeAsync queues a load; Flush sends what is queued. done is called
// once, as a rule in the goroutine that reads the connection, and the data of
// the reply is valid only until it returns. It may queue further loads, which
// are sent when the replies that have arrived are used up; it must not make
// calls that wait. As nothing is read while those loads are written, no more
// than some thousand should be under way at once.
func (c *Client) LoadBeforeAsync(oid zodb.Oid, tid zodb.Tid, done func(LoadReply, error)) {
	key := loadKey{oid, tid}
	c.mu.Lock()
	if err := c.mu.err; err != nil {
		c.mu.Unlock()
		done(LoadReply{Oid: oid, Tid: tid}, err)
		return
	}
	l := c.mu.spare
	if l != nil {
		c.mu.spare = l.next
	} else {
		l = new(clientLoad)
	}
	*l = clientLoad{done, c.mu.loads[key]}
	c.mu.loads[key] = l
	c.mu.Unlock()

	// An error ends the connection, and that ends the load.
	_ = c.send(false, func(b []byte) ([]byte, error) {
		return c.enc.AppendLoadBefore(b, oid, tid), nil
	})
}

// loaded gives a reply to one who waits for it.
func (c *Client) loaded(r LoadReply, err error) error {
	key := loadKey{r.Oid, r.Tid}
	c.mu.Lock()
	l := c.mu.loads[key]
	if l == nil {
		c.mu.Unlock()
		return errUnasked(r)
	}
	if l.next == nil {
		delete(c.mu.loads, key)
	} else {
		c.mu.loads[key] = l.next
	}
	done := l.done
	*l = clientLoad{nil, c.mu.spare}
	c.mu.spare = l
	c.mu.Unlock()
	done(r, err)
	return nil
}
