package zodb

import (
	"context"
	"io"
)

// A Revision is what an object was from its Serial on.
type Revision struct {
	Data   []byte // shared: never to be changed
	Serial Tid
	Next   Tid // the serial of the revision that followed, NoTid where this one is current
}

// TxnMeta describes a transaction as the client did in tpc_begin.
type TxnMeta struct {
	User        []byte
	Description []byte
	Extension   []byte // a pickled dict of any protocol; empty stands for {}
	Status      byte   // ' ' in the ordinary case
}

// TxnInfo describes a transaction, as a whole or as far as it concerns one
// object.
type TxnInfo struct {
	Tid  Tid
	Meta TxnMeta
	Size int64 // bytes of its records' data, or of the one record's unless it shares another's
}

// Packed is the status of a transaction that a pack has gone over. It can no
// longer be undone, and records may be missing from it.
const Packed = 'p'

// Info describes a storage as get_info answers it.
type Info struct {
	Name    string
	Objects int64 // how many objects there are
	Size    int64 // bytes that the database takes up
}

// Stats counts what happened since the storage was opened.
type Stats struct {
	Loads, Stores, Commits, Aborts, Conflicts int64
	ActiveTxns                                int64 // begun, not yet finished
	Waiting                                   int64 // votes that wait for a lock
}

// A Storage keeps one database. All methods may be called from any number of
// goroutines. Errors are those of this package or wrap them; anything else is
// trouble with the medium.
type Storage interface {
	Info() Info
	Stats() Stats

	// ReadOnly returns nil where writes are taken, else an error that wraps
	// ErrReadOnly and says why not.
	ReadOnly() error

	// LastTransaction returns the tid of the newest durable transaction.
	LastTransaction() Tid

	// LoadBefore returns the newest revision of the object with a serial
	// below tid; ok is false where the object came to be only at tid or
	// later. A *POSKeyError says that the object is unknown or that the
	// revision is a deletion.
	LoadBefore(ctx context.Context, oid Oid, tid Tid) (rev Revision, ok bool, err error)

	// LoadSerial returns the data of the one revision, or a *POSKeyError.
	LoadSerial(ctx context.Context, oid Oid, serial Tid) ([]byte, error)

	// GetTid returns the current serial of the object, or a *POSKeyError.
	GetTid(ctx context.Context, oid Oid) (Tid, error)

	// History describes the transactions of at most size revisions of the
	// object, newest first, or returns a *POSKeyError.
	History(ctx context.Context, oid Oid, size int) ([]TxnInfo, error)

	// UndoLog describes transactions that can be undone, newest first. Of
	// those that match, which may be nil for all, it leaves out the first
	// ones and returns at most n.
	UndoLog(ctx context.Context, first, n int, match func(*TxnInfo) bool) ([]TxnInfo, error)

	// Iterate goes over the transactions with tids from start to stop, both
	// included, as far as they exist now.
	Iterate(start, stop Tid) TxnIterator

	// NextObject returns the first object at or after oid that exists. ok is
	// false where there is none.
	NextObject(ctx context.Context, oid Oid) (o Object, ok bool, err error)

	// NewBlob begins to take the bytes of a blob, whose object will be named
	// in StoreBlob. The upload fails when ctx is done.
	NewBlob(ctx context.Context) (BlobUpload, error)

	// LoadBlob opens the blob that was stored with the one revision, or
	// returns a *POSKeyError. The reader is for one goroutine, must be closed
	// and fails when ctx is done.
	LoadBlob(ctx context.Context, oid Oid, serial Tid) (io.ReadCloser, error)

	// Pack drops every revision that was not current at the time tid or
	// later, and every object that could not be reached from the root then
	// and is not referred to by a later revision. What was dropped can be read
	// until the storage's grace period is over. After a pack to a later time
	// there is nothing left to drop. It returns when this is durable. After an
	// error nothing was dropped, unless the error says that this will be known
	// later.
	Pack(ctx context.Context, tid Tid) error

	// Invalidations returns the oids changed by transactions after tid, each
	// once, and the tid of the newest transaction they account for; ok is
	// false where the storage cannot say, so that a client has to drop its
	// whole cache.
	Invalidations(ctx context.Context, tid Tid) (last Tid, oids []Oid, ok bool)

	// NewOids hands out n oids, none of which was ever handed out before or
	// will be again.
	NewOids(ctx context.Context, n int) ([]Oid, error)

	// Subscribe has obs told of every commit after the transaction whose tid
	// it returns, until Unsubscribe.
	Subscribe(obs Observer) Tid
	Unsubscribe(obs Observer)

	// Begin starts a transaction. Its end is not announced to origin, which
	// may be nil: origin learns of it through Finish. The transaction gets
	// the given tid, which has to lie above those of all others at the vote,
	// or one of the time of Finish if it is NoTid.
	Begin(meta TxnMeta, tid Tid, origin Observer) (Transaction, error)
}

