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
	classMultipleUndo = "ZODB.POSException.MultipleUndoErrors"
	classType         = "builtins.TypeError"
	classKey          = "builtins.KeyError"

	classUndo        = "ZODB.POSException.UndoError"
	classException   = "builtins.Exception"
	classValue       = "builtins.ValueError"
	classStorage     = "ZODB.POSException.StorageError"
	classUnsupported = "ZODB.POSException.Unsupported"
)

// ErrorFrom returns the exception that tells a client of err. It is err itself
// where that is an *Error.
func ErrorFrom(err error) *Error {
	var own *Error
	var key *zodb.POSKeyError
	var readConflict *zodb.ReadConflictError
	var conflict *zodb.ConflictError
	var undo *zodb.UndoError
	var undos *zodb.MultipleUndoErrors
	var state *zodb.TransactionError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &key):
		return &Error{classPOSKey, Tuple{key.Oid}}
	case errors.As(err, &readConflict):
		return conflictError(classReadConflict, "database read conflict error", zodb.ConflictError(*readConflict))
	case errors.As(err, &conflict):
		return conflictError(classConflict, "database conflict error", *conflict)
	case errors.As(err, &undo):
		return &Error{classUndo, Dict{{"_reason", undo.Reason}, {"_oid", nil}}}
	case errors.As(err, &undos):
		errs := List{}
		for _, e := range undos.Errs {
			errs = append(errs, Tuple{e.Oid, e.Reason})
		}
		return &Error{classMultipleUndo, Dict{{"_errs", errs}}}
	case errors.Is(err, zodb.ErrNotCommitted):
		// Of what clients build anew, this is what makes them try again.
		return &Error{classConflict, Dict{{"message", err.Error()}, {"oid", nil}, {"class_name", nil}, {"serials", nil}}}
	case errors.As(err, &state):
		return &Error{classTransaction, Tuple{state.Reason}}
	case errors.Is(err, zodb.ErrReadOnly):
		return &Error{classReadOnly, Tuple{err.Error()}}
	case errors.Is(err, zodb.ErrUnsupported):
		return &Error{classUnsupported, Tuple{err.Error()}}
	}
	return &Error{classStorage, Tuple{err.Error()}}
}

func conflictError(class, message string, e zodb.ConflictError) *Error {
	return &Error{class, Dict{
		{"message", message},
		{"oid", e.Oid},
		{"class_name", nil},
		{"serials", Tuple{e.Committed, e.Read}},
	}}
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
		switch class {
		case classReadConflict:
			if e, ok := conflictAttributes(a); ok {
				return (*zodb.ReadConflictError)(&e)
			}
		case classConflict:
			if e, ok := conflictAttributes(a); ok {
				return &e
			}
			if oid, _ := a.Get("oid"); oid == nil {
				return zodb.ErrNotCommitted
			}
		case classUndo:
			reason, _ := a.Get("_reason")
			return &zodb.UndoError{Reason: fmt.Sprint(reason)}
		case classMultipleUndo:
			if e, ok := undoAttributes(a); ok {
				return &e
			}
		}
	}
	return own
}

func conflictAttributes(d Dict) (e zodb.ConflictError, ok bool) {
	oid, _ := d.Get("oid")
	serials, _ := d.Get("serials")
	o, ok1 := oid.([]byte)
	s, ok2 := serials.(Tuple)
	if !ok1 || !ok2 || len(s) != 2 {
		return e, false
	}
	s0, ok1 := s[0].([]byte)
	s1, ok2 := s[1].([]byte)
	if !ok1 || !ok2 {
		return e, false
	}
	var err0, err1, err2 error
	e.Oid, err0 = zodb.OidFrom(o)
	e.Committed, err1 = zodb.TidFrom(s0)
	e.Read, err2 = zodb.TidFrom(s1)
	return e, err0 == nil && err1 == nil && err2 == nil
}

func undoAttributes(d Dict) (e zodb.MultipleUndoErrors, ok bool) {
	errs, _ := d.Get("_errs")
	for _, v := range itemsOf(errs) {
		pair, _ := v.(Tuple)
		if len(pair) != 2 {
			return e, false
		}
		oid, err := oidOf(pair[0])
		if err != nil {
			return e, false
		}
		e.Errs = append(e.Errs, zodb.ObjectUndoError{Oid: oid, Reason: fmt.Sprint(pair[1])})
	}
	return e, len(e.Errs) > 0
}
