package zeo

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"strings"

	"s3storage/internal/pickle"
	"s3storage/internal/zodb"
)

// pickleBatch is how many items a pickler puts between one MARK and its
// APPENDS or SETITEMS.
const pickleBatch = 1000

// appendPickle appends the opcodes for v as a pickler of protocol 3 without a
// memo writes them: neither PROTO nor STOP.
func appendPickle(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, pickle.None), nil
	case bool:
		return appendPickleBool(b, v), nil
	case int:
		return appendPickleInt(b, int64(v)), nil
	case int64:
		return appendPickleInt(b, v), nil
	case *big.Int:
		return appendPickleBigInt(b, v)
	case float64:
		b = append(b, pickle.BinFloat)
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v)), nil
	case string:
		return appendPickleString(b, v), nil
	case []byte:
		return appendPickleBytes(b, v), nil
	case zodb.Oid:
		return appendPickleID(b, uint64(v)), nil
	case zodb.Tid:
		return appendPickleID(b, uint64(v)), nil
	case []zodb.Oid:
		return appendPickleOids(b, v), nil
	case Tuple:
		return appendPickleTuple(b, v)
	case List:
		return appendPickleList(b, v)
	case Dict:
		return appendPickleDict(b, v)
	case Prefix:
		return appendPicklePrefix(b, v)
	}
	return nil, fmt.Errorf("zeo: a %T cannot be sent", v)
}

func appendPickleBool(b []byte, v bool) []byte {
	if v {
		return append(b, pickle.NewTrue)
	}
	return append(b, pickle.NewFalse)
}

func appendPickleInt(b []byte, n int64) []byte {
	switch {
	case n >= 0 && n < 1<<8:
		return append(b, pickle.BinInt1, byte(n))
	case n >= 0 && n < 1<<16:
		return append(b, pickle.BinInt2, byte(n), byte(n>>8))
	case n >= math.MinInt32 && n <= math.MaxInt32:
		b = append(b, pickle.BinInt)
		return binary.LittleEndian.AppendUint32(b, uint32(int32(n)))
	}
	// The shortest two's complement, least byte first.
	size := 8
	for size > 1 && n>>(8*size-9) == n>>63 {
		size--
	}
	b = append(b, pickle.Long1, byte(size))
	for i := range size {
		b = append(b, byte(n>>(8*i)))
	}
	return b
}

func appendPickleBigInt(b []byte, n *big.Int) ([]byte, error) {
	if n.IsInt64() {
		return appendPickleInt(b, n.Int64()), nil
	}
	// -2^(8k-1) fits k bytes, as +2^(8k-1)-1 does.
	bits := n.BitLen()
	if n.Sign() < 0 {
		bits = new(big.Int).Not(n).BitLen()
	}
	size := bits/8 + 1
	if size > maxIntBytes {
		return nil, errBigInt
	}
	m := n
	if n.Sign() < 0 {
		m = new(big.Int).Lsh(big.NewInt(1), uint(8*size))
		m.Add(m, n)
	}
	if size < 1<<8 {
		b = append(b, pickle.Long1, byte(size))
	} else {
		b = binary.LittleEndian.AppendUint32(append(b, pickle.Long4), uint32(size))
	}
	be := m.FillBytes(make([]byte, size))
	for i := range be {
		b = append(b, be[size-1-i])
	}
	return b, nil
}

