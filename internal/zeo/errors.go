package zeo

import (
	"errors"
	"fmt"

	"s3storage/internal/zodb"
)

// An Error is an exception on its way over the wire.
type Error struct {
	Class string // module.Class
	Args  any    // a Tuple of arguments, or a Dict of attributes
}

func (e *Error) Error() string {
	if t, ok := e.Args.(Tuple); ok && len(t) == 1 {
		if s, ok := t[0].(string); ok {
			return e.Class + ": " + s
		}
	}
	return fmt.Sprintf("%s: %v", e.Class, e.Args)
}

// The classes that are sent. Stock clients build those of the first group anew;
// the others reach the caller as a ServerException that shows the text.
const (
	classPOSKey       = "ZODB.POSException.POSKeyError"
	classReadOnly     = "ZODB.POSException.ReadOnlyError"
	classReadConflict = "ZODB.POSException.ReadConflictError"
	classConflict     = "ZODB.POSException.ConflictError"
	classTransaction  = "ZODB.POSException.StorageTransactionError"
	classType         = "builtins.TypeError"

	classValue       = "builtins.ValueError"
	classStorage     = "ZODB.POSException.StorageError"
	classUnsupported = "ZODB.POSException.Unsupported"
)

// ErrorFrom returns the exception that tells a client of err. It is err itself
// where that is an *Error.
func ErrorFrom(err error) *Error {
	var own *Error
	var key *zodb.POSKeyError
	var conflict *zodb.ReadConflictError
	var state *zodb.TransactionError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &key):
		return &Error{classPOSKey, Tuple{key.Oid}}
	case errors.As(err, &conflict):
		return &Error{classReadConflict, Dict{
			{"message", "database read conflict error"},
			{"oid", conflict.Oid},
			{"class_name", nil},
			{"serials", Tuple{conflict.Committed, conflict.Read}},
		}}
	case errors.As(err, &state):
		return &Error{classTransaction, Tuple{state.Reason}}
	case errors.Is(err, zodb.ErrReadOnly):
		return &Error{classReadOnly, Tuple{err.Error()}}
	case errors.Is(err, zodb.ErrUnsupported):
		return &Error{classUnsupported, Tuple{err.Error()}}
	}
	return &Error{classStorage, Tuple{err.Error()}}
}

// AsError reads the arguments of a message whose flag is FlagError: an error of
// package zodb where there is one for it, else an *Error.
func AsError(args any) error {
	t, ok := args.(Tuple)
	if !ok || len(t) != 2 {
		return fmt.Errorf("zeo: malformed error %v", args)
	}
	class, ok := t[0].(string)
	if !ok {
		return fmt.Errorf("zeo: malformed error %v", args)
	}
	own := &Error{Class: class, Args: t[1]}
	switch a := t[1].(type) {
	case Tuple:
		switch class {
		case classPOSKey:
			if len(a) == 0 {
				break
			}
			// A blob that is missing is ("text", oid, serial).
			for _, v := range a {
				if b, ok := v.([]byte); ok {
					if oid, err := zodb.OidFrom(b); err == nil {
						return &zodb.POSKeyError{Oid: oid}
					}
				}
			}
		case classReadOnly:
			if len(a) == 1 {
				return fmt.Errorf("%w: %v", zodb.ErrReadOnly, a[0])
			}
			return zodb.ErrReadOnly
		case classUnsupported:
			if len(a) == 1 {
				return fmt.Errorf("%w: %v", zodb.ErrUnsupported, a[0])
			}
		case classTransaction:
			if len(a) == 1 {
				return &zodb.TransactionError{Reason: fmt.Sprint(a[0])}
			}
			return &zodb.TransactionError{Reason: fmt.Sprint(a...)}
		}
	case Dict:
		if class != classReadConflict {
			break
		}
		var e zodb.ReadConflictError
		if conflictAttributes(a, &e) {
			return &e
		}
	}
	return own
}

func conflictAttributes(d Dict, e *zodb.ReadConflictError) bool {
	oid, _ := d.Get("oid")
	serials, _ := d.Get("serials")
	o, ok1 := oid.([]byte)
	s, ok2 := serials.(Tuple)
	if !ok1 || !ok2 || len(s) != 2 {
		return false
	}
	s0, ok1 := s[0].([]byte)
	s1, ok2 := s[1].([]byte)
	if !ok1 || !ok2 {
		return false
	}
	var err0, err1, err2 error
	e.Oid, err0 = zodb.OidFrom(o)
	e.Committed, err1 = zodb.TidFrom(s0)
	e.Read, err2 = zodb.TidFrom(s1)
	return err0 == nil && err1 == nil && err2 == nil
}
