// Package filestorage reads and writes the files of ZODB's FileStorage
// (Data.fs), and the blob directories beside them. It knows neither buckets nor
// engines. What it does follows ZODB.FileStorage and ZODB.blob; the words are
// theirs.
//
// A Reader goes over the transactions of a file, a Writer makes or continues
// one, BlobDir is a directory of blobs.
//
// # The file
//
// Numbers are big-endian. The file begins with four bytes, FS30, or FS21 where
// Python 2 wrote it. The rest is transactions, one after the other, with
// ascending tids:
//
//	8 tid
//	8 length: of the transaction without the 8 bytes at its end
//	1 status: ' ' or 'p' (packed: records may be missing, it cannot be undone)
//	          'c' being written; it is the last one
//	          'u' undone, in old files: does not count
//	2 length of the user name
//	2 length of the description
//	2 length of the extension
//	  user name, description, extension (a pickled dict, or nothing)
//	  records
//	8 length, again
//
// A record:
//
//	8 oid
//	8 tid
//	8 position of the record that the object had before, or 0
//	8 position of the transaction that the record belongs to
//	2 0; in files of before 2009 the length of the name of a version
//	8 length of the data
//	  data; or, where that length is 0, eight bytes:
//	8 position of an earlier record of the object that has the same data, or 0
//	  where the object does not exist from here on
//
// The position that stands instead of data is a back pointer. Undo writes them.
// The record that one points to may have a back pointer in turn, or be one
// of no object.
//
// FileStorage commits so: it writes the whole transaction with status 'c' at
// the vote, and overwrites the status at the end. When it opens a file it cuts
// off a transaction with status 'c' or one that the file ends in.
//
// Pack writes a new file, renames the old one to NAME.old and the new one to
// NAME. What it keeps of the time before it gets status 'p', its records have
// no back pointers and no previous record.
package filestorage