// An Observer is told of commits, in the order of their tids and in the very
// moment in which they become visible: a load that was answered from before a
// commit has been answered before Committed is called, one that was not sees
// it (invariant I6 of doc/design.md).
type Observer interface {
	// Committed must queue what it is told and return: the storage waits. It
	// must call no method of the storage.
	Committed(c *Commit)
}

// A Commit is one durable transaction, as observers see it. It is shared and
// never changes.
type Commit struct {
	Tid  Tid
	Oids []Oid
	Info Info // after this commit
}

// An Object is the current state of an object, in the order of oids.
type Object struct {
	Oid    Oid
	Data   []byte // shared: never to be changed
	Serial Tid
	Next   Oid // the oid of the next object that exists; 0 if there is none
}

// A TxnIterator goes over transactions, oldest first. It is for one goroutine,
// and holds nothing that has to be let go of.
type TxnIterator interface {
	// Next moves to the next transaction, or returns io.EOF.
	Next(ctx context.Context) (TxnInfo, error)

	// Records goes over the records of the transaction that Next returned
	// last. It stays usable after the next Next.
	Records() RecordIterator
}

// A RecordIterator goes over the records of one transaction, in the order in
// which they were stored. It is for one goroutine.
type RecordIterator interface {
	// Next returns the next record, or io.EOF.
	Next(ctx context.Context) (Record, error)
}

// A Record is what a transaction did to one object.
type Record struct {
	Oid     Oid
	Tid     Tid
	Data    []byte // nil where it deleted the object, or undid its creation
	DataTxn Tid    // whose data it shares, if that revision is still there; else NoTid
}

// A BlobUpload takes the bytes of a blob. It is for one goroutine.
type BlobUpload interface {
	// Write may wait for the medium.
	io.Writer

	// Abort lets go of what was written. It does nothing after the blob was
	// given to StoreBlob.
	Abort()
}

// A Conflict reports an object that somebody else changed since the client
// read it. The client merges the states, stores the result on top of
// Committed and votes again.
//
// Where undo meets an object that was changed since, Read is the serial of the
// revision to be undone and Data the state before that: to merge the two
// changes is to undo the one and keep the other.
type Conflict struct {
	Oid       Oid
	Committed Tid
	Read      Tid
	Data      []byte // what the client stored, or what undo would store
}

// A Ballot is the outcome of a vote.
type Ballot struct {
	// Conflicts, if any, are for the caller to resolve.
	Conflicts []Conflict

	// Undone are the objects whose state comes from undo, which the caller
	// does not have yet.
	Undone []Oid
}

// A Transaction collects changes and commits them in two phases. Its methods
// must not be called concurrently, but for Abort, which may come at any time
// and ends a Vote that waits.
type Transaction interface {
	// Store writes a new revision of the object over the one of the given
	// serial, NoTid for a new object. It keeps data.
	Store(oid Oid, serial Tid, data []byte) error

	// StoreBlob does what Store does, and stores the blob with the revision.
	// It takes over the upload, also where it fails. A later Store of the
	// same object, which resolves a conflict, keeps the blob.
	StoreBlob(oid Oid, serial Tid, data []byte, blob BlobUpload) error

	// Delete makes the object not exist from this transaction on. The vote
	// fails with a *ConflictError unless the object has the serial then, or
	// with a *POSKeyError where it does not exist.
	Delete(oid Oid, serial Tid) error

	// Undo takes back what the transaction undone did. The vote fails with
	// a *MultipleUndoErrors if that is impossible, or with an *UndoError if
	// there is no such transaction that can be undone. Objects that were
	// changed since are conflicts, unless their state is the same again: the
	// same data, or none where the transaction left none.
	Undo(undone Tid) error

	// Restore writes a revision that was committed elsewhere, whatever the
	// object's current serial is; data is nil for a deletion. The
	// transaction's tid must have been given to Begin. If the object's
	// revision at source has the same data, it is shared; source is NoTid
	// where there is none.
	Restore(oid Oid, data []byte, source Tid) error

	// CheckCurrent makes the vote fail unless the object still has the
	// serial then.
	CheckCurrent(oid Oid, serial Tid) error

	// Vote waits until it holds the locks of the transaction's objects and
	// judges conflicts. With conflicts, no lock is held on return and the
	// transaction goes on: the caller may store again and vote again. With
	// neither conflicts nor an error, Finish will succeed for as long as
	// this node leads. An error (*ReadConflictError among others) leaves
	// only Abort to be called.
	Vote(ctx context.Context) (Ballot, error)

	// Finish commits after a Vote that succeeded. It returns at once; done
	// is called when the transaction is durable, at its place in the order
	// of all calls of Committed and under the same restrictions, or when it
	// is known that it never will be.
	Finish(done func(c *Commit, err error))

	// Abort lets go of everything. It does nothing after Finish.
	Abort()
}
