package zeo

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"

	"s3storage/internal/zodb"
)

// undoa(undo id, id)
func (c *conn) undoa(k *call) (any, error) {
	undoID, err := k.text(0, "undo id")
	if err != nil {
		return nil, err
	}
	t, err := c.writable(k, 1)
	if err != nil || t.broken != nil {
		return nil, err
	}
	tid, err := parseUndoID(undoID)
	if err == nil {
		err = t.inner.Undo(tid)
	}
	if err != nil {
		t.spoil(err)
	}
	return nil, nil
}

// An undo id is opaque to clients. It is what FileStorage makes of a tid:
// base64, without the newline that Python's codec puts at the end.
func undoID(tid zodb.Tid) []byte { return base64.StdEncoding.AppendEncode(nil, tid.Bytes()) }

func parseUndoID(id []byte) (zodb.Tid, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(id)))
	if err == nil {
		var tid zodb.Tid
		if tid, err = zodb.TidFrom(b); err == nil {
			return tid, nil
		}
	}
	return 0, &zodb.UndoError{Reason: fmt.Sprintf("%.50q is no id from the undo log: %v", id, err)}
}

// maxUndoLog is how many transactions one call of undoLog or undoInfo lists.
const maxUndoLog = 100_000

// undoLog(first, last) -> [dict]
func (c *conn) undoLog(k *call) (any, error) { return c.undoEntries(k, nil) }

// undoInfo(first, last, specification=None) -> [dict]
func (c *conn) undoInfo(k *call) (any, error) {
	var spec Dict
	if len(k.args) > 2 && k.args[2] != nil {
		var ok bool
		if spec, ok = k.args[2].(Dict); !ok {
			return nil, k.wrong(2, "specification", "dict")
		}
	}
	return c.undoEntries(k, spec)
}

