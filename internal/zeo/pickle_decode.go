package zeo

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"s3storage/internal/pickle"
)

var (
	errPickleStack = errors.New("pickle takes more from the stack than is there")
	errPickleMark  = errors.New("pickle refers to a mark that is not there")
	errPickleMemo  = errors.New("pickle refers to a memo that is not there")
	errShared      = errors.New("a list or dict that changes after it was shared")
)

// A machine runs one pickle.
//
// Invariants: a list or dict is a *building while it stands on the stack and
// becomes a List or Dict when it is put into something else; from then on it
// never changes. Referring to it through the memo, or doubling it, makes it a
// List or Dict at once, and changing it thereafter is an error. So no value
// can contain itself, and values may share parts without harm: check, at the
// end, counts what they amount to. No step costs more than the input that it
// reads and the values that it takes off the stack, which are then gone.
type machine struct {
	scan   pickle.Scanner
	stack  []any
	marks  []int
	memo   map[uint32]any
	values int // pushed so far
}

// A building is a list or dict, or a Prefix, that may still grow.
type building struct {
	kind   byte // pickle.EmptyList, pickle.EmptyDict, pickle.NewObj
	items  List
	pairs  Dict
	prefix Prefix
	shared bool
}

func (n *building) value() any {
	switch n.kind {
	case pickle.EmptyList:
		return n.items
	case pickle.EmptyDict:
		return n.pairs
	}
	return n.prefix
}

// settle returns what v is once it becomes part of something.
func settle(v any) any {
	if n, ok := v.(*building); ok {
		n.shared = true
		return n.value()
	}
	return v
}

// decodePickle returns the one value that the pickle b makes. It may share the
// memory of b.
func decodePickle(b []byte) (any, error) {
	m := machine{scan: pickle.NewScanner(b, 0), stack: make([]any, 0, 16)}
	v, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("zeo: pickle, byte %d of %d: %w", m.scan.Offset(), len(b), err)
	}
	budget := maxValues
	if err := check(v, 0, &budget); err != nil {
		return nil, fmt.Errorf("zeo: pickle: %w", err)
	}
	return v, nil
}

func (m *machine) run() (any, error) {
	for {
		op, arg, err := m.scan.Next()
		if err != nil {
			return nil, err
		}
		if op == pickle.Stop {
			if len(m.stack) != 1 || len(m.marks) != 0 {
				return nil, errors.New("pickle does not end with one value")
			}
			if m.scan.Rest() != 0 {
				return nil, errors.New("bytes after the end of the pickle")
			}
			return settle(m.stack[0]), nil
		}
		if err := m.step(op, arg); err != nil {
			return nil, err
		}
	}
}

func (m *machine) step(op byte, arg []byte) error {
	switch op {
	case pickle.Proto, pickle.Frame:
		return nil
	case pickle.Mark:
		m.marks = append(m.marks, len(m.stack))
		return m.count()
	case pickle.Pop:
		return m.pop()
	case pickle.PopMark:
		_, err := m.toMark()
		return err
	case pickle.Dup:
		v, err := m.top()
		if err != nil {
			return err
		}
		return m.push(settle(v))

	case pickle.None:
		return m.push(nil)
	case pickle.NewTrue:
		return m.push(true)
	case pickle.NewFalse:
		return m.push(false)
	case pickle.BinInt, pickle.BinInt1, pickle.BinInt2, pickle.Int, pickle.Long, pickle.Long1, pickle.Long4, pickle.Float, pickle.BinFloat:
		return m.number(op, arg)
	case pickle.String, pickle.BinString, pickle.ShortBinString, pickle.Unicode, pickle.BinUnicode, pickle.ShortBinUnicode, pickle.BinUnicode8:
		return m.text(op, arg)
	case pickle.BinBytes, pickle.ShortBinBytes, pickle.BinBytes8, pickle.ByteArray8:
		return m.push(arg)

	case pickle.EmptyTuple:
		return m.push(Tuple{})
	case pickle.Tuple1, pickle.Tuple2, pickle.Tuple3:
		return m.tuple(int(op-pickle.Tuple1) + 1)
	case pickle.Tuple:
		vs, err := m.toMark()
		if err != nil {
			return err
		}
		return m.push(Tuple(settled(vs)))
	case pickle.EmptyList, pickle.EmptyDict:
		return m.push(&building{kind: op})
	case pickle.List, pickle.Dict, pickle.Append, pickle.Appends, pickle.SetItem, pickle.SetItems:
		return m.grow(op)

	case pickle.Put, pickle.BinPut, pickle.LongBinPut, pickle.Memoize:
		return m.put(op, arg)
	case pickle.Get, pickle.BinGet, pickle.LongBinGet:
		i, err := pickle.MemoIndex(op, arg)
		if err != nil {
			return err
		}
		v, ok := m.memo[i]
		if !ok {
			return errPickleMemo
		}
		return m.push(settle(v))

	case pickle.Global, pickle.StackGlobal, pickle.Reduce, pickle.NewObj, pickle.Build:
		return m.object(op, arg)
	}
	return fmt.Errorf("opcode %#02x is not taken", op)
}

