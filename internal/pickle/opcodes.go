package pickle

// The opcodes, by their names in Python's pickletools.
const (
	Mark           = '('
	Stop           = '.'
	Pop            = '0'
	PopMark        = '1'
	Dup            = '2'
	Float          = 'F'
	Int            = 'I'
	BinInt         = 'J'
	BinInt1        = 'K'
	Long           = 'L'
	BinInt2        = 'M'
	None           = 'N'
	PersID         = 'P'
	BinPersID      = 'Q'
	Reduce         = 'R'
	String         = 'S'
	BinString      = 'T'
	ShortBinString = 'U'
	Unicode        = 'V'
	BinUnicode     = 'X'
	Append         = 'a'
	Build          = 'b'
	Global         = 'c'
	Dict           = 'd'
	EmptyDict      = '}'
	Appends        = 'e'
	Get            = 'g'
	BinGet         = 'h'
	Inst           = 'i'
	LongBinGet     = 'j'
	List           = 'l'
	EmptyList      = ']'
	Obj            = 'o'
	Put            = 'p'
	BinPut         = 'q'
	LongBinPut     = 'r'
	SetItem        = 's'
	Tuple          = 't'
	EmptyTuple     = ')'
	SetItems       = 'u'
	BinFloat       = 'G'

	// Protocol 2.
	Proto    = 0x80
	NewObj   = 0x81
	Ext1     = 0x82
	Ext2     = 0x83
	Ext4     = 0x84
	Tuple1   = 0x85
	Tuple2   = 0x86
	Tuple3   = 0x87
	NewTrue  = 0x88
	NewFalse = 0x89
	Long1    = 0x8a
	Long4    = 0x8b

	// Protocol 3.
	BinBytes      = 'B'
	ShortBinBytes = 'C'

	// Protocol 4.
	ShortBinUnicode = 0x8c
	BinUnicode8     = 0x8d
	BinBytes8       = 0x8e
	EmptySet        = 0x8f
	AddItems        = 0x90
	FrozenSet       = 0x91
	NewObjEx        = 0x92
	StackGlobal     = 0x93
	Memoize         = 0x94
	Frame           = 0x95

	// Protocol 5.
	ByteArray8     = 0x96
	NextBuffer     = 0x97
	ReadonlyBuffer = 0x98
)

// highest is the newest protocol that is known.
const highest = 5

// A shape says how an opcode's argument is written.
type shape uint8

const (
	unknown  shape = iota // no such opcode
	bare                  // no argument
	fixed1                // so many bytes
	fixed2                //
	fixed4                //
	fixed8                //
	counted1              // a length of so many bytes, least byte first, then the bytes
	counted4              //
	counted8              //
	line                  // up to a newline
	lines                 // up to the second newline
)

var shapes = [256]shape{
	Mark: bare, Stop: bare, Pop: bare, PopMark: bare, Dup: bare,
	None: bare, NewTrue: bare, NewFalse: bare,

	Int: line, Long: line, Float: line,
	BinInt1: fixed1, BinInt2: fixed2, BinInt: fixed4, BinFloat: fixed8,
	Long1: counted1, Long4: counted4,

	String: line, Unicode: line,
	ShortBinString: counted1, ShortBinBytes: counted1, ShortBinUnicode: counted1,
	BinString: counted4, BinBytes: counted4, BinUnicode: counted4,
	BinUnicode8: counted8, BinBytes8: counted8, ByteArray8: counted8,
	NextBuffer: bare, ReadonlyBuffer: bare,

	EmptyTuple: bare, Tuple: bare, Tuple1: bare, Tuple2: bare, Tuple3: bare,
	EmptyList: bare, List: bare, Append: bare, Appends: bare,
	EmptyDict: bare, Dict: bare, SetItem: bare, SetItems: bare,
	EmptySet: bare, AddItems: bare, FrozenSet: bare,

	Put: line, BinPut: fixed1, LongBinPut: fixed4, Memoize: bare,
	Get: line, BinGet: fixed1, LongBinGet: fixed4,

	Global: lines, StackGlobal: bare, Inst: lines, Obj: bare,
	NewObj: bare, NewObjEx: bare, Reduce: bare, Build: bare,
	Ext1: fixed1, Ext2: fixed2, Ext4: fixed4,
	PersID: line, BinPersID: bare,

	Proto: fixed1, Frame: fixed8,
}
