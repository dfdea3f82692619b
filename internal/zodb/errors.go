package zodb

import (
	"errors"
	"fmt"
)

// Errors about the state that a storage is in.
var (
	// ErrReadOnly refuses a write because the storage, the server or the
	// connection does not take writes. Errors that wrap it say which and why.
	ErrReadOnly = errors.New("read-only")

	// ErrClosed refuses work on a storage that was closed.
	ErrClosed = errors.New("storage is closed")

	// ErrNotCommitted says that a transaction was not committed, for no fault of
	// its own, and can be tried again as it is.
	ErrNotCommitted = errors.New("the transaction was not committed; try it again")

	// ErrOutcomeUnknown says that it is not known whether a transaction was
	// committed.
	ErrOutcomeUnknown = errors.New("it is not known whether the transaction was committed")

	// ErrUnsupported refuses a call that this storage does not offer.
	ErrUnsupported = errors.New("not supported by this storage")

	// ErrCorrupt is the class of all damage found in stored bytes. Errors
	// that wrap it name the object of the bucket and the offset.
	ErrCorrupt = errors.New("damaged")

	// ErrNewerFormat is the class of errors about files that a newer version
	// of this program wrote.
	ErrNewerFormat = errors.New("written by a newer version of s3storage")
)

// A POSKeyError reports an object, or a revision of it, that does not exist.
type POSKeyError struct{ Oid Oid }

func (e *POSKeyError) Error() string { return fmt.Sprintf("no object %s", e.Oid) }

// A ReadConflictError reports that an object which the transaction relied upon
// (checkCurrentSerialInTransaction) is no longer what it was.
type ReadConflictError struct {
	Oid       Oid
	Committed Tid // the serial that the object has now
	Read      Tid // the serial that the client has seen
}

func (e *ReadConflictError) Error() string {
	return fmt.Sprintf("read conflict on object %s: client has read %s, committed is %s", e.Oid, e.Read, e.Committed)
}

// A ConflictError reports an object that somebody else changed since the client
// read it, in a way that no client can resolve.
type ConflictError struct {
	Oid       Oid
	Committed Tid // the serial that the object has now
	Read      Tid // the serial that the client has seen
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("conflict on object %s: client has read %s, committed is %s", e.Oid, e.Read, e.Committed)
}

// An UndoError says why a transaction cannot be undone: ZODB's UndoError.
type UndoError struct{ Reason string }

func (e *UndoError) Error() string { return e.Reason }

// A MultipleUndoErrors says for each object why its change cannot be undone.
type MultipleUndoErrors struct{ Errs []ObjectUndoError }

// An ObjectUndoError is the part of a MultipleUndoErrors about one object.
type ObjectUndoError struct {
	Oid    Oid
	Reason string
}

func (e *MultipleUndoErrors) Error() string {
	return fmt.Sprintf("cannot undo the changes of %d objects, the first is %s: %s", len(e.Errs), e.Errs[0].Oid, e.Errs[0].Reason)
}

// A TransactionError reports a call that does not fit the state of its
// transaction: ZODB's StorageTransactionError.
type TransactionError struct{ Reason string }

func (e *TransactionError) Error() string { return e.Reason }
