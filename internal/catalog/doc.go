// Package catalog makes a bucket.Bucket of a store that is none by itself: one
// that knows no put-if-absent (class B of doc/design.md, section 8), or one whose
// objects become visible only some time after they were written, while a miss may
// be remembered (class C). It keeps the names of all objects in PostgreSQL, and
// their bytes until the store can be relied upon.
//
// Tp, the propagation time of a store, is how long after a write, at most, somebody
// may not see it, unless somebody asked too early. In class B it is zero.
//
// # Tables
//
// s3storage_bucket has a row for each bucket: a number, the name that the bucket
// has here, the version of these tables, Tp. s3storage_object has one for each
// object: the bucket's number and the name, the key; and
//
//	size    of the object; null while it is being streamed to the store: it is
//	        no object yet
//	data    its bytes; null if they are in the store only
//	stored  since when the store has them; null if they have to be copied there;
//	        infinity while another object is streamed over it
//	begun   when the row was made
//
// All times are those of the clock of PostgreSQL.
//
// # Invariants
//
//	C1  A name is that of an object exactly if it has a row with a size. The store
//	    is asked for no other name, and never lists anything. So whether there is an
//	    object, and who made it first, is decided by PostgreSQL alone.
//	C2  Where a row with a size has no data, the store has had the bytes for
//	    longer than Tp. So nobody looks too early.
//	C3  The copy of a row's bytes to the store, and the deletion of an object there,
//	    happen under the lock of the row. So neither undoes what came after it.
//
// # How objects move
//
// What is put at once, or is a short stream, is inserted with its bytes: the write
// is done when PostgreSQL has committed. Copiers then put it into the store and
// write down since when it is there; when Tp is over since, the bytes are forgotten
// here. That is the work of whoever has written something, and goes on with what
// others left behind, for instance because they died.
//
// A longer stream goes into the store first. Its row has no size until Tp is over:
// the write takes so much longer.
//
// So the store has everything but what was written last. The rows of a
// catalog that was lost can be made again of it (Rebuild); what was not copied yet
// is lost then. A copy that its process did not see the end of may land when the
// object was deleted or put over: it leaves an object in the store that nobody sees,
// or old bytes of one that is put over, which only a hint or a lease is.
//
// # PostgreSQL
//
// Version 14 or later, with the right to make tables, or the tables made before. No
// pooler that gives one session to several clients. Connections go to a server that
// can be written to, and ask it to have written on disk what it says is committed
// (synchronous_commit). Where a standby may take its place it has to be a
// synchronous one. While it is down, nothing can be read or written, and the
// outcome of a write that was under way is unknown, as with a store that is down.
package catalog