// count accounts for one more thing kept.
func (m *machine) count() error {
	if m.values++; m.values > maxValues {
		return errValues
	}
	return nil
}

func (m *machine) push(v any) error {
	m.stack = append(m.stack, v)
	return m.count()
}

// floor is the lowest part of the stack that may be taken without a mark.
func (m *machine) floor() int {
	if len(m.marks) == 0 {
		return 0
	}
	return m.marks[len(m.marks)-1]
}

func (m *machine) top() (any, error) {
	if len(m.stack) <= m.floor() {
		return nil, errPickleStack
	}
	return m.stack[len(m.stack)-1], nil
}

func (m *machine) pop() error {
	switch {
	case len(m.stack) > m.floor():
		m.stack = m.stack[:len(m.stack)-1]
	case len(m.marks) > 0:
		m.marks = m.marks[:len(m.marks)-1]
	default:
		return errPickleStack
	}
	return nil
}

// popN takes n values off the stack. They stay valid until the next push.
func (m *machine) popN(n int) ([]any, error) {
	at := len(m.stack) - n
	if at < m.floor() {
		return nil, errPickleStack
	}
	vs := m.stack[at:]
	m.stack = m.stack[:at]
	return vs, nil
}

// toMark takes off all values above the last mark, and the mark.
func (m *machine) toMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, errPickleMark
	}
	vs := m.stack[m.floor():]
	m.stack = m.stack[:m.floor()]
	m.marks = m.marks[:len(m.marks)-1]
	return vs, nil
}

func settled(vs []any) []any {
	out := make([]any, len(vs))
	for i, v := range vs {
		out[i] = settle(v)
	}
	return out
}

func (m *machine) tuple(n int) error {
	vs, err := m.popN(n)
	if err != nil {
		return err
	}
	return m.push(Tuple(settled(vs)))
}

func (m *machine) grow(op byte) (err error) {
	var vs []any
	switch op {
	case pickle.Append:
		vs, err = m.popN(1)
	case pickle.SetItem:
		vs, err = m.popN(2)
	default:
		vs, err = m.toMark()
	}
	if err != nil {
		return err
	}
	kind := byte(pickle.EmptyDict)
	switch op {
	case pickle.List, pickle.Append, pickle.Appends:
		kind = pickle.EmptyList
	}
	var n *building
	if op == pickle.List || op == pickle.Dict {
		n = &building{kind: kind}
	} else {
		v, err := m.top()
		if err != nil {
			return err
		}
		var ok bool
		if n, ok = v.(*building); !ok || n.kind != kind {
			switch v.(type) {
			case List, Dict:
				return errShared
			}
			return fmt.Errorf("opcode %#02x adds to a %T", op, v)
		}
		if n.shared {
			return errShared
		}
	}
	if kind == pickle.EmptyList {
		for _, v := range vs {
			n.items = append(n.items, settle(v))
		}
	} else {
		if len(vs)%2 != 0 {
			return errors.New("a key without a value")
		}
		for i := 0; i < len(vs); i += 2 {
			n.pairs = append(n.pairs, Item{settle(vs[i]), settle(vs[i+1])})
		}
	}
	if op == pickle.List || op == pickle.Dict {
		return m.push(n)
	}
	return nil
}

func (m *machine) put(op byte, arg []byte) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	if m.memo == nil {
		m.memo = make(map[uint32]any)
	}
	i := uint32(len(m.memo))
	if op != pickle.Memoize {
		if i, err = pickle.MemoIndex(op, arg); err != nil {
			return err
		}
	}
	m.memo[i] = v
	return m.count()
}

func (m *machine) text(op byte, b []byte) (err error) {
	switch op {
	case pickle.Unicode:
		s, err := pickle.RawUnicode(b)
		if err != nil {
			return err
		}
		return m.push(s)
	case pickle.String:
		if b, err = pickle.Quoted(b); err != nil {
			return err
		}
		fallthrough
	case pickle.BinString, pickle.ShortBinString:
		// Python 2's str: text if it can be, as Python 3 reads it.
		for _, c := range b {
			if c >= utf8.RuneSelf {
				return m.push(b)
			}
		}
		return m.push(string(b))
	}
	if !validText(b) {
		return pickle.ErrText
	}
	return m.push(string(b))
}
