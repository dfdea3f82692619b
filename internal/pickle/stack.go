package pickle

import (
	"errors"
	"fmt"
)

// Errors of a Stack.
var (
	ErrStack = errors.New("pickle takes more from the stack than is there")
	ErrMark  = errors.New("pickle refers to a mark that is not there")
	ErrMemo  = errors.New("pickle refers to a memo that is not there")
	ErrEnd   = errors.New("pickle does not end with one value")
)

// A Stack is what an unpickler works on: values, the marks among them, and the
// memo. What the values are is up to the user; the zero V is none.
type Stack[V comparable] struct {
	values []V
	marks  []int32 // lengths of values
	memo   []V
	held   int // how many of memo are not zero
}

// Clear empties the stack, but not the memo, which pickles may share.
func (s *Stack[V]) Clear() { s.values, s.marks = s.values[:0], s.marks[:0] }

// Reset empties all and keeps the memory.
func (s *Stack[V]) Reset() { s.Clear(); s.memo, s.held = s.memo[:0], 0 }

// Size is how many values there is room for, with marks and memo.
func (s *Stack[V]) Size() int { return cap(s.values) + cap(s.marks) + cap(s.memo) }

// Push puts a value on top.
func (s *Stack[V]) Push(v V) { s.values = append(s.values, v) }

// Top returns the value on top.
func (s *Stack[V]) Top() (V, error) {
	if len(s.values) <= s.floor() {
		var none V
		return none, ErrStack
	}
	return s.values[len(s.values)-1], nil
}

// End returns the value that is left at STOP.
func (s *Stack[V]) End() (V, error) {
	if len(s.values) != 1 || len(s.marks) != 0 {
		var none V
		return none, ErrEnd
	}
	return s.values[0], nil
}

// SetTop replaces the value on top, which must be there.
func (s *Stack[V]) SetTop(v V) { s.values[len(s.values)-1] = v }

// floor is the lowest part of the stack that may be taken without a mark.
func (s *Stack[V]) floor() int {
	if len(s.marks) == 0 {
		return 0
	}
	return int(s.marks[len(s.marks)-1])
}

// Move does PROTO and FRAME, which do nothing, and MARK, POP, POP_MARK and DUP.
func (s *Stack[V]) Move(op byte) error {
	switch op {
	case Mark:
		s.marks = append(s.marks, int32(len(s.values)))
	case Pop, PopMark:
		if len(s.marks) > 0 && len(s.values) == s.floor() {
			op = PopMark
		}
		_, err := s.Take(op)
		return err
	case Dup:
		v, err := s.Top()
		s.Push(v)
		return err
	}
	return nil
}

// Put does what PUT and its kin do: it gives what is on top a number in the memo.
func (s *Stack[V]) Put(op byte, arg []byte, at int) error {
	v, err := s.Top()
	if err != nil {
		return err
	}
	i := s.held
	if op != Memoize {
		n, err := MemoIndex(op, arg)
		if err != nil {
			return err
		}
		if i = int(n); i > at {
			return fmt.Errorf("memo %d is further than a pickler can have counted", n)
		}
	}
	var none V
	for len(s.memo) < i {
		s.memo = append(s.memo, none)
	}
	if i == len(s.memo) {
		s.memo = append(s.memo, v)
		s.held++
		return nil
	}
	if s.memo[i] == none {
		s.held++
	}
	s.memo[i] = v
	return nil
}

// Get does what GET and its kin do: it pushes what has that number in the memo.
func (s *Stack[V]) Get(op byte, arg []byte) error {
	var none V
	i, err := MemoIndex(op, arg)
	if err != nil {
		return err
	}
	if int64(i) >= int64(len(s.memo)) || s.memo[i] == none {
		return ErrMemo
	}
	s.Push(s.memo[i])
	return nil
}

// toMark in a need stands for all values above the last mark.
const toMark = -1

// needs has, for each opcode that works on values of the stack, how many it
// takes off and how many it wants to see below those.
var needs = [256]struct{ takes, below int8 }{
	Pop: {1, 0}, PopMark: {toMark, 0},
	Tuple1: {1, 0}, Tuple2: {2, 0}, Tuple3: {3, 0}, Tuple: {toMark, 0},
	List: {toMark, 0}, Dict: {toMark, 0}, FrozenSet: {toMark, 0},
	Append: {1, 1}, SetItem: {2, 1}, Build: {1, 1},
	Appends: {toMark, 1}, SetItems: {toMark, 1}, AddItems: {toMark, 1},
	StackGlobal: {2, 0}, Reduce: {2, 0}, NewObj: {2, 0}, NewObjEx: {3, 0},
	Inst: {toMark, 0}, Obj: {toMark, 0}, BinPersID: {1, 0},
}

// Take takes off the stack what op works on, and returns it; it stays as it is
// until the next Push. What op changes, as APPEND does a list, is then on top.
func (s *Stack[V]) Take(op byte) ([]V, error) {
	need := needs[op]
	at := len(s.values) - int(need.takes)
	switch need.takes {
	case toMark:
		if len(s.marks) == 0 {
			return nil, ErrMark
		}
		at = s.floor()
		s.marks = s.marks[:len(s.marks)-1]
	case 0: // buffers from outside of the pickle
		return nil, fmt.Errorf("opcode %#02x is not taken", op)
	}
	if at-int(need.below) < s.floor() {
		return nil, ErrStack
	}
	of := s.values[at:]
	s.values = s.values[:at]
	return of, nil
}
