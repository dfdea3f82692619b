package zeo

import (
	"fmt"
	"time"

	"s3storage/internal/zodb"
)

// This file has the calls by name. Errors of the server are those that AsError
// makes of them: errors of package zodb, or an *Error with the name of the class.

// Ping returns when everything that the server has sent before is taken in.
func (c *Client) Ping() error {
	_, err := c.call("ping", Tuple{})
	return err
}

// LastTransaction asks for the newest tid.
func (c *Client) LastTransaction() (zodb.Tid, error) {
	return tidOf(c.call("lastTransaction", Tuple{}))
}

// GetInfo asks what the storage is.
func (c *Client) GetInfo() (zodb.Info, error) {
	d, err := dictOf(c.call("get_info", Tuple{}))
	if err != nil {
		return zodb.Info{}, err
	}
	var info zodb.Info
	name, _ := d.Get("name")
	info.Name, _ = name.(string)
	length, _ := d.Get("length")
	info.Objects, _ = length.(int64)
	size, _ := d.Get("size")
	info.Size, _ = size.(int64)
	return info, nil
}

// ServerStatus asks for the server's counters.
func (c *Client) ServerStatus() (Dict, error) {
	return dictOf(c.call("server_status", Tuple{}))
}

// Pack has the server drop what is not needed since that time, and waits until it
// has.
func (c *Client) Pack(t time.Time) error {
	_, err := c.call("pack", Tuple{float64(t.UnixNano()) / 1e9, true})
	return err
}

// NewOids asks for n oids; servers give at most 100.
func (c *Client) NewOids(n int) ([]zodb.Oid, error) {
	return oidsOf(c.call("new_oids", Tuple{n}))
}

// LoadSerial asks for the data of one revision.
func (c *Client) LoadSerial(oid zodb.Oid, serial zodb.Tid) ([]byte, error) {
	return bytesOf(c.call("loadSerial", Tuple{oid, serial}))
}

// GetTid asks for the current serial of an object.
func (c *Client) GetTid(oid zodb.Oid) (zodb.Tid, error) {
	return tidOf(c.call("getTid", Tuple{oid}))
}

// TpcBegin begins the transaction that the client calls id. Like the other
// one-way calls it is sent with the next call that wants a reply.
func (c *Client) TpcBegin(id int64, user, description string) error {
	return c.oneWay("tpc_begin", Tuple{id, []byte(user), []byte(description), Dict{}, nil, " "})
}

// Storea stores a new revision over the one of the given serial.
func (c *Client) Storea(oid zodb.Oid, serial zodb.Tid, data []byte, id int64) error {
	return c.oneWay("storea", Tuple{oid, serial, data, id})
}

// Undoa takes back what the transaction undone did.
func (c *Client) Undoa(undone zodb.Tid, id int64) error {
	return c.oneWay("undoa", Tuple{undoID(undone), id})
}

// CheckCurrent makes the vote fail unless the object still has the serial.
func (c *Client) CheckCurrent(oid zodb.Oid, serial zodb.Tid, id int64) error {
	return c.oneWay("checkCurrentSerialInTransaction", Tuple{oid, serial, id})
}

// Vote asks whether the transaction can be committed. It returns the objects
// that the server has resolved or undone, or the conflicts that it leaves to the client, who
// may merge the states, store the results over Committed and vote again.
func (c *Client) Vote(id int64) (resolved []zodb.Oid, conflicts []zodb.Conflict, err error) {
	v, err := c.call("vote", Tuple{id})
	if err != nil {
		return nil, nil, err
	}
	for _, item := range itemsOf(v) {
		if d, ok := item.(Dict); ok {
			conflict, err := conflictOf(d)
			if err != nil {
				return nil, nil, err
			}
			conflicts = append(conflicts, conflict)
			continue
		}
		oid, err := oidOf(item)
		if err != nil {
			return nil, nil, err
		}
		resolved = append(resolved, oid)
	}
	return resolved, conflicts, nil
}

// TpcFinish commits the transaction and returns its tid.
func (c *Client) TpcFinish(id int64) (zodb.Tid, error) {
	tid, err := tidOf(c.call("tpc_finish", Tuple{id}))
	if err != nil {
		return 0, err
	}
	c.advance(tid)
	return tid, nil
}

// TpcAbort drops the transaction.
func (c *Client) TpcAbort(id int64) error {
	_, err := c.call("tpc_abort", Tuple{id})
	return err
}

func conflictOf(d Dict) (c zodb.Conflict, err error) {
	oid, _ := d.Get("oid")
	if c.Oid, err = oidOf(oid); err != nil {
		return c, err
	}
	v, _ := d.Get("serials")
	serials, _ := v.(Tuple)
	if len(serials) != 2 {
		return c, fmt.Errorf("zeo: malformed serials %v", v)
	}
	if c.Committed, err = tidOf(serials[0], nil); err != nil {
		return c, err
	}
	if c.Read, err = tidOf(serials[1], nil); err != nil {
		return c, err
	}
	data, _ := d.Get("data")
	c.Data, err = bytesOf(data, nil)
	return c, err
}

// errUnasked reports a reply that nobody waits for.
func errUnasked(r LoadReply) error {
	return fmt.Errorf("zeo: a reply to loadBefore(%s, %s), which was not asked", r.Oid, r.Tid)
}

// The functions below make Go values of what a call has returned, error and all.

func bytesOf(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("zeo: a reply of bytes is wanted, not %T", v)
	}
	return b, nil
}

func tidOf(v any, err error) (zodb.Tid, error) {
	b, err := bytesOf(v, err)
	if err != nil {
		return 0, err
	}
	return zodb.TidFrom(b)
}

func oidOf(v any) (zodb.Oid, error) {
	b, err := bytesOf(v, nil)
	if err != nil {
		return 0, err
	}
	return zodb.OidFrom(b)
}

func dictOf(v any, err error) (Dict, error) {
	if err != nil {
		return nil, err
	}
	d, ok := v.(Dict)
	if !ok {
		return nil, fmt.Errorf("zeo: a reply of a dict is wanted, not %T", v)
	}
	return d, nil
}

func itemsOf(v any) []any {
	switch v := v.(type) {
	case Tuple:
		return v
	case List:
		return v
	}
	return nil
}

func oidsOf(v any, err error) ([]zodb.Oid, error) {
	if err != nil {
		return nil, err
	}
	items := itemsOf(v)
	oids := make([]zodb.Oid, len(items))
	for i, item := range items {
		if oids[i], err = oidOf(item); err != nil {
			return nil, err
		}
	}
	return oids, nil
}
