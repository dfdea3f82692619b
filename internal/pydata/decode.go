package pydata

import (
	"errors"
	"fmt"

	"s3storage/internal/pickle"
)

const (
	longestDecoded = 64 << 20 // bytes, inflated
	mostValues     = 1 << 17
	mostHeld       = 4 << 20 // on stack and memo
)

var errHeld = fmt.Errorf("pickle keeps more than %d values at once", mostHeld)

// Decode returns what a record describes. Nothing of it is executed and no class
// looked up. Unlike Inspect it takes persistent ids of any form.
//
// Memory is bounded: records longer than 64 MiB, inflated, are refused, and
// after some hundred thousand values what follows is left out and counted. Then
// the size of a result is at most some hundred MiB.
func Decode(record []byte) (*Record, error) {
	data, err := inflated(record, longestDecoded)
	if err != nil {
		return nil, fmt.Errorf("values of a record of %d bytes: %w", len(record), err)
	}
	d := decoder{scan: pickle.NewScanner(data, 0), cut: &Value{Kind: Cut}}
	var r Record
	if r.Description, err = d.pickle(); err == nil {
		r.State, err = d.pickle()
	}
	if err == nil && d.scan.Rest() > 0 {
		err = fmt.Errorf("%d bytes follow the two pickles", d.scan.Rest())
	}
	if err != nil {
		return nil, fmt.Errorf("values of a record, opcode at byte %d of %d: %w", d.scan.Offset(), len(data), err)
	}
	s, _ := Inspect(data) // the class does without the references
	r.Class = s.Class
	r.State = btree(r.Class, r.State)
	return &r, nil
}

// A decoder follows the opcodes of the pickles of a record and builds the
// values.
//
// Once there are mostValues, values that are made of nothing are not made any
// more, but cut stands for them. Those made of others are made on, so that what
// there is gets into its containers; yet not without end.
type decoder struct {
	scan  pickle.Scanner
	stack pickle.Stack[*Value]
	made  int
	cut   *Value
	spare *Value            // for the next leaf
	bytes map[*Value]*Value // by the text that they were encoded as
}

// pickle builds the value of one pickle.
func (d *decoder) pickle() (*Value, error) {
	d.stack.Clear()
	for {
		op, arg, err := d.scan.Next()
		if err != nil {
			return nil, err
		}
		if op == pickle.Stop {
			v, err := d.stack.End()
			if err != nil {
				return nil, err
			}
			return v.part(), nil
		}
		if err := d.step(op, arg); err != nil {
			return nil, err
		}
		if d.stack.Size() > mostHeld {
			return nil, errHeld
		}
	}
}

func (d *decoder) step(op byte, arg []byte) error {
	switch op {
	case pickle.Put, pickle.BinPut, pickle.LongBinPut, pickle.Memoize:
		return d.stack.Put(op, arg, d.scan.Offset())
	case pickle.Proto, pickle.Frame, pickle.Mark, pickle.Pop, pickle.PopMark:
		return d.stack.Move(op)
	case pickle.Get, pickle.BinGet, pickle.LongBinGet:
		if err := d.stack.Get(op, arg); err != nil {
			return err
		}
		d.again()
		return nil
	case pickle.Dup:
		if err := d.stack.Move(op); err != nil {
			return err
		}
		d.again()
		return nil
	}
	if d.spare == nil {
		d.spare = new(Value)
	}
	if d.spare.leaf(op, arg) {
		if d.made >= mostValues {
			d.stack.Push(d.cut)
			return nil
		}
		d.made++
		d.stack.Push(d.spare)
		d.spare = nil
		return nil
	}
	of, err := d.stack.Take(op)
	if err != nil {
		return err
	}
	if d.change(op, of) {
		return nil
	}
	v, err := d.make(op, arg, of)
	d.stack.Push(v)
	return err
}

// again counts a value that was there before and now is on top, too.
func (d *decoder) again() {
	if d.made >= mostValues {
		d.stack.SetTop(d.cut)
	} else {
		d.made++
	}
}

// change does what opcodes do that change a value.
func (d *decoder) change(op byte, of []*Value) bool {
	switch op {
	case pickle.Append, pickle.Appends:
		d.changed(List).add(of)
	case pickle.AddItems:
		d.changed(Set).add(of)
	case pickle.SetItem, pickle.SetItems:
		d.changed(Dict).set(of)
	case pickle.Build:
		if v := d.changed(Object); of[0].Kind == Cut {
			v.More++
		} else if v.Kind == Object {
			v.Call.States = append(v.Call.States, of[0].part())
		}
	default:
		return false
	}
	return true
}

// changed returns the value on top to be changed. What is not of the kind that is
// changed so becomes part of an Object that is.
func (d *decoder) changed(kind Kind) *Value {
	v, _ := d.stack.Top() // Take has seen it
	switch v.Kind {
	case kind, Object:
		return v
	case Cut:
		return &Value{Kind: Cut} // what it is given is lost
	}
	v = &Value{Kind: Object, Call: &Call{Of: v.part()}}
	d.stack.SetTop(v)
	return v
}

// make returns the value that op makes of others.
func (d *decoder) make(op byte, arg []byte, of []*Value) (*Value, error) {
	known := len(of) == 0
	for _, v := range of {
		known = known || v.Kind != Cut
	}
	if !known || d.made >= 3*mostValues || len(of) == 0 && d.made >= mostValues {
		return d.cut, nil
	}
	d.made++
	v := new(Value)
	switch op {
	case pickle.Tuple1, pickle.Tuple2, pickle.Tuple3, pickle.Tuple:
		v.Kind = Tuple
		v.add(of)
	case pickle.List:
		v.Kind = List
		v.add(of)
	case pickle.FrozenSet:
		v.Kind = FrozenSet
		v.add(of)
	case pickle.Dict:
		v.Kind = Dict
		v.set(of)
	case pickle.BinPersID:
		v.Kind, v.Ref = Reference, reference(of[0])
	case pickle.StackGlobal:
		v = namedGlobal(of[0], of[1])
	case pickle.Reduce:
		if b := d.encoded(of[0], of[1]); b != nil {
			return b, nil
		}
		v = object(Call{Of: of[0], Args: of[1]})
	case pickle.NewObj:
		v = object(Call{Of: of[0], Args: of[1], New: true})
	case pickle.NewObjEx:
		v = object(Call{Of: of[0], Args: of[1], Keywords: of[2].part(), New: true})
	case pickle.Obj, pickle.Inst:
		class := &Value{Kind: Global, Text: dotted(arg)}
		if op == pickle.Obj {
			if len(of) == 0 {
				return nil, pickle.ErrStack
			}
			class, of = of[0], of[1:]
		}
		args := &Value{Kind: Tuple}
		args.add(of)
		v = object(Call{Of: class, Args: args})
	default:
		return nil, errors.New("opcode is not taken")
	}
	return v, nil
}

func object(c Call) *Value {
	c.Of.part()
	c.Args.part()
	return &Value{Kind: Object, Call: &c}
}
