package pydata

import "strings"

// btree returns the state of one of the BTrees package's objects with the pairs
// as a Dict that are one after the other in a tuple there; other states it
// returns as they are. These become
//
//	bucket  ((k, v, k, v), next)      ({k: v, k: v}, next)
//	BTree   ((c, k, c, k, c), first)  ({c, k: c, k: c}, first)
//	BTree   ((bucket,),)              ((bucket,),)
//
// where next and first may be missing, c is a child and the lowest has no key.
// The state of a Set, ((k, k), next), stays, and so does what was cut.
func btree(class string, state *Value) *Value {
	module, name, _ := strings.Cut(strings.TrimPrefix(class, "BTrees."), ".")
	if module+"."+name == class {
		return state
	}
	name = strings.TrimSuffix(name, "Py")
	switch {
	case strings.HasSuffix(name, "Bucket"):
		return bucket(state)
	case strings.HasSuffix(name, "BTree"), strings.HasSuffix(name, "TreeSet"):
		if inner := only(only(state)); inner != nil {
			if strings.HasSuffix(name, "TreeSet") {
				return state
			}
			return tupleOf(tupleOf(bucket(inner)))
		}
		return children(state)
	}
	return state
}

func only(v *Value) *Value {
	if v == nil || v.Kind != Tuple || len(v.Items) != 1 || v.More > 0 {
		return nil
	}
	return v.Items[0]
}

func tupleOf(v *Value) *Value { return &Value{Kind: Tuple, Items: []*Value{v}, uses: 1} }

// alternating returns the first item of a state if it is a tuple of such a parity.
func alternating(state *Value, parity int) []*Value {
	if state.Kind != Tuple || len(state.Items) == 0 || state.More > 0 {
		return nil
	}
	first := state.Items[0]
	if first.Kind != Tuple || first.More > 0 || len(first.Items)%2 != parity {
		return nil
	}
	return first.Items
}

func bucket(state *Value) *Value {
	items := alternating(state, 0)
	if items == nil {
		return state
	}
	return withPairs(state, nil, items)
}

func children(state *Value) *Value {
	items := alternating(state, 1)
	if items == nil {
		return state
	}
	return withPairs(state, []Pair{{Value: items[0]}}, items[1:])
}

// withPairs returns a state with pairs, and more of them, as its first item. The
// values move there, so nothing counts as used once more.
func withPairs(state *Value, pairs []Pair, items []*Value) *Value {
	for i := 0; i < len(items); i += 2 {
		pairs = append(pairs, Pair{items[i], items[i+1]})
	}
	first := &Value{Kind: Dict, Pairs: pairs, uses: 1}
	return &Value{Kind: Tuple, Items: append([]*Value{first}, state.Items[1:]...), uses: 1}
}
