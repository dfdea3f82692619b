package bucket

import "fmt"

// MaxName is the length of the longest name of an object.
const MaxName = 200

// CheckName returns nil if an object can have that name by the rules in the
// package comment, and otherwise an error that wraps ErrBadName. Every Bucket
// calls it before it does anything.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > MaxName {
		return fmt.Errorf("%w: %d bytes, not 1 to %d", ErrBadName, len(name), MaxName)
	}
	start := true // at the first byte of an element
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			start = false
		case c == '.' && !start:
		case c == '.':
			return fmt.Errorf("%w: an element of %q begins with a dot", ErrBadName, name)
		case c == '/' && start:
			return fmt.Errorf("%w: an element of %q is empty", ErrBadName, name)
		case c == '/':
			start = true
		default:
			return fmt.Errorf("%w: %q has a byte that is none of a-z 0-9 - _ . /", ErrBadName, name)
		}
	}
	if start {
		return fmt.Errorf("%w: %q ends with a slash", ErrBadName, name)
	}
	return nil
}

// A Kind is one of the operations of a Bucket, for those who count, delay or
// disturb them.
type Kind uint8

// The operations.
const (
	KindPutIfAbsent Kind = iota
	KindPut
	KindPutStream
	KindGet
	KindGetRange
	KindList
	KindDelete
	KindNow
	KindCleanUp
	NumKinds = iota
)

var kindNames = [NumKinds]string{"put-if-absent", "put", "put-stream", "get", "get-range", "list", "delete", "now", "clean-up"}

// String returns the word that Error.Op holds.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of Kind.String.
func ParseKind(s string) (Kind, error) {
	for k, name := range kindNames {
		if s == name {
			return Kind(k), nil
		}
	}
	return 0, fmt.Errorf("%q is no operation of a bucket: want one of %q", s, kindNames)
}

// NewError returns an *Error about one operation on one object.
func NewError(b Bucket, k Kind, name string, err error) error {
	return &Error{Op: k.String(), Location: b.Properties().Location, Name: name, Err: err}
}

// CheckRange returns an error unless these are arguments for GetRange.
func CheckRange(offset, n int64) error {
	if offset < 0 || n <= 0 {
		return fmt.Errorf("no range of an object: %d bytes from %d on", n, offset)
	}
	return nil
}
