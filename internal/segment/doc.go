// Package segment is the file of records: a run of transactions, immutable,
// compressed, and such that one record can be read with one read of some ten
// KiB. It does no input or output of its own.
//
// # The file
//
//	segment/<id>              32 hexadecimal digits
//
// All integers are big-endian, but for those of variable length: "varint" is a
// number without a sign, seven bits in a byte, the lowest first, as
// encoding/binary has it, in as few bytes as it can be.
//
//	  0   8  magic word "s3zseg\r\n"
//	  8   2  format version, 1
//	 10   2  flags, 0; a reader refuses flags that it does not know
//	 12   4  zero
//	 16  16  database id
//	 32  16  segment id
//	 48   4  CRC-32C of bytes 0 to 47
//	 52      data blocks
//	         header blocks
//	         reference blocks
//	         class table, one block
//	         directory
//	end-60   footer
//
// Between these there is nothing. A block is one or more frames of zstd. The
// directory has its lengths and the checksum of what is stored; a block of which
// these, or the length when it is decompressed, are not right is damaged. Each
// block can be read alone.
//
// A key names a record: the tid of its transaction and its number there, counted
// from 0 as committed. Numbers are not changed when a pack drops records, so
// there are gaps then. Keys ascend, in the file and in each kind of block.
//
// Keys are stored as the difference to another key, which lies before. The first
// key of a list or block is the difference to tid 0, number 0, which no record
// has:
//
//	varint  tid less the tid of the other
//	varint  number; where the tids are equal: number less the other's number, less 1
//
// Oids are stored as the difference to another oid, modulo 2^64, as a varint: 0
// to 2^63-1 as twice that, -1 to -2^63 as 1, 3, 5 and so on. The first of a
// block is the difference to 0.
//
// # Data blocks
//
// They have the data of all records but deletions. About 64 KiB of it, at most,
// are in one; a record of more is alone in its block. No record has more than
// 2^31-1 bytes. The block when it is decompressed:
//
//	varint  length of the head
//	        head, for each record:
//	          key, as the difference to that of the record before
//	          oid, as the difference to that of the record before
//	          varint  length of the data
//	        data of the records, one behind the other
//
// # Header blocks
//
// They say which transactions and records there are. Each has about 64 KiB, and
// at most 4 MiB. A transaction that does not fit into 128 KiB goes on in the next
// block. Its items, up to the end of the block, are of three kinds. A
// transaction begins with:
//
//	1       1
//	varint  tid less that of the transaction before in the block, or less 0
//	1       status, ' ' in the ordinary case
//	varint  number of records that it had when it was committed
//	varint  length of the user's name, at most 1 MiB
//	        user
//	varint  length of the description, at most 1 MiB
//	        description
//	varint  length of the extension, a pickled dict, at most 1 MiB
//	        extension
//
// A block that goes on with a transaction, of which the block before has at least
// one record, begins with:
//
//	1       2
//	varint  tid
//	varint  number of the record that follows
//
// A record:
//
//	1       128 and flags: 1 deletion, 2 it has a previous revision, 4 it has a
//	        source, 8 it has a blob
//	varint  number, less that of the record before in the transaction, less 1;
//	        for the first in a transaction the number, for one behind an item
//	        of kind 2 zero
//	        oid, as the difference to that of the record before in the block
//	varint  with flag 2: tid less the serial of the revision that it replaces,
//	        modulo 2^64
//	varint  without flag 1: length of the data
//	varint  with flag 4: tid less the serial of an earlier revision, which had
//	        the same data, modulo 2^64. The data is here all the same
//	16      with flag 8, never with flag 1: id of the blob
//	varint  with flag 8: size of the blob, below 2^63
//
// # Reference blocks
//
// They say what the records with data refer to, so that a pack need not read the
// data. About 64 KiB each, and at most 64 MiB. For each record with data:
//
//	        key, as the difference to that of the record before
//	varint  number of its class in the table, 0 if that is unknown
//	varint  0 if the references are unknown: the data could not be understood,
//	        or there are more than 4194304; else 1 more than their number
//	        each reference: an oid, as the difference to the reference before,
//	        be it of the same record or of one before in the block
//
// The class table numbers the names of classes from 1:
//
//	varint  number of names, at most 16384
//	        for each a varint, its length, at most 1024, and as many bytes
//
// # The directory
//
// It is compressed as the blocks are, and has at most 64 MiB without that:
//
//	varint  number of transactions
//	varint  number of records, deletions among them
//	varint  bytes of the records' data
//	varint  tid of the first transaction, 0 if there is none
//	varint  tid of the last one
//	varint  number of data blocks
//	varint  number of header blocks
//	varint  number of reference blocks
//	        for each block, in the order of the file:
//	          key of its first record, as the difference to that of the block
//	          before of the same kind. For a header block the number is 0 where
//	          it begins with the beginning of a transaction
//	          its lengths
//	        lengths of the class table
//
// Lengths are:
//
//	varint  bytes that are stored
//	varint  bytes when they are decompressed: at least 1, at most 32768 times
//	        the stored ones
//	4       CRC-32C of what is stored
//
// The footer ends the file:
//
//	 0   8  magic word "s3zend\r\n"
//	 8   2  format version, 1
//	10   2  flags, 0
//	12   4  bytes of the directory, as they are stored
//	16  16  database id
//	32  16  segment id
//	48   4  bytes of the directory when they are decompressed
//	52   4  CRC-32C of the directory, as it is stored
//	56   4  CRC-32C of bytes 0 to 55 of the footer
//
// So the directory and the footer can be read alone, by who knows how long they
// are: see [Info].
package segment
