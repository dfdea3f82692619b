package zeo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"

	"s3storage/internal/zodb"
)

var errMsgpackText = errors.New("msgpack: a str that is not UTF-8")

// appendMsgpack appends v as msgpack's packb(use_bin_type=True) does.
func appendMsgpack(b []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case nil:
		return msgp.AppendNil(b), nil
	case bool:
		return msgp.AppendBool(b, v), nil
	case int:
		return appendMsgpackInt(b, int64(v)), nil
	case int64:
		return appendMsgpackInt(b, v), nil
	case *big.Int:
		if v.IsInt64() {
			return appendMsgpackInt(b, v.Int64()), nil
		}
		if v.IsUint64() {
			return msgp.AppendUint64(b, v.Uint64()), nil
		}
		return nil, errors.New("zeo: msgpack has no integers of more than 64 bits")
	case float64:
		return msgp.AppendFloat64(b, v), nil
	case string:
		if !utf8.ValidString(v) { // surrogates, which msgpack's str has no place for
			v = strings.ToValidUTF8(v, "\ufffd")
		}
		return msgp.AppendString(b, v), nil
	case []byte:
		return msgp.AppendBytes(b, v), nil
	case zodb.Oid:
		return appendMsgpackID(b, uint64(v)), nil
	case zodb.Tid:
		return appendMsgpackID(b, uint64(v)), nil
	case []zodb.Oid:
		b = msgp.AppendArrayHeader(b, uint32(len(v)))
		for _, oid := range v {
			b = appendMsgpackID(b, uint64(oid))
		}
		return b, nil
	case Tuple:
		return appendMsgpackArray(b, v)
	case List:
		return appendMsgpackArray(b, v)
	case Dict:
		b = msgp.AppendMapHeader(b, uint32(len(v)))
		for _, it := range v {
			if b, err = appendMsgpack(b, it.Key); err != nil {
				return nil, err
			}
			if b, err = appendMsgpack(b, it.Value); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("zeo: a %T cannot be sent in msgpack", v)
}

// appendMsgpackInt writes what is not negative without a sign, as packb does.
func appendMsgpackInt(b []byte, n int64) []byte {
	if n >= 0 {
		return msgp.AppendUint64(b, uint64(n))
	}
	return msgp.AppendInt64(b, n)
}

func appendMsgpackArray(b []byte, vs []any) (_ []byte, err error) {
	b = msgp.AppendArrayHeader(b, uint32(len(vs)))
	for _, v := range vs {
		if b, err = appendMsgpack(b, v); err != nil {
			return nil, err
		}
	}
	return b, nil
}

const msgpackBin8 = 0xc4

func appendMsgpackID(b []byte, id uint64) []byte {
	b = append(b, msgpackBin8, 8)
	return binary.BigEndian.AppendUint64(b, id)
}

// decodeMsgpack reads the value at the start of b and returns what follows it.
// The value may share the memory of b.
func decodeMsgpack(b []byte, depth int, budget *int) (v any, rest []byte, err error) {
	if *budget--; *budget < 0 {
		return nil, nil, errValues
	}
	if depth > maxDepth {
		return nil, nil, errDepth
	}
	if len(b) == 0 {
		return nil, nil, msgp.ErrShortBytes
	}
	switch t := msgp.NextType(b); t {
	case msgp.NilType:
		rest, err = msgp.ReadNilBytes(b)
	case msgp.BoolType:
		v, rest, err = msgp.ReadBoolBytes(b)
	case msgp.IntType:
		v, rest, err = msgp.ReadInt64Bytes(b)
	case msgp.UintType:
		var n uint64
		if n, rest, err = msgp.ReadUint64Bytes(b); err == nil {
			v = fitInt(new(big.Int).SetUint64(n))
		}
	case msgp.Float64Type:
		v, rest, err = msgp.ReadFloat64Bytes(b)
	case msgp.Float32Type:
		var f float32
		f, rest, err = msgp.ReadFloat32Bytes(b)
		v = float64(f)
	case msgp.StrType:
		var s []byte
		if s, rest, err = msgp.ReadStringZC(b); err == nil && !utf8.Valid(s) {
			err = errMsgpackText
		}
		v = string(s)
	case msgp.BinType:
		v, rest, err = msgp.ReadBytesZC(b)
	case msgp.ArrayType:
		return decodeMsgpackArray(b, depth, budget)
	case msgp.MapType:
		return decodeMsgpackMap(b, depth, budget)
	default:
		err = fmt.Errorf("msgpack type %s is not taken", t)
	}
	return v, rest, err
}

func decodeMsgpackArray(b []byte, depth int, budget *int) (any, []byte, error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, nil, err
	}
	if int64(n) > int64(len(b)) {
		return nil, nil, msgp.ErrShortBytes
	}
	if int(n) > *budget {
		return nil, nil, errValues
	}
	t := make(Tuple, n)
	for i := range t {
		if t[i], b, err = decodeMsgpack(b, depth+1, budget); err != nil {
			return nil, nil, err
		}
	}
	return t, b, nil
}

func decodeMsgpackMap(b []byte, depth int, budget *int) (any, []byte, error) {
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return nil, nil, err
	}
	if 2*int64(n) > int64(len(b)) {
		return nil, nil, msgp.ErrShortBytes
	}
	if 2*int64(n) > int64(*budget) {
		return nil, nil, errValues
	}
	d := make(Dict, n)
	for i := range d {
		if d[i].Key, b, err = decodeMsgpack(b, depth+1, budget); err != nil {
			return nil, nil, err
		}
		if !hashable(d[i].Key) {
			return nil, nil, errKey
		}
		if d[i].Value, b, err = decodeMsgpack(b, depth+1, budget); err != nil {
			return nil, nil, err
		}
	}
	return d, b, nil
}
