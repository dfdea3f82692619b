package zodb

import "context"

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

// A HistoryEntry describes one revision of an object.
type HistoryEntry struct {
	Tid  Tid
	Meta TxnMeta
	Size int64 // bytes of the record's data
}

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

	// History describes at most size revisions, newest first, or returns a
	// *POSKeyError.
	History(ctx context.Context, oid Oid, size int) ([]HistoryEntry, error)

	// Invalidations returns the oids changed by transactions after tid, each
	// once, and the tid of the newest transaction they account for; ok is
	// false where the storage cannot say, so that a client has to drop its
	// whole cache.
	Invalidations(tid Tid) (last Tid, oids []Oid, ok bool)

	// NewOids hands out n oids, none of which was ever handed out before or
	// will be again.
	NewOids(ctx context.Context, n int) ([]Oid, error)

	// Subscribe has obs told of every commit after the transaction whose tid
	// it returns, until Unsubscribe.
	Subscribe(obs Observer) Tid
	Unsubscribe(obs Observer)

	// Begin starts a transaction. Its end is not announced to origin, which
	// may be nil: origin learns of it through Finish.
	Begin(meta TxnMeta, origin Observer) (Transaction, error)
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

// A Conflict reports an object that somebody else changed since the client
// read it. The client merges the states, stores the result on top of
// Committed and votes again.
type Conflict struct {
	Oid       Oid
	Committed Tid
	Read      Tid
	Data      []byte // what the client stored
}

// A Transaction collects changes and commits them in two phases. Its methods
// must not be called concurrently, but for Abort, which may come at any time
// and ends a Vote that waits.
type Transaction interface {
	// Store writes a new revision of the object over the one of the given
	// serial, NoTid for a new object. It keeps data.
	Store(oid Oid, serial Tid, data []byte) error

	// CheckCurrent makes the vote fail unless the object still has the
	// serial then.
	CheckCurrent(oid Oid, serial Tid) error

	// Vote waits until it holds the locks of the transaction's objects and
	// judges conflicts. With conflicts, no lock is held on return and the
	// transaction goes on: the caller may store again and vote again. With
	// neither conflicts nor an error, Finish will succeed for as long as
	// this node leads. An error (*ReadConflictError among others) leaves
	// only Abort to be called.
	Vote(ctx context.Context) ([]Conflict, error)

	// Finish commits after a Vote that succeeded. It returns at once; done
	// is called when the transaction is durable, at its place in the order
	// of all calls of Committed and under the same restrictions, or when it
	// is known that it never will be.
	Finish(done func(c *Commit, err error))

	// Abort lets go of everything. It does nothing after Finish.
	Abort()
}
