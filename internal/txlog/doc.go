// Package txlog is the log of a database: the one place where a transaction
// comes to exist, and the order of all of them.
//
// # Log objects
//
// The log is a sequence of objects in a bucket, numbered by slots that count
// from 1 without a gap. The object of a slot is named after the epoch, the
// reign of one leader, in which it was written:
//
//	log/<epoch>/<slot>        both as 16 hexadecimal digits
//
// It is written once, with put-if-absent, and never changed. All integers are
// big-endian.
//
//	  0   8  magic word "s3zlog\r\n"
//	  8   2  format version, 2
//	 10   2  flags, 0; a reader refuses flags that it does not know
//	 12   4  number of entries
//	 16  16  database id
//	 32   8  epoch
//	 40   8  slot
//	 48  16  put id: random, tells whose put won
//	 64  32  what follows from the objects before: see below
//	 96   8  log start: no slot below this one is needed any more
//	104   8  number of the newest checkpoint that the writer knew, 0 for none
//	112   8  settled: the writer knew that all slots up to this one stand
//	120   8  oid high-water mark: no oid at or above it was handed out
//	128   8  last tid: of the newest transaction up to and in this object
//	136      entries
//	end-32  the hash: SHA-256 of everything before
//
// An entry:
//
//	0   1  kind: 1 transaction, 2 seal, 3 base
//	1   3  zero
//	4   4  length of the body
//	8      body
//
// The body of a transaction is a head and the records:
//
//	 0   8  tid, above that of every transaction before
//	 8   1  status, ' ' in the ordinary case
//	 9   3  zero
//	12   4  number of records
//	16   4  length of the user's name
//	20   4  length of the description
//	24   4  length of the extension, a pickled dict
//	28   4  number of payload objects, at most 65536
//	32      user, description, extension
//	        ids of the payload objects, 16 bytes each
//	        4  CRC-32C of the head up to here
//	        records
//
// A record:
//
//	 0   8  oid
//	 8   8  serial of the revision that it replaces, 0 for none
//	16   1  kind: 1 data, 2 deletion, 3 data in a payload object, 4 shared data
//	17   1  flags: 1 if a blob belongs to the revision, 2 if the object existed
//	        before, and was not deleted
//	18   2  zero
//	20   4  length of the data
//	24   4  CRC-32C of bytes 0 to 23 and of what follows
//	28      with flag 1: id (16) and size (8) of the blob
//	        kind 1: the data
//	        kind 3: number of the payload object in the head's list (4),
//	        offset there (8) of a record of kind 1 with the same oid and
//	        length
//	        kind 4: serial of an earlier revision of the object whose data it
//	        shares (8)
//
// The body of a base, of which there is at most one in an object:
//
//	 0  16  id of the base that is the database's from here on
//	16   1  why, for people: 1 flush, 2 merge, 3 pack, 4 import, 5 snapshot,
//	        6 restore, others
//	17   3  zero
//
// The body of a seal:
//
//	 0   8  the next epoch
//	 8   4  n, length of the name
//	12   n  name of the node that will lead it, for people
//	12+n 4  length of the address
//	16+n    where other nodes reach it
//
// # Payload objects
//
// Transactions of more than a few MiB would make log objects slow to put. Their
// records go first, in parallel, into objects of random names,
//
//	payload/<id>              32 hexadecimal digits
//
// which the transaction then names. What no transaction names is garbage.
//
//	  0   8  magic word "s3zpay\r\n"
//	  8   2  format version, 2
//	 10   2  flags, 0
//	 12   4  number of records
//	 16  16  database id
//	 32  16  payload id
//	 48      records of kind 1
//	end-32  SHA-256 of everything before
//
// # The format object
//
// The object "format" says what the bucket holds. It is written once with
// put-if-absent, and a bucket without it holds no database:
//
//	  0   8  magic word "s3zfmt\r\n"
//	  8   2  format version, 2
//	 10   2  flags, 0
//	 12   4  n, length of the creator
//	 16  16  database id
//	 32   8  time of creation, seconds since 1970
//	 40   n  creator: name and version of the program that made it
//	 40+n 4  number of fields
//	         for each: length (4) and bytes of its name, length (4) and bytes
//	         of its value
//	end-32   SHA-256 of everything before
//
// A reader refuses fields that it does not know. There are "log", which says
// where the log is if it is in a bucket of its own, "parent", which says for
// people what this database is a branch of, and "catalog", the name of the bucket in
// the catalog that says what objects there are (package catalog). They are in this
// order, and none is empty.
//
// Where the log is in a bucket of its own, log objects, checkpoints and the hint are
// there, and nothing else of the database but the object "claim", which says whose
// log that bucket is for. It stands in both buckets, before the format does, and has
// the bytes of the format object.
//
// # Checkpoints
//
//	checkpoint/<number>       16 hexadecimal digits, from 1, without a gap
//
// is written once, with put-if-absent, and never deleted:
//
//	  0   8  magic word "s3zckp\r\n"
//	  8   2  format version, 2
//	 10   2  flags, 0
//	 12   4  zero
//	 16  16  database id
//	 32   8  number
//	 40   8  time at which it was written, seconds since 1970
//	 48  16  id of a base
//	 64   8  slot in which the log adopted it, 0 if the database began with it
//	 72      position that it accounts for: from there on the log has to be read
//	end-32   SHA-256 of everything before
//
// A position:
//
//	 0   8  epoch
//	 8   8  slot
//	16  32  hash chain up to there
//	48   8  oid high-water mark
//	56   8  last tid before
//	64   4  n, length of the name
//	68   n  name of the node that leads the epoch, for people
//	68+n 4  length of the address
//	72+n    where other nodes reach it
//
// The object "head" is a hint that names the newest checkpoint. It is written over
// and over, and may be stale, absent or damaged:
//
//	  0   8  magic word "s3zhed\r\n"
//	  8   2  format version, 2
//	 10   2  flags, 0
//	 12   4  zero
//	 16  16  database id
//	 32   8  number of the newest checkpoint
//	 40   8  epoch of the log's end
//	 48   8  settled: all slots up to this one stood
//	end-32   SHA-256 of everything before
//
// # Epochs and seals
//
// The log is what a walk finds: start at slot 1 of epoch 0, or at the position of
// a checkpoint; a seal leads to the next slot of the epoch that it names, any other
// object to the next slot of the same epoch; the first slot that is free is the
// end, unless there is a newer checkpoint.
//
// An epoch is led by the node whose seal the walk came through. Epoch 0 has no
// leader, and holds nothing but seals. A seal stands alone in its object; other
// objects may have no entries at all, and only raise the oid mark. A seal may be
// put into a slot whose predecessors are still free, and counts when the walk
// comes to it. Objects of an epoch behind the seal that the walk came through
// are not part of the log: nobody was told that they were committed.
//
// A slot that is free although the hint or an object of a later slot says that it
// was settled, and that no newer checkpoint accounts for, is a hole: an object was
// lost, and no walk goes past it.
//
// The hash chain begins with 32 zero bytes. Every object but a seal carries the
// chain up to it, and continues it with its own hash. A seal, which may be put
// before the objects of the slots before it are known, carries zero, as it does
// for the last tid and the oid mark; it continues the chain with the SHA-256 of
// what the chain was and its own hash.
//
// # Rules
//
// I1: put-if-absent is all that the log relies on. I3: a transaction exists
// exactly when its object is part of the log. I4: seals and checkpoints are never
// deleted, other log objects only before the position of a checkpoint, and a node
// leads only when it has found no newer checkpoint after its seal was part of the
// log. See doc/design.md for these, [Leader] for how a leader writes and [Open]
// for how a node becomes one.
package txlog
