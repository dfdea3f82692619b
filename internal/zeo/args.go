package zeo

import (
	"bytes"
	"fmt"

	"s3storage/internal/zodb"
)

// count checks how many arguments there are.
func (k *call) count(lo, hi int) error {
	n := len(k.args)
	switch {
	case n >= lo && n <= hi:
		return nil
	case lo == hi:
		return &Error{classType, Tuple{fmt.Sprintf("%s() takes %d arguments, not %d", k.name, lo, n)}}
	}
	return &Error{classType, Tuple{fmt.Sprintf("%s() takes %d to %d arguments, not %d", k.name, lo, hi, n)}}
}

// wrong is the error about an argument of the wrong type.
func (k *call) wrong(i int, name, want string) error {
	return &Error{classType, Tuple{fmt.Sprintf("%s(): %s must be %s, not %s", k.name, name, want, pythonType(k.args[i]))}}
}

func pythonType(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case float64:
		return "float"
	case string:
		return "str"
	case []byte:
		return "bytes"
	case Tuple:
		return "tuple"
	case List:
		return "list"
	case Dict:
		return "dict"
	case Prefix:
		return "Prefix"
	}
	return "int"
}

func (k *call) bytes(i int, name string) ([]byte, error) {
	if b, ok := k.args[i].([]byte); ok {
		return b, nil
	}
	return nil, k.wrong(i, name, "bytes")
}

// ownData reads a record, the third argument, to be kept.
func (k *call) ownData() ([]byte, error) {
	b, err := k.bytes(2, "data")
	if err != nil || k.owned {
		return b, err
	}
	return append(make([]byte, 0, len(b)), b...), nil // never nil
}

// oid reads the first argument: no call names an object elsewhere.
func (k *call) oid() (zodb.Oid, error) {
	b, err := k.bytes(0, "oid")
	if err != nil {
		return 0, err
	}
	oid, err := zodb.OidFrom(b)
	if err != nil {
		return 0, &Error{classValue, Tuple{fmt.Sprintf("%s(): oid: %v", k.name, err)}}
	}
	return oid, nil
}

func (k *call) tid(i int) (zodb.Tid, error) {
	b, err := k.bytes(i, "tid")
	if err != nil {
		return 0, err
	}
	tid, err := zodb.TidFrom(b)
	if err != nil {
		return 0, &Error{classValue, Tuple{fmt.Sprintf("%s(): tid: %v", k.name, err)}}
	}
	return tid, nil
}

// serial reads a tid for which None may stand, meaning that of a new object, or
// a str: what was eight bytes to Python 2 is still written so in ZODB's tests.
func (k *call) serial(i int) (zodb.Tid, error) {
	switch v := k.args[i].(type) {
	case nil:
		return zodb.NoTid, nil
	case string:
		if v == "\x00\x00\x00\x00\x00\x00\x00\x00" {
			return zodb.NoTid, nil
		}
	}
	return k.tid(i)
}

// truth is what Python's bool makes of it.
func truth(v any) (value, ok bool) {
	switch v := v.(type) {
	case nil:
		return false, true
	case bool:
		return v, true
	case int64:
		return v != 0, true
	}
	return false, false
}

// meta reads tpc_begin's description of the transaction.
func (k *call) meta() (m zodb.TxnMeta, err error) {
	if m.User, err = k.text(1, "user"); err != nil {
		return m, err
	}
	if m.Description, err = k.text(2, "description"); err != nil {
		return m, err
	}
	switch ext := k.args[3].(type) {
	case nil:
	case Dict:
		if m.Extension, err = PickleDict(ext); err != nil {
			return m, err
		}
	case []byte: // a pickle already
		if _, err := UnpickleDict(ext); err != nil {
			return m, &Error{classValue, Tuple{fmt.Sprintf("%s(): extension: %v", k.name, err)}}
		}
		m.Extension = bytes.Clone(ext)
	default:
		return m, k.wrong(3, "extension", "dict")
	}
	m.Status = ' '
	if len(k.args) > 5 {
		status, err := k.text(5, "status")
		if err != nil {
			return m, err
		}
		if len(status) != 1 {
			return m, &Error{classValue, Tuple{k.name + "(): status is one character"}}
		}
		m.Status = status[0]
	}
	return m, nil
}

// text reads what some clients send as bytes and others as str.
func (k *call) text(i int, name string) ([]byte, error) {
	switch v := k.args[i].(type) {
	case []byte:
		return bytes.Clone(v), nil
	case string:
		return []byte(v), nil
	}
	return nil, k.wrong(i, name, "bytes")
}