func (c *conn) undoEntries(k *call, spec Dict) (any, error) {
	first, n, err := k.undoRange()
	if err != nil {
		return nil, err
	}
	var match func(*zodb.TxnInfo) bool
	if len(spec) > 0 {
		match = (&undoMatch{c: c, spec: ownValue(spec).(Dict)}).matches
	}
	return c.later(k, func(ctx context.Context) (any, error) {
		l := List{}
		if n == 0 {
			return l, nil
		}
		// One at a time: they may be long.
		select {
		case c.undoing <- struct{}{}:
			defer func() { <-c.undoing }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		infos, err := c.storage.UndoLog(ctx, first, n, match)
		if err != nil {
			return nil, err
		}
		for i := range infos {
			l = append(l, c.undoEntry(&infos[i]))
		}
		return l, nil
	})
}

// undoRange reads which transactions are asked for: those from first on, before
// last, or at most -last of them where last is negative.
func (k *call) undoRange() (first, n int, err error) {
	const bound = 1 << 40 // more than any database has
	var args [2]int64
	for i, name := range []string{"first", "last"} {
		v, ok := k.args[i].(int64)
		if !ok {
			return 0, 0, k.wrong(i, name, "int")
		}
		args[i] = min(max(v, -bound), bound)
	}
	lo, hi := args[0], args[1]
	if hi < 0 {
		hi = lo - hi
	}
	lo = max(lo, 0)
	return int(lo), int(min(max(hi-lo, 0), maxUndoLog)), nil
}

// undoEntry describes a transaction as undoLog does: the items of its extension
// are added last, and win.
func (c *conn) undoEntry(info *zodb.TxnInfo) Dict {
	var own Dict
	for _, name := range []string{"id", "time", "user_name", "size", "description"} {
		own = append(own, Item{name, undoValue(info, name)})
	}
	return updated(own, c.extension(info))
}

// undoValue returns one value of the entry, less the extension; nil for a key that
// there is not.
func undoValue(info *zodb.TxnInfo, key any) any {
	switch key {
	case "id":
		return undoID(info.Tid)
	case "time":
		return seconds(info.Tid)
	case "user_name":
		return info.Meta.User
	case "size":
		return info.Size
	case "description":
		return info.Meta.Description
	}
	return nil
}

// An undoMatch says which entries match a specification, as matches would, but
// makes of a transaction only what it has to look at: there may be millions.
type undoMatch struct {
	c          *conn
	spec       Dict
	extensions map[string]Dict // many transactions have the same
}

// An undoMatch remembers so many extensions, of so many bytes at most.
const (
	maxExtensions = 1000
	maxExtension  = 1 << 10
)

func (m *undoMatch) matches(info *zodb.TxnInfo) bool {
	ext := m.extension(info)
	for _, want := range m.spec {
		value, ok := item(ext, want.Key)
		if !ok {
			value = undoValue(info, want.Key)
		}
		if !pythonEqual(value, want.Value) {
			return false
		}
	}
	return true
}

func (m *undoMatch) extension(info *zodb.TxnInfo) Dict {
	ext, known := m.extensions[string(info.Meta.Extension)]
	if known {
		return ext
	}
	ext = m.c.extension(info)
	if m.extensions == nil || len(m.extensions) == maxExtensions {
		m.extensions = map[string]Dict{}
	}
	if len(info.Meta.Extension) <= maxExtension {
		m.extensions[string(info.Meta.Extension)] = ext
	}
	return ext
}

// item returns the value of the last item that has the key, as Python compares.
func item(d Dict, key any) (value any, ok bool) {
	for _, it := range d {
		if pythonEqual(it.Key, key) {
			value, ok = it.Value, true
		}
	}
	return value, ok
}

// updated is what Python's d.update(more) makes of d.
func updated(d, more Dict) Dict {
	d = append(Dict{}, d...)
next:
	for _, it := range more {
		if name, ok := it.Key.(string); ok {
			for i := range d {
				if d[i].Key == name {
					d[i].Value = it.Value
					continue next
				}
			}
		}
		d = append(d, it)
	}
	return d
}

// matches reports whether the entry has every item of the specification. An
// item that is None is also one that is missing.
func matches(entry, spec Dict) bool {
	for _, want := range spec {
		if value, _ := item(entry, want.Key); !pythonEqual(value, want.Value) {
			return false
		}
	}
	return true
}

// pythonEqual is Python's ==, as far as plain data goes: numbers are equal
// across their types, and a Prefix asks the path whether it starts with it.
func pythonEqual(a, b any) bool {
	if p, ok := b.(Prefix); ok {
		switch path := a.(type) {
		case []byte:
			return p.Matches(string(path))
		case string:
			return p.Matches(path)
		}
		return false
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x.Cmp(y) == 0
	}
	switch a := a.(type) {
	case Tuple:
		b, ok := b.(Tuple)
		return ok && pythonEqualAll(a, b)
	case List:
		b, ok := b.(List)
		return ok && pythonEqualAll(a, b)
	case Dict:
		b, ok := b.(Dict)
		return ok && len(a) == len(b) && matches(a, b)
	}
	return Equal(a, b)
}

func pythonEqualAll(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !pythonEqual(a[i], b[i]) {
			return false
		}
	}
	return true
}

// number returns the value of what Python counts among the numbers.
func number(v any) (*big.Float, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return big.NewFloat(1), true
		}
		return big.NewFloat(0), true
	case int64:
		return new(big.Float).SetPrec(64).SetInt64(v), true
	case float64:
		if v != v {
			return nil, false // NaN equals nothing
		}
		return big.NewFloat(v), true
	case *big.Int:
		return new(big.Float).SetInt(v), true
	}
	return nil, false
}

// ownValue returns a copy of a decoded value that shares no memory with its
// frame.
func ownValue(v any) any {
	switch v := v.(type) {
	case []byte:
		return append([]byte{}, v...)
	case Tuple:
		return Tuple(ownAll(v))
	case List:
		return List(ownAll(v))
	case Dict:
		d := make(Dict, len(v))
		for i, it := range v {
			d[i] = Item{ownValue(it.Key), ownValue(it.Value)}
		}
		return d
	}
	return v
}

func ownAll(vs []any) []any {
	own := make([]any, len(vs))
	for i, v := range vs {
		own[i] = ownValue(v)
	}
	return own
}
