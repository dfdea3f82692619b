package pickle

import (
	"errors"
	"slices"
	"testing"
)

// run gives a Stack whose values are the offsets of the opcodes that made them.
func run(t *testing.T, s *Stack[int], in string) ([]int, error) {
	t.Helper()
	s.Clear()
	scan := NewScanner([]byte(in), 0)
	var taken []int
	for scan.Rest() > 0 {
		op, arg, err := scan.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch op {
		case None:
			s.Push(scan.Offset() + 1)
		case Put, BinPut, LongBinPut, Memoize:
			err = s.Put(op, arg, scan.Offset())
		case Get, BinGet, LongBinGet:
			err = s.Get(op, arg)
		case Mark, Pop, PopMark, Dup, Proto, Frame:
			err = s.Move(op)
		default:
			taken, err = s.Take(op)
			taken = slices.Clone(taken)
		}
		if err != nil {
			return nil, err
		}
	}
	return taken, nil
}

func TestOpcodesTakeTheirValues(t *testing.T) {
	for in, want := range map[string][]int{
		"NN\x86":                                {1, 2},
		"N(NNt":                                 {3, 4},
		"(t":                                    {},
		"NN2\x87":                               {1, 2, 2},
		"N(NN1N\x86":                            {1, 6},
		"N(0N\x86":                              {1, 4},
		"NNa":                                   {2},
		"N(NNu":                                 {3, 4},
		"Nq\x000Nq\x010h\x00h\x01\x86":          {1, 5},
		"Np0\n0N\x940g0\nj\x01\x00\x00\x00\x86": {1, 6},
	} {
		var s Stack[int]
		if got, err := run(t, &s, in); (err == nil) != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
}

func TestWhatIsNotThereIsNotTaken(t *testing.T) {
	for in, want := range map[string]error{
		"\x85": ErrStack, "N(N\x86": ErrStack, "Na": ErrStack, "N(Na": ErrStack, "(e": ErrStack,
		"2": ErrStack, "0": ErrStack, "q\x00": ErrStack, "Nt": ErrMark, "N1": ErrMark,
		"Nh\x00": ErrMemo, "N(h\x00": ErrMemo, "Nq\x01h\x00": ErrMemo, "Npx\n": ErrNumber,
	} {
		var s Stack[int]
		if got, err := run(t, &s, in); !errors.Is(err, want) {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	var s Stack[int]
	if _, err := run(t, &s, "Nr\x09\x00\x00\x00"); err == nil {
		t.Error("a memo beyond what was read")
	}
}

func TestTheMemoStaysWhenTheStackIsCleared(t *testing.T) {
	var s Stack[int]
	run(t, &s, "(NN\x94")
	if got, err := run(t, &s, "h\x00\x85"); err != nil || !slices.Equal(got, []int{3}) {
		t.Error(got, err)
	}
	if v, err := s.End(); err != ErrEnd {
		t.Error(v, err)
	}
	run(t, &s, "h\x00")
	if v, err := s.End(); err != nil || v != 3 {
		t.Error(v, err)
	}
	s.Reset()
	if _, err := run(t, &s, "h\x00"); err != ErrMemo {
		t.Error(err)
	}
}
