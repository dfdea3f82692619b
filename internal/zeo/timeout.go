package zeo

import (
	"fmt"
	"time"
)

// A timeoutError ends a connection that voted for a transaction and did not
// finish it in time.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("transaction timeout after %v", e.after)
}

// votedLocked begins the transaction timeout: from now on t keeps others from
// its objects.
func (c *conn) votedLocked(t *txn) {
	t.votedAt = time.Now()
	if after := c.srv.opts.TransactionTimeout; after > 0 && c.mu.txn == t {
		t.timeout = time.AfterFunc(after, func() { c.timeOut(t, after) })
	}
}

// timeOut ends the connection if t still waits to be finished. The reading
// goroutine then aborts t, as it does at the end of every connection.
func (c *conn) timeOut(t *txn, after time.Duration) {
	c.mu.Lock()
	late := c.mu.txn == t && t.state == txnVoted
	if late {
		t.state = txnTimedOut
	}
	c.mu.Unlock()
	if late {
		c.out.fail(&timeoutError{after})
	}
}

// stopTimeoutLocked is called when t is finished or aborted, with conn.mu held.
func (t *txn) stopTimeoutLocked() {
	if t.timeout != nil {
		t.timeout.Stop()
	}
}

// lockTime is what the reference server calls so: when the lock was taken that
// is held now, in seconds since 1970, or nil. Of several transactions that wait
// to be finished it is that of the first.
func (s *Server) lockTime(name string) any {
	var first time.Time
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.mu.conns {
		if p := c.registered.Load(); p == nil || *p != name {
			continue
		}
		c.mu.Lock()
		if t := c.mu.txn; t != nil && t.state == txnVoted && (first.IsZero() || t.votedAt.Before(first)) {
			first = t.votedAt
		}
		c.mu.Unlock()
	}
	if first.IsZero() {
		return nil
	}
	return float64(first.UnixMicro()) / 1e6
}
