package zeo

import (
	"slices"

	"s3storage/internal/zodb"
)

// load answers a loadBefore, at once where the storage can, else from a task.
// The id is valid only until it returns.
func (c *conn) load(id ID, oid zodb.Oid, tid zodb.Tid) error {
	if c.cached != nil {
		for {
			seen := c.out.seen()
			rev, ok, hit, err := c.cached.LoadBeforeCached(oid, tid)
			if !hit {
				break
			}
			if err != nil {
				c.fail(id, err)
				return nil
			}
			if c.out.addLoad(c.enc, id, rev, ok, seen, true) {
				return nil
			}
		}
	}
	id = slices.Clone(id)
	return c.task(func() {
		for {
			seen := c.out.seen()
			rev, ok, err := c.storage.LoadBefore(c.ctx, oid, tid)
			if err != nil {
				c.fail(id, err)
				return
			}
			// Reading may take longer than the time from one commit to the
			// next. Others' objects need not be read again for that.
			for current := rev.Serial; current == rev.Serial; {
				if c.out.addLoad(c.enc, id, rev, ok, seen, false) {
					return
				}
				seen = c.out.seen()
				if current, err = c.storage.GetTid(c.ctx, oid); err != nil {
					break // a deletion, say: the load will tell
				}
			}
		}
	})
}
