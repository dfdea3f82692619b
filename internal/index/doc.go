// Package index finds revisions: it maps an oid and a tid to the place of the
// record. [Memory] does so for what was written last, index tables for all that
// is older. A [Writer] writes a table, a [Directory] and its leaves are read.
//
// # Index tables
//
//	index/<id>                32 hexadecimal digits
//
// The id is random. A table is written once and never changed. It holds
// entries: (oid, tid, k, deleted). The revision of object oid that transaction
// tid wrote is record number k of it, counted from 0; or the transaction deleted
// the object. Entries are in the order of oids, those of one oid in the order
// of tids, and there are no two of the same oid and tid. oids are at most
// 2^63-1, tids at least 1 and at most 2^63-1, k is below 2^32.
//
// A file is a header, leaves, a directory, and a footer, with nothing between.
// All integers are big-endian, but for varints, which are those of
// encoding/binary: seven bits a byte, the lowest first. The header:
//
//	 0   8  magic word "s3zidx\r\n"
//	 8   2  format version, 1
//	10   2  flags, 0; a reader refuses flags that it does not know
//	12   4  entries of a group: 64, the only number in this version
//	16  16  database id
//	32  16  table id
//	48   4  CRC-32C of bytes 0 to 47
//
// A leaf has some thousands of entries, in at most 32768 bytes:
//
//	0  2  N, the number of entries, at least 1
//	2  1  W, the bytes of a tid in the entries, 0 to 8
//	3  1  0
//	4  8  base: the lowest tid of the leaf
//	12    the list of groups, 18 bytes for each
//	      the entries
//	   4  CRC-32C of the table id (16), the offset of the leaf in the file (8),
//	      and the leaf up to here
//
// A group is 64 entries; the last one of a leaf has what is left. In the list:
//
//	 0  8  oid of its first entry
//	 8  8  tid of its first entry
//	16  2  where its first entry lies, counted from the start of the leaf
//
// An entry is read knowing those before it in its group: for r from 0 to 7, the
// tid and the k that the last entry of rank r had. The rank of an entry is
// how many entries of the same object come before it in the group, or 7 if these
// are more. An entry is
//
//	1   tag
//	    if the step is 7: varint, to be added to the step
//	W   unless the tid is the same: the tid, less the base
//	    k, in as many bytes as the tag says
//
// and the bits of its tag are, from the lowest on
//
//	3   step: the oid is so much above that of the entry before
//	1   the object was deleted
//	1   the tid is the same as that of the last entry of this rank
//	2   k has 0, 1, 2, 4 bytes; if none, k is one more than that of the last entry
//	    of this rank if the tid is the same, else it is 0
//	1   0
//
// For the first entry of a group, the step is 0, the oid is the one in the list,
// the tid is "the same" as the one in the list, and k is 0 if it has no bytes.
//
// So a lookup takes a binary search of the list and a walk through one group,
// in the leaf as it was read. What is inserted in the order of oids takes a byte
// an entry, what is changed in any other order the tag, the tid, and k.
//
// The directory has for each leaf
//
//	    varint: how far its first oid is above that of the leaf before, or above
//	    0 for the first leaf, times two; plus one if that object has entries in
//	    the leaf before
//	8   the tid of its first entry, if so
//	2   bytes of the leaf
//
// A leaf ends with an object, unless that object's entries are too many for it.
//
// The footer has 44 bytes:
//
//	 0   4  bytes of the directory
//	 4   4  number of leaves
//	 8   8  number of entries
//	16   8  lowest tid, 0 if there are no entries
//	24   8  highest tid, 0 if there are no entries
//	32   8  highest oid, 0 if there are no entries
//	40   4  CRC-32C of the database id (16), the table id (16), the directory,
//	        and the footer up to here
//
// The size of the file, and how many bytes directory and footer have, is in
// what names the table.
package index
