package pydata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"

	"s3storage/internal/pickle"
)

// leaf sets v to the value of an opcode that makes one of its argument alone, or
// returns false.
func (v *Value) leaf(op byte, arg []byte) bool {
	*v = Value{Text: string(arg)}
	switch op {
	case pickle.None:
		v.Text = "None"
	case pickle.NewTrue:
		v.Kind, v.Text = Bool, "True"
	case pickle.NewFalse:
		v.Kind, v.Text = Bool, "False"
	case pickle.Int, pickle.BinInt, pickle.BinInt1, pickle.BinInt2, pickle.Long, pickle.Long1, pickle.Long4:
		v.integer(op, arg)
	case pickle.Float, pickle.BinFloat:
		v.float(op, arg)

	case pickle.String:
		b, err := pickle.Quoted(arg)
		v.text(OldStr, string(b), err)
	case pickle.BinString, pickle.ShortBinString:
		v.Kind = OldStr
	case pickle.Unicode:
		s, err := pickle.RawUnicode(arg)
		v.text(Str, s, err)
	case pickle.BinUnicode, pickle.ShortBinUnicode, pickle.BinUnicode8:
		v.Kind = Str
	case pickle.BinBytes, pickle.ShortBinBytes, pickle.BinBytes8:
		v.Kind = Bytes
	case pickle.ByteArray8:
		v.Kind = ByteArray

	case pickle.EmptyTuple:
		v.Kind = Tuple
	case pickle.EmptyList:
		v.Kind = List
	case pickle.EmptyDict:
		v.Kind = Dict
	case pickle.EmptySet:
		v.Kind = Set

	case pickle.Global:
		v.Kind, v.Text = Global, dotted(arg)
	case pickle.Ext1, pickle.Ext2, pickle.Ext4:
		v.Kind, v.Text = Extension, little(arg)
	case pickle.PersID:
		*v = Value{Kind: Reference, Ref: reference(&Value{Kind: OldStr, Text: string(arg)})}
	default:
		return false
	}
	return true
}

// text sets what was read, or leaves the argument that cannot be.
func (v *Value) text(kind Kind, s string, err error) {
	v.Kind = Malformed
	if err == nil {
		v.Kind, v.Text = kind, s
	}
}

func little(arg []byte) string {
	return strconv.FormatUint(binary.LittleEndian.Uint64(append(bytes.Clone(arg), make([]byte, 8)...)), 10)
}

// longestDecimal bounds the bytes of an integer that is converted to decimal
// digits: for many, that takes long.
const longestDecimal = 1000

func (v *Value) integer(op byte, arg []byte) {
	v.Kind = Int
	switch op {
	case pickle.BinInt1, pickle.BinInt2:
		v.Text = little(arg)
	case pickle.BinInt:
		v.Text = strconv.Itoa(int(int32(binary.LittleEndian.Uint32(arg))))
	case pickle.Long1, pickle.Long4:
		if n := pickle.Integer(arg); len(arg) <= longestDecimal {
			v.Text = n.String()
		} else {
			v.Text = strings.Replace("0x"+n.Text(16), "0x-", "-0x", 1)
		}
	default:
		digits := v.Text
		if op == pickle.Long {
			digits = strings.TrimSuffix(digits, "L")
		} else if digits == "00" || digits == "01" {
			v.Kind, v.Text = Bool, map[string]string{"00": "False", "01": "True"}[digits]
			return
		}
		var err error
		if d := strings.TrimPrefix(digits, "-"); d == "" || strings.Trim(d, "0123456789") != "" {
			err = pickle.ErrNumber
		}
		v.text(Int, digits, err)
	}
}

func (v *Value) float(op byte, arg []byte) {
	var f float64
	var err error
	if op == pickle.BinFloat {
		f = math.Float64frombits(binary.BigEndian.Uint64(arg))
	} else if f, err = strconv.ParseFloat(v.Text, 64); errors.Is(err, strconv.ErrRange) {
		err = nil // it is infinite, for Python too
	}
	v.text(Float, pythonFloat(f), err)
}

// pythonFloat writes a float as Python's repr does.
func pythonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64)), "+")
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// dotted is the name of the global that two lines name.
func dotted(arg []byte) string {
	return string(bytes.Replace(arg[:min(len(arg), longestName)], []byte("\n"), []byte("."), 1))
}

// namedGlobal is the global that two values name. They may be long, and may be
// used again and again.
func namedGlobal(module, name *Value) *Value {
	if !module.isText() || !name.isText() {
		return &Value{Kind: Malformed, Text: "a global of computed names"}
	}
	m, n := module.Text, name.Text
	return &Value{Kind: Global, Text: m[:min(len(m), longestName)] + "." + n[:min(len(n), longestName)]}
}
