package pickle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// Errors of a Scanner.
var (
	ErrShort  = errors.New("pickle ends too early")
	ErrNumber = errors.New("malformed number")
)

// A Scanner reads the opcodes of pickles that stand one after the other in one
// byte string. It allocates nothing.
type Scanner struct {
	in []byte
	op int // where the last opcode stands
	at int // where the next one does
}

// NewScanner returns a Scanner that starts with the opcode at offset at.
func NewScanner(in []byte, at int) Scanner { return Scanner{in: in, op: at, at: at} }

// Offset returns where the opcode stands that Next came to last.
func (s *Scanner) Offset() int { return s.op }

// Rest returns how many bytes follow.
func (s *Scanner) Rest() int { return len(s.in) - s.at }

// Next returns the next opcode and its argument, which shares the memory of the
// input: the bytes of a number; those of a string, without its length; a line,
// or two, without the last newline.
func (s *Scanner) Next() (op byte, arg []byte, err error) {
	s.op = s.at
	if s.at >= len(s.in) {
		return 0, nil, ErrShort
	}
	op = s.in[s.at]
	s.at++
	switch shapes[op] {
	case bare:
		return op, nil, nil
	case fixed1:
		arg, err = s.take(1)
		if err == nil && op == Proto && arg[0] > highest {
			err = fmt.Errorf("pickle protocol %d", arg[0])
		}
	case fixed2:
		arg, err = s.take(2)
	case fixed4:
		arg, err = s.take(4)
	case fixed8:
		arg, err = s.take(8)
	case counted1:
		if arg, err = s.take(1); err == nil {
			arg, err = s.take(uint64(arg[0]))
		}
	case counted4:
		if arg, err = s.take(4); err == nil {
			arg, err = s.take(uint64(binary.LittleEndian.Uint32(arg)))
		}
	case counted8:
		if arg, err = s.take(8); err == nil {
			arg, err = s.take(binary.LittleEndian.Uint64(arg))
		}
	case line:
		arg, err = s.lines(1)
	case lines:
		arg, err = s.lines(2)
	default:
		err = fmt.Errorf("opcode %#02x is not taken", op)
	}
	return op, arg, err
}

func (s *Scanner) take(n uint64) ([]byte, error) {
	if n > uint64(s.Rest()) {
		return nil, ErrShort
	}
	b := s.in[s.at : s.at+int(n) : s.at+int(n)]
	s.at += int(n)
	return b, nil
}

func (s *Scanner) lines(n int) ([]byte, error) {
	end := s.at
	for range n {
		i := bytes.IndexByte(s.in[end:], '\n')
		if i < 0 {
			return nil, ErrShort
		}
		end += i + 1
	}
	b := s.in[s.at : end-1 : end-1]
	s.at = end
	return b, nil
}

// MemoIndex reads the argument of an opcode of the PUT and GET families.
func MemoIndex(op byte, arg []byte) (uint32, error) {
	switch op {
	case BinPut, BinGet:
		return uint32(arg[0]), nil
	case LongBinPut, LongBinGet:
		return binary.LittleEndian.Uint32(arg), nil
	}
	i, err := strconv.ParseUint(string(arg), 10, 32)
	if err != nil {
		return 0, ErrNumber
	}
	return uint32(i), nil
}
