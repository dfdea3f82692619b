package zeo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

var (
	errPickleShort = errors.New("pickle ends too early")
	errPickleStack = errors.New("pickle takes more from the stack than is there")
	errPickleMark  = errors.New("pickle refers to a mark that is not there")
	errPickleMemo  = errors.New("pickle refers to a memo that is not there")
	errPickleText  = errors.New("text that is not UTF-8")
	errPickleNum   = errors.New("malformed number")
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
	in     []byte
	stack  []any
	marks  []int
	memo   map[uint32]any
	values int // pushed so far
}

// A building is a list or dict, or a Prefix, that may still grow.
type building struct {
	kind   byte // opEmptyList, opEmptyDict, opNewObj
	items  List
	pairs  Dict
	prefix Prefix
	shared bool
}

func (n *building) value() any {
	switch n.kind {
	case opEmptyList:
		return n.items
	case opEmptyDict:
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
	m := machine{in: b, stack: make([]any, 0, 16)}
	v, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("zeo: pickle, byte %d of %d: %w", len(b)-len(m.in), len(b), err)
	}
	budget := maxValues
	if err := check(v, 0, &budget); err != nil {
		return nil, fmt.Errorf("zeo: pickle: %w", err)
	}
	return v, nil
}

func (m *machine) run() (any, error) {
	for {
		if len(m.in) == 0 {
			return nil, errPickleShort
		}
		op := m.in[0]
		m.in = m.in[1:]
		if op == opStop {
			if len(m.stack) != 1 || len(m.marks) != 0 {
				return nil, errors.New("pickle does not end with one value")
			}
			if len(m.in) != 0 {
				return nil, errors.New("bytes after the end of the pickle")
			}
			return settle(m.stack[0]), nil
		}
		if err := m.step(op); err != nil {
			return nil, err
		}
	}
}

func (m *machine) step(op byte) error {
	switch op {
	case opProto:
		b, err := m.take(1)
		if err == nil && b[0] > highestPickle {
			err = fmt.Errorf("pickle protocol %d", b[0])
		}
		return err
	case opFrame:
		_, err := m.take(8)
		return err
	case opMark:
		m.marks = append(m.marks, len(m.stack))
		return m.count()
	case opPop:
		return m.pop()
	case opPopMark:
		_, err := m.toMark()
		return err
	case opDup:
		v, err := m.top()
		if err != nil {
			return err
		}
		return m.push(settle(v))

	case opNone:
		return m.push(nil)
	case opNewTrue:
		return m.push(true)
	case opNewFalse:
		return m.push(false)
	case opBinInt, opBinInt1, opBinInt2, opInt, opLong, opLong1, opLong4, opFloat, opBinFloat:
		return m.number(op)
	case opString, opBinString, opShortBinString, opUnicode, opBinUnicode, opShortBinUnicode, opBinUnicode8:
		return m.text(op)
	case opBinBytes, opShortBinBytes, opBinBytes8, opByteArray8:
		b, err := m.sized(op)
		if err != nil {
			return err
		}
		return m.push(b)

	case opEmptyTuple:
		return m.push(Tuple{})
	case opTuple1, opTuple1 + 1, opTuple3:
		return m.tuple(int(op-opTuple1) + 1)
	case opTuple:
		vs, err := m.toMark()
		if err != nil {
			return err
		}
		return m.push(Tuple(settled(vs)))
	case opEmptyList, opEmptyDict:
		return m.push(&building{kind: op})
	case opList, opDict, opAppend, opAppends, opSetItem, opSetItems:
		return m.grow(op)

	case opPut, opBinPut, opLongBinPut, opMemoize:
		return m.put(op)
	case opGet, opBinGet, opLongBinGet:
		i, err := m.index(op)
		if err != nil {
			return err
		}
		v, ok := m.memo[i]
		if !ok {
			return errPickleMemo
		}
		return m.push(settle(v))

	case opGlobal, opStackGlobal, opReduce, opNewObj, opBuild:
		return m.object(op)
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
	case opAppend:
		vs, err = m.popN(1)
	case opSetItem:
		vs, err = m.popN(2)
	default:
		vs, err = m.toMark()
	}
	if err != nil {
		return err
	}
	kind := byte(opEmptyDict)
	switch op {
	case opList, opAppend, opAppends:
		kind = opEmptyList
	}
	var n *building
	if op == opList || op == opDict {
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
	if kind == opEmptyList {
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
	if op == opList || op == opDict {
		return m.push(n)
	}
	return nil
}

func (m *machine) put(op byte) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	if m.memo == nil {
		m.memo = make(map[uint32]any)
	}
	i := uint32(len(m.memo))
	if op != opMemoize {
		if i, err = m.index(op); err != nil {
			return err
		}
	}
	m.memo[i] = v
	return m.count()
}

// index reads the argument of the PUT and GET families.
func (m *machine) index(op byte) (uint32, error) {
	switch op {
	case opBinPut, opBinGet:
		b, err := m.take(1)
		if err != nil {
			return 0, err
		}
		return uint32(b[0]), nil
	case opLongBinPut, opLongBinGet:
		b, err := m.take(4)
		if err != nil {
			return 0, err
		}
		return binary.LittleEndian.Uint32(b), nil
	}
	line, err := m.line()
	if err != nil {
		return 0, err
	}
	i, err := strconv.ParseUint(string(line), 10, 32)
	if err != nil {
		return 0, errPickleNum
	}
	return uint32(i), nil
}

func (m *machine) take(n int) ([]byte, error) {
	if n > len(m.in) {
		return nil, errPickleShort
	}
	b := m.in[:n:n]
	m.in = m.in[n:]
	return b, nil
}

// sized reads a string that is preceded by its length.
func (m *machine) sized(op byte) ([]byte, error) {
	width := 4
	switch op {
	case opShortBinString, opShortBinBytes, opShortBinUnicode:
		width = 1
	case opBinUnicode8, opBinBytes8, opByteArray8:
		width = 8
	}
	b, err := m.take(width)
	if err != nil {
		return nil, err
	}
	var n uint64
	for i, c := range b {
		n |= uint64(c) << (8 * i)
	}
	if n > uint64(len(m.in)) {
		return nil, errPickleShort
	}
	return m.take(int(n))
}

// line reads up to a newline.
func (m *machine) line() ([]byte, error) {
	i := bytes.IndexByte(m.in, '\n')
	if i < 0 {
		return nil, errPickleShort
	}
	b := m.in[:i]
	m.in = m.in[i+1:]
	return b, nil
}

func (m *machine) text(op byte) error {
	var b []byte
	var err error
	if op == opString || op == opUnicode {
		b, err = m.line()
	} else {
		b, err = m.sized(op)
	}
	if err != nil {
		return err
	}
	switch op {
	case opUnicode:
		s, err := rawUnicode(b)
		if err != nil {
			return err
		}
		return m.push(s)
	case opString:
		if b, err = quoted(b); err != nil {
			return err
		}
		fallthrough
	case opBinString, opShortBinString:
		// Python 2's str: text if it can be, as Python 3 reads it.
		for _, c := range b {
			if c >= utf8.RuneSelf {
				return m.push(b)
			}
		}
		return m.push(string(b))
	}
	if !validText(b) {
		return errPickleText
	}
	return m.push(string(b))
}
