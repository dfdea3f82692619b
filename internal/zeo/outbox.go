package zeo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"s3storage/internal/zodb"
)

const (
	outboxRoom = 4 << 20 // queued beyond this, the connection is not read from
	outboxKeep = 1 << 20 // longer buffers are not kept for reuse

	// bulkRoom is how much may be queued for a blob's next chunk to be. What
	// is queued for another reason waits behind that much and one chunk.
	bulkRoom = 256 << 10

	// endTimeout is how long a client has to take what is still queued for it
	// when the server hangs up.
	endTimeout = 5 * time.Second
)

// An outbox holds the frames that a connection is about to send, in their
// order. Whoever has something to say appends it under the mutex; one writer
// takes everything at once and writes it in one go.
//
// Invariants: buf and late hold whole frames. While held is set, late takes
// what comes by itself, and nothing else is queued. changes counts the
// invalidations and the ends of the connection's own transactions queued so
// far; it changes in the same critical section in which their frames are
// appended, so a reply that is appended while changes stands where it stood
// before the storage was asked is behind exactly the invalidations that the
// storage's answer takes account of (invariant I6 of doc/design.md). A bulk frame
// is queued only while buf and what is being written hold no more than bulkRoom;
// those who have one take turns, in the order in which they came.
type outbox struct {
	nc       net.Conn
	maxNews  int
	cancel   context.CancelFunc // called when the connection is given up
	work     sync.Cond          // there is something to write, or the end
	room     sync.Cond          // something was written, or the end
	turn     chan struct{}      // held by the one who may queue a bulk frame next
	finished chan struct{}

	mu struct {
		sync.Mutex
		buf, spare  []byte
		writing     int // bytes that the writer has taken
		news        int // bytes of invalidations in buf and late
		newsWriting int // bytes of invalidations that the writer has taken
		changes     uint64
		held        bool
		late        []byte
		ending      bool  // write what is queued, then hang up
		err         error // why nothing is taken any more
	}
}

var (
	errHungUp   = errors.New("the server hung up")
	errTornDown = errors.New("the connection ended")
)

func newOutbox(nc net.Conn, maxNews int, cancel context.CancelFunc) *outbox {
	o := &outbox{nc: nc, maxNews: maxNews, cancel: cancel, turn: make(chan struct{}, 1), finished: make(chan struct{})}
	o.work.L, o.room.L = &o.mu, &o.mu
	return o
}

// write is the writer. It returns when the connection is at its end.
func (o *outbox) write() {
	defer close(o.finished)
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		for len(o.mu.buf) == 0 && !o.mu.ending && o.mu.err == nil {
			o.work.Wait()
		}
		if o.mu.err != nil {
			return
		}
		if len(o.mu.buf) == 0 { // ending
			o.failLocked(errHungUp)
			return
		}
		batch := o.mu.buf
		o.mu.buf, o.mu.spare = o.mu.spare[:0], nil
		o.mu.writing, o.mu.newsWriting, o.mu.news = len(batch), o.mu.news, 0
		o.mu.Unlock()
		_, err := o.nc.Write(batch)
		o.mu.Lock()
		o.mu.writing, o.mu.newsWriting = 0, 0
		if cap(batch) <= outboxKeep {
			o.mu.spare = batch
		}
		if err != nil {
			o.failLocked(fmt.Errorf("write: %w", err))
			return
		}
		o.room.Broadcast()
	}
}

// flush wakes the writer.
func (o *outbox) flush() {
	o.mu.Lock()
	if len(o.mu.buf) > 0 {
		o.work.Signal()
	}
	o.mu.Unlock()
}

// waitRoom waits while too much is queued, and tells why if nothing will be
// sent any more.
func (o *outbox) waitRoom() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.mu.err == nil && len(o.mu.buf)+o.mu.writing > outboxRoom {
		o.work.Signal()
		o.room.Wait()
	}
	return o.mu.err
}

// queued returns how many bytes have not been taken by the connection yet.
func (o *outbox) queued() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.mu.buf) + o.mu.writing + len(o.mu.late)
}

