package pydata

import "s3storage/internal/zodb"

// A Record is what a data record describes, as values. It is a graph: a value
// may be part of several others, and of itself.
type Record struct {
	Class       string // as in Summary
	Description *Value // the first pickle: what names the class, with arguments perhaps
	State       *Value // the second; see the comment of btree about those of BTrees
}

// A Value is a Python value as its pickle describes it.
type Value struct {
	Kind  Kind
	Text  string   // of the kinds that say so
	Items []*Value // of Tuple, List, Set and FrozenSet; what was appended to an Object
	Pairs []Pair   // of Dict; what was set in an Object
	More  int      // how many items or pairs are left out, since there are too many
	Call  *Call    // of Object
	Ref   *Ref     // of Reference

	uses int // how many values it is a part of
}

// A Pair is a key of a dict with its value. The lowest child of a BTree has no key.
type Pair struct{ Key, Value *Value }

// A Call is how an Object is made.
type Call struct {
	Of       *Value   // a class, a function, or what another opcode changes that is no Object
	New      bool     // by its __new__, else by calling it
	Args     *Value   // a Tuple in all that Python writes; nil if nothing is called
	Keywords *Value   // a Dict, or nil
	States   []*Value // what is given to its __setstate__, in most pickles once
}

// A Ref is a persistent reference.
type Ref struct {
	Oid      zodb.Oid
	Weak     bool
	Database *Value // the name of another one, or nil
	Class    *Value // as the reference says it, or nil
	Unknown  *Value // an id of no known form; then nothing else is set
}

// Kind is what a Value is.
type Kind uint8

// Where a kind has a Text, the comment says of what.
const (
	None      Kind = iota // "None"
	Bool                  // "True" or "False"
	Int                   // the digits: decimal, or hexadecimal after 0x if there are many
	Float                 // as Python's repr writes it
	Str                   // the characters in UTF-8, surrogates alone among them
	OldStr                // the bytes of Python 2's str, which may be text
	Bytes                 // the bytes
	ByteArray             // the bytes
	Tuple
	List
	Dict
	Set
	FrozenSet
	Global    // a class or function: "module.name"
	Object    // what a call makes
	Reference // another object of a database
	Extension // a number from copyreg's registry of classes
	Malformed // an argument that its opcode cannot have
	Cut       // what was not read, since there was too much before it
)

var kindNames = [...]string{"None", "bool", "int", "float", "str", "str of Python 2", "bytes", "bytearray",
	"tuple", "list", "dict", "set", "frozenset", "global", "object", "reference", "extension", "malformed", "cut"}

// String returns the name that people know it by.
func (k Kind) String() string { return kindNames[k] }

// Shared tells whether the value is a part of more than one other. Only such
// values can be a part of themselves.
func (v *Value) Shared() bool { return v.uses > 1 }

// part returns v for a place in another value.
func (v *Value) part() *Value {
	v.uses++
	return v
}

// add appends items, but for what was cut.
func (v *Value) add(items []*Value) {
	for _, item := range items {
		if item.Kind == Cut {
			v.More++
			continue
		}
		v.Items = append(v.Items, item.part())
	}
}

// set appends pairs, given as keys and values in turn.
func (v *Value) set(items []*Value) {
	for ; len(items) > 0; items = items[min(2, len(items)):] {
		if len(items) == 1 || items[0].Kind == Cut || items[1].Kind == Cut {
			v.More++
			continue
		}
		v.Pairs = append(v.Pairs, Pair{items[0].part(), items[1].part()})
	}
}

// holdsOthers tells whether values are part of it other than what names a class.
func (v *Value) holdsOthers() bool {
	r := v.Ref
	return len(v.Items) > 0 || len(v.Pairs) > 0 || v.Call != nil ||
		r != nil && (r.Unknown != nil || r.Class != nil && r.Class.Kind != Global)
}
