package pydata

import (
	"s3storage/internal/pickle"
)

// A clue is what the walker knows of a Python value: as much as a persistent id and
// the name of a class need.
type clue struct {
	kind clueKind
	at   int32 // where the opcode of the text or global stands, of pairs that of the first text
	name int32 // where the opcode of the name stands for which at is the module, else 0
}

type clueKind uint8

const (
	absent    clueKind = iota // only in the memo
	opaque                    // anything not below
	text                      // a string, of bytes or characters
	pair                      // a tuple whose first item is a text; has a name if there is one more text
	list                      // a list, whatever is in it
	encode                    // the function _codecs.encode
	newobj                    // a function of copyreg that makes an instance
	global                    // any other global; has a name if that is a text of its own
	described                 // a tuple whose first item is a global or such a pair, or an instance of that
)

// A walker follows the opcodes of the pickles of a record as an unpickler does,
// but for what becomes of values in containers and objects. Nothing there
// comes out again: a persistent id is a value of its own, taken from the
// stack. A tuple does not change, and of a list nothing is asked.
type walker struct {
	data  []byte
	scan  pickle.Scanner
	stack pickle.Stack[clue]
	refs  references
	names map[string]string // names of classes met before
}

// pickle walks one pickle, to its STOP, and returns its value.
func (w *walker) pickle() (clue, error) {
	w.stack.Clear()
	for {
		op, arg, err := w.scan.Next()
		if err != nil {
			return clue{}, err
		}
		if op == pickle.Stop {
			return w.stack.End()
		}
		if err := w.step(op, arg); err != nil {
			return clue{}, err
		}
	}
}

func (w *walker) step(op byte, arg []byte) error {
	v := clue{kind: opaque}
	switch op {
	case pickle.None, pickle.NewTrue, pickle.NewFalse,
		pickle.Int, pickle.BinInt, pickle.BinInt1, pickle.BinInt2,
		pickle.Long, pickle.Long1, pickle.Long4, pickle.Float, pickle.BinFloat,
		pickle.ByteArray8, pickle.EmptyTuple, pickle.EmptyDict, pickle.EmptySet,
		pickle.Ext1, pickle.Ext2, pickle.Ext4:
	case pickle.String, pickle.BinString, pickle.ShortBinString,
		pickle.Unicode, pickle.BinUnicode, pickle.ShortBinUnicode, pickle.BinUnicode8,
		pickle.BinBytes, pickle.ShortBinBytes, pickle.BinBytes8:
		v = clue{kind: text, at: int32(w.scan.Offset())}
	case pickle.EmptyList:
		v.kind = list
	case pickle.Global:
		v = clue{kind: global, at: int32(w.scan.Offset())}
		switch string(arg) {
		case "_codecs\nencode":
			v.kind = encode
		case "copyreg\n__newobj__", "copyreg\n_reconstructor", "copy_reg\n__newobj__", "copy_reg\n_reconstructor":
			v.kind = newobj
		}
	case pickle.PersID:
		if err := w.refer(op, arg); err != nil {
			return err
		}
	case pickle.Put, pickle.BinPut, pickle.LongBinPut, pickle.Memoize:
		return w.stack.Put(op, arg, w.scan.Offset())
	case pickle.Get, pickle.BinGet, pickle.LongBinGet:
		return w.stack.Get(op, arg)
	case pickle.Proto, pickle.Frame, pickle.Mark, pickle.Pop, pickle.PopMark, pickle.Dup:
		return w.stack.Move(op)
	default:
		return w.make(op)
	}
	w.stack.Push(v)
	return nil
}

// make does what opcodes do that make a new value of those on the stack, or
// change one there.
func (w *walker) make(op byte) error {
	of, err := w.stack.Take(op)
	if err != nil {
		return err
	}
	v := clue{kind: opaque}
	switch op {
	case pickle.Append, pickle.Appends, pickle.SetItem, pickle.SetItems, pickle.AddItems, pickle.Build:
		return nil
	case pickle.Tuple1, pickle.Tuple2, pickle.Tuple3, pickle.Tuple:
		if len(of) > 0 {
			v = tuple(of)
		}
	case pickle.List:
		v.kind = list
	case pickle.StackGlobal:
		if of[0].kind == text && of[1].kind == text {
			v = clue{global, of[0].at, of[1].at}
		}
	case pickle.Obj, pickle.NewObj, pickle.NewObjEx:
		if len(of) == 0 {
			return pickle.ErrStack // there is no class
		}
		if of[0].kind == global {
			v = tuple(of)
		}
	case pickle.Reduce:
		// How Python 3 writes bytes in protocols 0 to 2. The text stands for
		// them as it would without the call.
		if of[0].kind == encode && of[1].kind == pair {
			v = clue{kind: text, at: of[1].at}
		}
		if of[0].kind == newobj && of[1].kind == described {
			v = of[1]
		}
	case pickle.BinPersID:
		if err := w.binPersID(of[0]); err != nil {
			return err
		}
	}
	w.stack.Push(v)
	return nil
}

// tuple is what is known of a tuple of these.
func tuple(of []clue) clue {
	switch first := of[0]; {
	case first.kind == text && len(of) == 2 && of[1].kind == text:
		return clue{pair, first.at, of[1].at}
	case first.kind == text:
		return clue{kind: pair, at: first.at}
	case first.kind == global, first.kind == pair && first.name > 0:
		return clue{described, first.at, first.name}
	}
	return clue{kind: opaque}
}
