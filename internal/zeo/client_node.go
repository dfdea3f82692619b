package zeo

import (
	"errors"
	"fmt"
	"math"

	"s3storage/internal/zodb"
)

// This file has the calls that nodes make to the one that leads: see nodeMethods.

// A LogFollower is told of the log of the node at the other end, in the goroutine
// that reads the connection.
type LogFollower interface {
	// LogObject is told of an object that has become part of the log. It may keep
	// data.
	LogObject(slot uint64, data []byte)

	// LogEnd is told several times a second where the log ends, and how many other
	// nodes had better ask for the lead before this one, when the leader is lost.
	LogEnd(epoch, slot uint64, last zodb.Tid, turn int)
}

// Follow has ClientOptions.Follower told of the log from a slot of an epoch on.
func (c *Client) Follow() (epoch, slot uint64, err error) {
	return pairOf(c.call("s3_follow", Tuple{}))
}

// LogEnd asks where the log ends.
func (c *Client) LogEnd() (epoch, slot uint64, err error) { return pairOf(c.call("s3_end", Tuple{})) }

// Sync waits until everything that the node at the other end has begun to put into its
// log is part of it, and returns where it ends then.
func (c *Client) Sync() (slot uint64, err error) {
	v, err := c.call("s3_sync", Tuple{})
	if err != nil {
		return 0, err
	}
	n, ok := v.(int64)
	if !ok || n < 0 {
		return 0, errMalformed
	}
	return uint64(n), nil
}

// Followers asks which nodes follow the leader at the other end.
func (c *Client) Followers() (all []Follower, err error) {
	v, err := c.call("s3_followers", Tuple{})
	if err != nil {
		return nil, err
	}
	for _, item := range itemsOf(v) {
		t, _ := item.(Tuple)
		if len(t) != 3 {
			return nil, errMalformed
		}
		name, ok1 := t[0].(string)
		address, ok2 := t[1].(string)
		slot, ok3 := t[2].(int64)
		if !ok1 || !ok2 || !ok3 || slot < 0 {
			return nil, errMalformed
		}
		all = append(all, Follower{name, address, uint64(slot)})
	}
	return all, nil
}

// Applied tells how far this node is with the log.
func (c *Client) Applied(slot uint64) error {
	if err := c.oneWay("s3_applied", Tuple{int64(slot)}); err != nil {
		return err
	}
	return c.Flush()
}

// TpcBeginWith begins a transaction with the metadata that another client has
// given, and with the tid unless it is NoTid.
func (c *Client) TpcBeginWith(id int64, meta zodb.TxnMeta, tid zodb.Tid) error {
	var given any
	if tid != zodb.NoTid {
		given = tid
	}
	var extension any = meta.Extension
	if len(meta.Extension) == 0 {
		extension = nil
	}
	return c.oneWay("tpc_begin", Tuple{id, noNil(meta.User), noNil(meta.Description), extension, given, []byte{meta.Status}})
}

// noNil returns b, or no bytes: nil would be sent as None.
func noNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// DeleteObject makes the object not exist any more.
func (c *Client) DeleteObject(oid zodb.Oid, serial zodb.Tid, id int64) error {
	return c.oneWay("deleteObject", Tuple{oid, serial, id})
}

// Restorea writes a revision of the transaction's tid that was committed elsewhere:
// see zodb.Transaction.
func (c *Client) Restorea(oid zodb.Oid, tid zodb.Tid, data []byte, source zodb.Tid, id int64) error {
	args := Tuple{oid, tid, nil, nil, id}
	if data != nil {
		args[2] = data
	}
	if source != zodb.NoTid {
		args[3] = source
	}
	return c.oneWay("restorea", args)
}

// StoreBlobOf stores a revision with a blob that this node has announced and put.
func (c *Client) StoreBlobOf(oid zodb.Oid, serial zodb.Tid, data []byte, blob [16]byte, size, id int64) error {
	return c.oneWay("s3_store_blob", Tuple{oid, serial, data, blob[:], size, id})
}

// AnnounceBlob says that this node is about to put a blob.
func (c *Client) AnnounceBlob(id [16]byte) error {
	_, err := c.call("s3_blob", Tuple{id[:]})
	return err
}

// ForgetBlob takes back what AnnounceBlob has said.
func (c *Client) ForgetBlob(id [16]byte) error {
	if err := c.oneWay("s3_forget", Tuple{id[:]}); err != nil {
		return err
	}
	return c.Flush()
}

// Finish commits the transaction: it returns when it has its place in the log of
// the epoch, not when it is durable.
func (c *Client) Finish(id int64) (tid zodb.Tid, epoch uint64, err error) {
	v, err := c.call("s3_finish", Tuple{id})
	if err != nil {
		return 0, 0, err
	}
	t, _ := v.(Tuple)
	if len(t) != 2 {
		return 0, 0, fmt.Errorf("zeo: a reply of a tid and an epoch is wanted, not %v", v)
	}
	if tid, err = tidOf(t[0], nil); err != nil {
		return 0, 0, err
	}
	n, ok := t[1].(int64)
	if !ok || n <= 0 {
		return 0, 0, fmt.Errorf("zeo: %v is no epoch", t[1])
	}
	return tid, uint64(n), nil
}

// PackTo packs up to a transaction, and waits until that is done.
func (c *Client) PackTo(tid zodb.Tid) error {
	_, err := c.call("s3_pack", Tuple{tid})
	return err
}

// pairOf reads two numbers.
func pairOf(v any, err error) (a, b uint64, _ error) {
	if err != nil {
		return 0, 0, err
	}
	t, _ := v.(Tuple)
	if len(t) < 2 {
		return 0, 0, errMalformed
	}
	x, ok1 := t[0].(int64)
	y, ok2 := t[1].(int64)
	if !ok1 || !ok2 || x < 0 || y < 0 {
		return 0, 0, errMalformed
	}
	return uint64(x), uint64(y), nil
}

var errMalformed = errors.New("zeo: a malformed message of a node")

// followed takes in what the leader tells of its log.
func (c *Client) followed(name string, args Tuple) error {
	f := c.options.Follower
	if f == nil {
		return nil
	}
	if name == "s3_end" {
		if len(args) != 4 {
			return errMalformed
		}
		turn, ok := args[3].(int64)
		if !ok || turn < 0 {
			return errMalformed
		}
		epoch, slot, err := pairOf(args, nil)
		if err != nil {
			return err
		}
		last, err := tidOf(args[2], nil)
		if err == nil {
			f.LogEnd(epoch, slot, last, int(min(turn, math.MaxInt32)))
		}
		return err
	}
	if len(args) != 2 {
		return errMalformed
	}
	slot, ok := args[0].(int64)
	data, ok2 := args[1].([]byte)
	if !ok || !ok2 || slot < 0 {
		return errMalformed
	}
	f.LogObject(uint64(slot), data)
	return nil
}
