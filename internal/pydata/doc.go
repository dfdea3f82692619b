// Package pydata draws from an object's data record what a storage needs to
// know: the objects that it refers to, and the name of its class. It walks the
// opcodes of the pickles and builds none of their values; no class is looked up
// and no code runs.
//
// A record is two pickles one after the other: the class, with arguments for its
// __new__ perhaps, and the state. They share one memo. A reference is a
// persistent id in either. ZODB.serialize describes the forms:
//
//	oid                         an object
//	(oid, class)                an object
//	["w", (oid)], [oid]         a weak reference
//	["w", (oid, database)]      a weak one into another database
//	["n", (database, oid)]      an object in another database
//	["m", (database, oid, class)]
//
// Only the first two keep an object alive here, and any list is taken for one
// of the others. Inspect agrees with ZODB.serialize.referencesf wherever
// that gives an answer, or returns an error. What that fails on, and is read
// here, so that such records do not keep a database from being packed:
//
//   - strings of Python 2 that are not ASCII, oids among them;
//   - oids as Python 3 writes bytes in protocols 0 to 2: the result of
//     _codecs.encode(text, "latin1");
//   - protocols 4 and 5;
//   - records that zc.zlibstorage has compressed. They start with ".z".
//
// Anything else that cannot be read is an error, and so is a persistent id of
// any other form: to take it for no reference would make garbage of what is
// in use.
package pydata
