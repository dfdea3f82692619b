package pydata

import (
	"errors"
	"fmt"

	"s3storage/internal/pickle"
)

var (
	errStack = errors.New("pickle takes more from the stack than is there")
	errMark  = errors.New("pickle refers to a mark that is not there")
	errMemo  = errors.New("pickle refers to a memo that is not there")
)

// A value is what is known of a Python value: as much as a persistent id needs.
type value struct {
	kind kind
	at   int32 // of text, and of pairs: where the opcode of the text stands
}

type kind uint8

const (
	absent kind = iota // only in the memo
	opaque             // anything not below
	text               // a string, of bytes or characters
	pair               // a tuple whose first item is a text
	list               // a list, whatever is in it
	encode             // the function _codecs.encode
)

// A walker follows the opcodes of the pickles of a record as an unpickler does,
// but for what becomes of values in containers and objects. Nothing there
// comes out again: a persistent id is a value of its own, taken from the
// stack. A tuple does not change, and of a list nothing is asked.
type walker struct {
	data  []byte
	scan  pickle.Scanner
	stack []value
	marks []int32 // lengths of the stack
	memo  []value
	held  int // how many of memo are not absent
	refs  references
}

// pickle walks one pickle, to its STOP.
func (w *walker) pickle() error {
	w.stack, w.marks = w.stack[:0], w.marks[:0]
	for {
		op, arg, err := w.scan.Next()
		if err != nil {
			return err
		}
		if op == pickle.Stop {
			if len(w.stack) != 1 || len(w.marks) != 0 {
				return errors.New("pickle does not end with one value")
			}
			return nil
		}
		if err := w.step(op, arg); err != nil {
			return err
		}
	}
}

func (w *walker) step(op byte, arg []byte) error {
	switch op {
	case pickle.Proto, pickle.Frame:
		return nil
	case pickle.Mark:
		w.marks = append(w.marks, int32(len(w.stack)))
		return nil
	case pickle.Pop:
		if len(w.marks) > 0 && len(w.stack) == w.floor() {
			return w.popMark(0)
		}
		return w.pop(1, 0)
	case pickle.PopMark:
		return w.popMark(0)
	case pickle.Dup:
		v, err := w.top()
		w.push(v)
		return err

	case pickle.None, pickle.NewTrue, pickle.NewFalse,
		pickle.Int, pickle.BinInt, pickle.BinInt1, pickle.BinInt2,
		pickle.Long, pickle.Long1, pickle.Long4, pickle.Float, pickle.BinFloat,
		pickle.ByteArray8, pickle.EmptyTuple, pickle.EmptyDict, pickle.EmptySet,
		pickle.Ext1, pickle.Ext2, pickle.Ext4:
		w.push(value{kind: opaque})
		return nil
	case pickle.String, pickle.BinString, pickle.ShortBinString,
		pickle.Unicode, pickle.BinUnicode, pickle.ShortBinUnicode, pickle.BinUnicode8,
		pickle.BinBytes, pickle.ShortBinBytes, pickle.BinBytes8:
		w.push(value{text, int32(w.scan.Offset())})
		return nil
	case pickle.EmptyList:
		w.push(value{kind: list})
		return nil
	case pickle.Global:
		v := value{kind: opaque}
		if string(arg) == "_codecs\nencode" {
			v.kind = encode
		}
		w.push(v)
		return nil

	case pickle.Put, pickle.BinPut, pickle.LongBinPut, pickle.Memoize:
		return w.put(op, arg)
	case pickle.Get, pickle.BinGet, pickle.LongBinGet:
		return w.get(op, arg)

	case pickle.Append, pickle.Build:
		return w.pop(1, 1)
	case pickle.SetItem:
		return w.pop(2, 1)
	case pickle.Appends, pickle.SetItems, pickle.AddItems:
		return w.popMark(1)

	case pickle.PersID:
		return w.refer(pickle.PersID, arg)
	case pickle.BinPersID:
		return w.binPersID()
	}
	return w.make(op)
}

// make does what opcodes do that make a new value of those on the stack.
func (w *walker) make(op byte) error {
	v := value{kind: opaque}
	at := len(w.stack) // where the values begin
	switch op {
	case pickle.Tuple1, pickle.Tuple2, pickle.Tuple3:
		at -= int(op-pickle.Tuple1) + 1
	case pickle.Reduce, pickle.NewObj, pickle.StackGlobal:
		at -= 2
	case pickle.NewObjEx:
		at -= 3
	case pickle.Tuple, pickle.List, pickle.Dict, pickle.FrozenSet, pickle.Inst, pickle.Obj:
		if len(w.marks) == 0 {
			return errMark
		}
		at = w.floor()
		w.marks = w.marks[:len(w.marks)-1]
	default: // buffers from outside of the pickle
		return fmt.Errorf("opcode %#02x is not taken", op)
	}
	if at < w.floor() {
		return errStack
	}
	of := w.stack[at:]
	switch op {
	case pickle.Tuple1, pickle.Tuple2, pickle.Tuple3, pickle.Tuple:
		if len(of) > 0 && of[0].kind == text {
			v = value{pair, of[0].at}
		}
	case pickle.List:
		v.kind = list
	case pickle.Obj:
		if len(of) == 0 {
			return errStack // there is no class
		}
	case pickle.Reduce:
		// How Python 3 writes bytes in protocols 0 to 2. The text stands for
		// them as it would without the call.
		if of[0].kind == encode && of[1].kind == pair {
			v = value{text, of[1].at}
		}
	}
	w.stack = append(w.stack[:at], v)
	return nil
}

func (w *walker) push(v value) { w.stack = append(w.stack, v) }

// floor is the lowest part of the stack that may be taken without a mark.
func (w *walker) floor() int {
	if len(w.marks) == 0 {
		return 0
	}
	return int(w.marks[len(w.marks)-1])
}

func (w *walker) top() (value, error) {
	if len(w.stack) <= w.floor() {
		return value{}, errStack
	}
	return w.stack[len(w.stack)-1], nil
}

// pop takes n values off the stack and wants to see so many more below.
func (w *walker) pop(n, below int) error {
	if len(w.stack)-n-below < w.floor() {
		return errStack
	}
	w.stack = w.stack[:len(w.stack)-n]
	return nil
}

// popMark takes all values above the last mark off, and the mark, and wants to
// see so many more values below.
func (w *walker) popMark(below int) error {
	if len(w.marks) == 0 {
		return errMark
	}
	at := w.floor()
	w.marks = w.marks[:len(w.marks)-1]
	if at-below < w.floor() {
		return errStack
	}
	w.stack = w.stack[:at]
	return nil
}

func (w *walker) put(op byte, arg []byte) error {
	v, err := w.top()
	if err != nil {
		return err
	}
	i := w.held
	if op != pickle.Memoize {
		n, err := pickle.MemoIndex(op, arg)
		if err != nil {
			return err
		}
		// Picklers count, and each value that was put takes a byte or more.
		if int64(n) > int64(w.scan.Offset()) {
			return fmt.Errorf("memo %d is further than a pickler can have counted", n)
		}
		i = int(n)
	}
	for len(w.memo) <= i {
		w.memo = append(w.memo, value{})
	}
	if w.memo[i].kind == absent {
		w.held++
	}
	w.memo[i] = v
	return nil
}

func (w *walker) get(op byte, arg []byte) error {
	i, err := pickle.MemoIndex(op, arg)
	if err != nil {
		return err
	}
	if int64(i) >= int64(len(w.memo)) || w.memo[i].kind == absent {
		return errMemo
	}
	w.push(w.memo[i])
	return nil
}
