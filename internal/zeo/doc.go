// Package zeo speaks the ZEO 5 protocol: its messages, and a server that
// offers zodb.Storages to stock Python clients.
//
// # Frames
//
//	 0      4
//	+------+----------------+
//	| size | size bytes ... |      size: uint32, big-endian
//	+------+----------------+
//
// A frame carries one message. Only those that carry a record are long: as long
// as the pickle of its object. A blob comes and goes in chunks of 59,000 bytes.
// A transaction of any size is a sequence of such frames. FrameReader refuses a
// longer frame than its limit before it reserves anything, and reserves memory
// for a long frame only as its bytes arrive.
//
// # Handshake
//
// TLS, where there is any, starts at the first byte; a client with a certificate
// shows it there.
//
// The server sends the frame "Z5" (messages are pickles) or "M5" (messages are
// msgpack). The client answers with the letter it wants and the version; what
// it answers counts. A client whose first frame is "ruok" gets one frame of
// JSON, the status of every storage by name, and is disconnected.
//
// # Messages
//
// A message is the 4-tuple (id, flag, name, args).
//
//	call            (id,   False, name,     (arg, ...))
//	one-way call    (0,    True,  name,     (arg, ...))
//	reply           (id,   0,     ".reply", value)
//	error           (id,   2,     ".reply", ("module.Class", attributes or arguments))
//	heartbeat       (-1,   0,     ".reply", None)
//
// The id is the caller's own and is echoed unseen. A loadBefore has its two
// arguments as id, the tuple (oid, tid).
//
// # Values
//
// The same small set of values travels in both encodings:
//
//	Python         Go                 Z5                          M5
//	None           nil                NONE                        nil
//	bool           bool               NEWTRUE, NEWFALSE           bool
//	int            int64, *big.Int    BININT*, LONG1, LONG4       int (64 bits)
//	float          float64            BINFLOAT                    float64
//	str            string             BINUNICODE                  str
//	bytes          []byte             SHORT_BINBYTES, BINBYTES    bin
//	tuple          Tuple              TUPLE*                      array
//	list           List               EMPTY_LIST APPEND(S)        array (decodes as Tuple)
//	dict           Dict               EMPTY_DICT SETITEM(S)       map
//	ZopeUndo Prefix Prefix            NEWOBJ BUILD                -
//
// Z5 is written as ZEO's own pickler writes it: protocol 3 and no memo. It is
// read in any of the protocols 0 to 5, as far as plain data goes. A pickle can
// name a class; the decoder builds none, and refuses each but those that only
// wrap plain data (see globals in pickle_global.go).
//
// A decoder bounds what it builds: maxDepth levels, maxValues values (counting
// a shared value as often as it is referred to), integers of maxIntBytes.
package zeo
