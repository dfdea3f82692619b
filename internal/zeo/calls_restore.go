package zeo

import (
	"fmt"

	"s3storage/internal/zodb"
)

// deleteObject(oid, serial, id)
func (c *conn) deleteObject(k *call) (any, error) {
	return c.change(k, 2, func(t *txn, oid zodb.Oid, serial zodb.Tid) error {
		return t.inner.Delete(oid, serial)
	})
}

// restorea(oid, tid, data or None, source tid or None, id), where tid is the one
// that tpc_begin has given.
func (c *conn) restorea(k *call) (any, error) {
	oid, err := k.oid()
	if err != nil {
		return nil, err
	}
	tid, err := k.tid(1)
	if err != nil {
		return nil, err
	}
	source, err := k.serial(3)
	if err != nil {
		return nil, err
	}
	t, err := c.writable(k, 4)
	if err != nil || t.broken != nil {
		return nil, err
	}
	if tid != t.tid {
		t.spoil(&Error{classValue, Tuple{fmt.Sprintf(
			"restore of object %s with tid %s in a transaction that was begun with tid %s", oid, tid, t.tid)}})
		return nil, nil
	}
	var data []byte // nil for a deletion
	if k.args[2] != nil {
		data, err = k.ownData()
	}
	if err == nil {
		err = t.inner.Restore(oid, data, source)
	}
	if err != nil {
		t.spoil(err)
	}
	return nil, nil
}
