package zeo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"strconv"
)

func (m *machine) number(op byte) error {
	switch op {
	case opInt, opLong, opFloat:
		line, err := m.line()
		if err != nil {
			return err
		}
		v, err := numberText(op, line)
		if err != nil {
			return err
		}
		return m.push(v)
	}
	width := 4 // BININT, LONG4
	switch op {
	case opBinInt1, opLong1:
		width = 1
	case opBinInt2:
		width = 2
	case opBinFloat:
		width = 8
	}
	b, err := m.take(width)
	if err != nil {
		return err
	}
	switch op {
	case opBinInt1:
		return m.push(int64(b[0]))
	case opBinInt2:
		return m.push(int64(binary.LittleEndian.Uint16(b)))
	case opBinInt:
		return m.push(int64(int32(binary.LittleEndian.Uint32(b))))
	case opBinFloat:
		return m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	}
	size := uint32(b[0])
	if op == opLong4 {
		size = binary.LittleEndian.Uint32(b)
	}
	if size > maxIntBytes {
		return errBigInt
	}
	if b, err = m.take(int(size)); err != nil {
		return err
	}
	return m.push(twosComplement(b))
}

// twosComplement reads an integer, least byte first.
func twosComplement(b []byte) any {
	if len(b) <= 8 {
		var n int64
		for i, c := range b {
			n |= int64(c) << (8 * i)
		}
		if shift := 64 - 8*len(b); len(b) > 0 {
			n = n << shift >> shift
		}
		return n
	}
	be := make([]byte, len(b))
	for i, c := range b {
		be[len(b)-1-i] = c
	}
	n := new(big.Int).SetBytes(be)
	if be[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return fitInt(n)
}

func numberText(op byte, line []byte) (any, error) {
	if op == opFloat {
		f, err := strconv.ParseFloat(string(line), 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, errPickleNum
		}
		return f, nil
	}
	if op == opInt && len(line) == 2 && line[0] == '0' && (line[1] == '0' || line[1] == '1') {
		return line[1] == '1', nil
	}
	if op == opLong {
		line = bytes.TrimSuffix(line, []byte("L"))
	}
	if len(line) > 2*maxIntBytes { // fewer than 8 bits a digit, and more than 3
		return nil, errBigInt
	}
	n, ok := new(big.Int).SetString(string(line), 10)
	if !ok {
		return nil, errPickleNum
	}
	return fitInt(n), nil
}