func appendPickleString(b []byte, s string) []byte {
	b = append(b, pickle.BinUnicode)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func appendPickleBytes(b, s []byte) []byte {
	return append(appendPickleBytesHeader(b, len(s)), s...)
}

func appendPickleBytesHeader(b []byte, n int) []byte {
	if n < 1<<8 {
		return append(b, pickle.ShortBinBytes, byte(n))
	}
	return binary.LittleEndian.AppendUint32(append(b, pickle.BinBytes), uint32(n))
}

func appendPickleID(b []byte, id uint64) []byte {
	b = append(b, pickle.ShortBinBytes, 8)
	return binary.BigEndian.AppendUint64(b, id)
}

// appendPickleOids appends a list of oids without making values of them.
func appendPickleOids(b []byte, oids []zodb.Oid) []byte {
	b = append(b, pickle.EmptyList)
	if len(oids) == 1 {
		return append(appendPickleID(b, uint64(oids[0])), pickle.Append)
	}
	for len(oids) > 0 {
		n := min(len(oids), pickleBatch)
		b = append(b, pickle.Mark)
		for _, oid := range oids[:n] {
			b = appendPickleID(b, uint64(oid))
		}
		b = append(b, pickle.Appends)
		oids = oids[n:]
	}
	return b
}

func appendPickleTuple(b []byte, t Tuple) (_ []byte, err error) {
	switch n := len(t); n {
	case 0:
		return append(b, pickle.EmptyTuple), nil
	case 1, 2, 3:
		if b, err = appendPickleAll(b, t); err != nil {
			return nil, err
		}
		return append(b, pickle.Tuple1+byte(n-1)), nil
	}
	if b, err = appendPickleAll(append(b, pickle.Mark), t); err != nil {
		return nil, err
	}
	return append(b, pickle.Tuple), nil
}

func appendPickleAll(b []byte, vs []any) (_ []byte, err error) {
	for _, v := range vs {
		if b, err = appendPickle(b, v); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendPickleList(b []byte, l List) (_ []byte, err error) {
	b = append(b, pickle.EmptyList)
	if len(l) == 1 {
		if b, err = appendPickle(b, l[0]); err != nil {
			return nil, err
		}
		return append(b, pickle.Append), nil
	}
	for len(l) > 0 {
		n := min(len(l), pickleBatch)
		if b, err = appendPickleAll(append(b, pickle.Mark), l[:n]); err != nil {
			return nil, err
		}
		b = append(b, pickle.Appends)
		l = l[n:]
	}
	return b, nil
}

func appendPickleDict(b []byte, d Dict) (_ []byte, err error) {
	b = append(b, pickle.EmptyDict)
	if len(d) == 1 {
		if b, err = appendPickleItem(b, d[0]); err != nil {
			return nil, err
		}
		return append(b, pickle.SetItem), nil
	}
	for len(d) > 0 {
		n := min(len(d), pickleBatch)
		b = append(b, pickle.Mark)
		for _, it := range d[:n] {
			if b, err = appendPickleItem(b, it); err != nil {
				return nil, err
			}
		}
		b = append(b, pickle.SetItems)
		d = d[n:]
	}
	return b, nil
}

func appendPickleItem(b []byte, it Item) (_ []byte, err error) {
	if b, err = appendPickle(b, it.Key); err != nil {
		return nil, err
	}
	return appendPickle(b, it.Value)
}

func appendPicklePrefix(b []byte, p Prefix) ([]byte, error) {
	path := List{}
	for s := range strings.SplitSeq(string(p), "/") {
		path = append(path, s)
	}
	b = append(b, "cZopeUndo.Prefix\nPrefix\n)\x81"...)
	b, err := appendPickle(b, Dict{{"length", len(path)}, {"path", path}})
	return append(b, pickle.Build), err
}

// PickleDict returns a pickle of d as zodb.TxnMeta carries a transaction's
// extension: nothing at all for an empty dict.
func PickleDict(d Dict) ([]byte, error) {
	if len(d) == 0 {
		return nil, nil
	}
	b, err := appendPickleDict([]byte{pickle.Proto, 3}, d)
	if err != nil {
		return nil, err
	}
	return append(b, pickle.Stop), nil
}

// UnpickleDict reads a pickled dict of any protocol. Parts of the result may
// share the memory of b.
func UnpickleDict(b []byte) (Dict, error) {
	if len(b) == 0 {
		return nil, nil
	}
	v, err := decodePickle(b)
	if err != nil {
		return nil, err
	}
	d, ok := v.(Dict)
	if !ok {
		return nil, fmt.Errorf("zeo: a pickled dict is wanted, not a %T", v)
	}
	return d, nil
}