// add queues a frame.
func (o *outbox) add(frame []byte) {
	o.mu.Lock()
	if o.mu.err == nil {
		o.mu.buf = append(o.mu.buf, frame...)
		o.work.Signal()
	}
	o.mu.Unlock()
}

// addBulk queues a frame of a blob when it is its turn and little else is queued.
// It tells why if nothing will be sent any more.
func (o *outbox) addBulk(frame []byte) error {
	o.turn <- struct{}{} // those who hold it wait for nothing but the client
	defer func() { <-o.turn }()
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.mu.err == nil && len(o.mu.buf)+o.mu.writing > bulkRoom {
		o.work.Signal()
		o.room.Wait()
	}
	if o.mu.err == nil {
		o.mu.buf = append(o.mu.buf, frame...)
		o.work.Signal()
	}
	return o.mu.err
}

// addInfo queues a one-way message that nobody waits for.
func (o *outbox) addInfo(frame []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.mu.err != nil:
	case o.mu.held:
		o.mu.late = append(o.mu.late, frame...)
	default:
		o.mu.buf = append(o.mu.buf, frame...)
		o.work.Signal()
	}
}

// seen returns the count of changes, to be taken before the storage is asked.
func (o *outbox) seen() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.changes
}

// addLoad queues the reply to a loadBefore. It declines, returning false, where
// the reply says that the revision is current and something changed since seen.
// The writer is not woken where quiet is set: flush has to follow.
func (o *outbox) addLoad(e Encoding, id ID, rev zodb.Revision, ok bool, seen uint64, quiet bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ok && rev.Next == zodb.NoTid && o.mu.changes != seen {
		return false
	}
	if o.mu.err == nil {
		o.mu.buf = e.AppendLoadBeforeReply(o.mu.buf, id, rev, ok)
		if !quiet {
			o.work.Signal()
		}
	}
	return true
}

// addNews queues an invalidation. It never waits. A client that lets too many
// of them pile up is given up: it has to verify its cache when it is back.
func (o *outbox) addNews(frame []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.changes++
	if o.mu.err != nil {
		return
	}
	o.mu.news += len(frame)
	if queued := o.mu.news + o.mu.newsWriting; queued > o.maxNews {
		o.failLocked(fmt.Errorf("the client does not read: %d bytes of invalidations wait for it, the limit is %d", queued, o.maxNews))
		return
	}
	if o.mu.held {
		o.mu.late = append(o.mu.late, frame...)
		return
	}
	o.mu.buf = append(o.mu.buf, frame...)
	o.work.Signal()
}

// addOwn queues the frames that end the connection's own transaction.
func (o *outbox) addOwn(frames []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.changes++
	if o.mu.err == nil {
		o.mu.buf = append(o.mu.buf, frames...)
		o.work.Signal()
	}
}

// hold keeps invalidations back until release, so that the frame given to
// release comes before them.
func (o *outbox) hold() {
	o.mu.Lock()
	o.mu.held = true
	o.mu.Unlock()
}

func (o *outbox) release(frame []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.held = false
	if o.mu.err == nil {
		o.mu.buf = append(append(o.mu.buf, frame...), o.mu.late...)
		o.work.Signal()
	}
	o.mu.late = nil
}

// end has the connection closed when everything queued was written.
func (o *outbox) end() {
	o.nc.SetWriteDeadline(time.Now().Add(endTimeout))
	o.mu.Lock()
	o.mu.ending = true
	o.work.Signal()
	o.mu.Unlock()
}

// fail closes the connection at once. The first reason is kept.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	o.failLocked(err)
	o.mu.Unlock()
}

func (o *outbox) failLocked(err error) {
	if o.mu.err != nil {
		return
	}
	o.mu.err = err
	o.mu.buf, o.mu.spare, o.mu.late = nil, nil, nil
	o.work.Broadcast()
	o.room.Broadcast()
	o.cancel()
	go o.nc.Close() // it wakes the reader; whoever fails may hold a storage's lock
}

// reason returns why the connection was given up, or nil.
func (o *outbox) reason() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.err
}
