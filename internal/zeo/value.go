package zeo

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
)

// The containers of Python. Shared parts of a decoded value are shared in memory
// too: values are to be read, not changed.
type (
	// A Tuple is Python's tuple.
	Tuple []any
	// A List is Python's list.
	List []any
	// A Dict is Python's dict. It keeps the order in which it was written.
	Dict []Item
)

// An Item is one entry of a Dict.
type Item struct{ Key, Value any }

// A Prefix is ZopeUndo's Prefix, which clients pass to undoInfo: it matches any
// path that starts with the given path elements.
type Prefix string

// Matches reports whether Prefix would call itself equal to the path, the way a
// transaction's user name and description are compared.
func (p Prefix) Matches(path string) bool {
	elements := strings.Split(path, "/")
	last := len(elements) - 1
	if i := strings.LastIndexByte(elements[last], ' '); i >= 0 {
		elements[last] = elements[last][:i]
	}
	own := strings.Split(string(p), "/")
	if len(own) > len(elements) {
		return false
	}
	for i := range own {
		if own[i] != elements[i] {
			return false
		}
	}
	return true
}

// Get returns the value of a key that is a string. As in Python, the last of
// several entries counts.
func (d Dict) Get(key string) (any, bool) {
	for i := len(d) - 1; i >= 0; i-- {
		if k, ok := d[i].Key.(string); ok && k == key {
			return d[i].Value, true
		}
	}
	return nil, false
}

const (
	maxDepth    = 100     // levels of tuples, lists and dicts
	maxValues   = 1 << 20 // values in a message
	maxIntBytes = 1 << 10 // bytes of an integer
)

var (
	errDepth    = fmt.Errorf("more than %d levels deep", maxDepth)
	errValues   = fmt.Errorf("more than %d values", maxValues)
	errBigInt   = fmt.Errorf("an integer of more than %d bytes", maxIntBytes)
	errKey      = errors.New("a dict with a key that is not hashable")
	errLeftOver = errors.New("a value that is not data")
)

// check walks a decoded value, shared parts as often as they are referred to,
// and refuses it where it is over the bounds or not of the value model.
func check(v any, depth int, budget *int) error {
	if *budget--; *budget < 0 {
		return errValues
	}
	if depth > maxDepth {
		return errDepth
	}
	switch v := v.(type) {
	case nil, bool, int64, float64, string, []byte, *big.Int, Prefix:
		return nil
	case Tuple:
		return checkAll(v, depth, budget)
	case List:
		return checkAll(v, depth, budget)
	case Dict:
		for _, it := range v {
			if !hashable(it.Key) {
				return errKey
			}
			if err := check(it.Key, depth+1, budget); err != nil {
				return err
			}
			if err := check(it.Value, depth+1, budget); err != nil {
				return err
			}
		}
		return nil
	}
	return errLeftOver
}

func checkAll(vs []any, depth int, budget *int) error {
	for _, v := range vs {
		if err := check(v, depth+1, budget); err != nil {
			return err
		}
	}
	return nil
}

func hashable(v any) bool {
	switch v.(type) {
	case List, Dict, Prefix:
		return false
	}
	return true
}

// Equal reports whether two values are the same, type by type. NaN equals NaN.
func Equal(a, b any) bool {
	switch a := a.(type) {
	case []byte:
		b, ok := b.([]byte)
		return ok && bytes.Equal(a, b)
	case *big.Int:
		b, ok := b.(*big.Int)
		return ok && a.Cmp(b) == 0
	case float64:
		b, ok := b.(float64)
		return ok && (a == b || math.IsNaN(a) && math.IsNaN(b))
	case Tuple:
		b, ok := b.(Tuple)
		return ok && equalAll(a, b)
	case List:
		b, ok := b.(List)
		return ok && equalAll(a, b)
	case Dict:
		b, ok := b.(Dict)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !Equal(a[i].Key, b[i].Key) || !Equal(a[i].Value, b[i].Value) {
				return false
			}
		}
		return true
	case nil, bool, int64, string, Prefix:
		switch b.(type) {
		case nil, bool, int64, string, Prefix:
			return a == b
		}
	}
	return false
}

func equalAll(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// fitInt returns n as an int64 where it is one.
func fitInt(n *big.Int) any {
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}
