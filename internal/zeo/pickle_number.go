package zeo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"strconv"

	"s3storage/internal/pickle"
)

func (m *machine) number(op byte, arg []byte) error {
	switch op {
	case pickle.BinInt1:
		return m.push(int64(arg[0]))
	case pickle.BinInt2:
		return m.push(int64(binary.LittleEndian.Uint16(arg)))
	case pickle.BinInt:
		return m.push(int64(int32(binary.LittleEndian.Uint32(arg))))
	case pickle.BinFloat:
		return m.push(math.Float64frombits(binary.BigEndian.Uint64(arg)))
	case pickle.Long1, pickle.Long4:
		if len(arg) > maxIntBytes {
			return errBigInt
		}
		return m.push(twosComplement(arg))
	}
	v, err := numberText(op, arg)
	if err != nil {
		return err
	}
	return m.push(v)
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
	return fitInt(pickle.Integer(b))
}

func numberText(op byte, line []byte) (any, error) {
	if op == pickle.Float {
		f, err := strconv.ParseFloat(string(line), 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, pickle.ErrNumber
		}
		return f, nil
	}
	if op == pickle.Int && len(line) == 2 && line[0] == '0' && (line[1] == '0' || line[1] == '1') {
		return line[1] == '1', nil
	}
	if op == pickle.Long {
		line = bytes.TrimSuffix(line, []byte("L"))
	}
	if len(line) > 2*maxIntBytes { // fewer than 8 bits a digit, and more than 3
		return nil, errBigInt
	}
	n, ok := new(big.Int).SetString(string(line), 10)
	if !ok {
		return nil, pickle.ErrNumber
	}
	return fitInt(n), nil
}
