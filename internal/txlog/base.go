package txlog

import (
	"encoding/hex"
	"fmt"
	"slices"
)

// A BaseID names a base: the part of a database that is not in the log any
// more. It is random.
type BaseID [16]byte

func (id BaseID) String() string { return hex.EncodeToString(id[:]) }

// A BaseChange makes a base the one of the database: from its place in the log
// on, the database is that base and the transactions behind the position that
// the base accounts for.
type BaseChange struct {
	ID  BaseID
	Why BaseKind
}

// BaseKind says for people why the base was changed.
type BaseKind byte

// The kinds of changes. There may be others, written by later versions.
const (
	BaseFlush    BaseKind = 1 // transactions went from the log into the base
	BaseMerge    BaseKind = 2 // files of the base were joined; nothing is lost
	BasePack     BaseKind = 3 // old revisions and garbage were dropped
	BaseImport   BaseKind = 4 // transactions came from elsewhere
	BaseSnapshot BaseKind = 5 // a snapshot was made or deleted
	BaseRestore  BaseKind = 6 // the database went back to what it was
	BaseRewrite  BaseKind = 7 // a pack that goes on has come so far; nothing is lost
)

var baseKinds = map[BaseKind]string{
	BaseFlush: "flush", BaseMerge: "merge", BasePack: "pack",
	BaseImport: "import", BaseSnapshot: "snapshot", BaseRestore: "restore", BaseRewrite: "rewrite",
}

func (k BaseKind) String() string {
	if s, ok := baseKinds[k]; ok {
		return s
	}
	return fmt.Sprintf("kind %d", byte(k))
}

const baseChangeSize = 20

func (c *BaseChange) append(b []byte) []byte {
	b = append(b, c.ID[:]...)
	return append(b, byte(c.Why), 0, 0, 0)
}

func (r reader) baseChange() (*BaseChange, error) {
	c := &BaseChange{ID: r.ID(), Why: BaseKind(r.Byte())}
	r.Zero(3)
	return c, r.End()
}

// changesBase tells whether there is a change of the base in the object.
func (o *Object) changesBase() bool {
	return slices.ContainsFunc(o.Entries, func(e Entry) bool { return e.Base != nil })
}

// adopt notes where the log adopted bases.
func (o *Object) adopt(bases map[BaseID]Slot) {
	for _, e := range o.Entries {
		if e.Base != nil {
			bases[e.Base.ID] = o.Slot
		}
	}
}
