package txlog

import (
	"fmt"
	"strings"

	"s3storage/internal/zodb"
)

// CheckObject checks all bytes of an object of the log: a log object, payload
// object, checkpoint or the hint. It says whether the name is one of these. What
// the objects say about each other is for [Walk].
func CheckObject(name string, db DatabaseID, data []byte) (known bool, err error) {
	var own string // the name by what the object says of itself
	var of DatabaseID
	switch {
	case name == HeadName:
		var h *head
		if h, err = decodeHead(data); err == nil {
			own, of = HeadName, h.Database
		}
	case strings.HasPrefix(name, CheckpointPrefix):
		var c *Checkpoint
		if c, err = DecodeCheckpoint(name, data); err == nil {
			own, of = c.Name(), c.Database
		}
	case strings.HasPrefix(name, Prefix):
		var o *Object
		if o, err = Decode(name, data); err == nil {
			own, of = o.Name(), o.Database
		}
	case strings.HasPrefix(name, PayloadPrefix):
		var id PayloadID
		if of, id, _, err = DecodePayload(name, data); err == nil {
			own = id.Name()
		}
	default:
		return false, nil
	}
	if err == nil && (own != name || of != db) {
		err = fmt.Errorf("%s is %w: it says that it is %s of database %s", name, zodb.ErrCorrupt, own, of)
	}
	return true, err
}

// HintedCheckpoint returns the number of the checkpoint that the hint names.
func HintedCheckpoint(data []byte) (number uint64, err error) {
	h, err := decodeHead(data)
	if err != nil {
		return 0, err
	}
	return h.Checkpoint, nil
}
