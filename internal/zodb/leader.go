package zodb

import "context"

// A Leader is a Storage whose log other nodes follow, and which commits
// transactions for them. Its transactions are Forwarded.
type Leader interface {
	Storage

	// FollowLog has o told of every object that this node writes to its log from
	// a slot of an epoch on, until UnfollowLog. Everything before can be read
	// from the bucket. It fails with ErrReadOnly where this node does not lead, or leads and
	// cannot write, so that another one had better lead.
	FollowLog(o LogObserver) (epoch, slot uint64, err error)
	UnfollowLog(o LogObserver)

	// LogEnd returns the slot behind the newest object that is part of the log,
	// and the newest transaction. It fails as FollowLog does.
	LogEnd() (epoch, slot uint64, last Tid, err error)

	// AwaitSent waits until it is known of everything that this node has put into
	// its log so far that it is part of it, and can be seen: other nodes may have read it
	// there before. It fails where this node does not lead any more.
	AwaitSent(ctx context.Context) error

	// AnnounceBlob says that another node is about to put a blob, which a
	// transaction will then name, so that it is not taken for garbage, until
	// ForgetBlob.
	AnnounceBlob(id [16]byte) error
	ForgetBlob(id [16]byte)
}

// A LogObserver is told of the log, as an Observer is of commits: it must queue
// what it is told, and return.
type LogObserver interface {
	// LogObject is told of the object of a slot that has become part of the log,
	// in their order. data must not be changed.
	LogObject(slot uint64, data []byte)

	// LogEnded is told that this node leads no more.
	LogEnded()
}

// A Forwarded transaction comes from another node.
type Forwarded interface {
	Transaction

	// StoreBlobOf does what StoreBlob does, with a blob of that many bytes which
	// the other node has announced and put.
	StoreBlobOf(oid Oid, serial Tid, data []byte, id [16]byte, size int64) error

	// Sequenced returns, after Finish, which tid the transaction has and in which
	// epoch it was put into the log. It is part of the database as soon as an
	// object of that epoch with that tid is part of the log, and never will be
	// when the log has come to a later epoch.
	Sequenced() (tid Tid, epoch uint64)
}

// A Synced storage follows another node.
type Synced interface {
	// Sync waits until everything is seen here that was acknowledged anywhere
	// before it was called.
	Sync(ctx context.Context) error
}
