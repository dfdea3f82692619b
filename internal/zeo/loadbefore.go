package zeo

import (
	"bytes"
	"encoding/binary"

	"github.com/tinylib/msgp/msgp"

	"s3storage/internal/pickle"
	"s3storage/internal/zodb"
)

// This file is the hot path: the calls of loadBefore and their replies, byte by
// byte in the one shape in which stock clients and servers write them. Each
// function says no to any other shape, which then goes through Decode.

// loadShape is how an encoding writes the call: head, id, name, arguments, tail.
// The id and the arguments are the same pair of 8-byte strings.
type loadShape struct {
	head, pair, between, pairEnd, callName, tail string
	reply                                        string // from after the id up to the value
	triple, tripleEnd                            string
	none                                         string
}

var (
	shapeZ = loadShape{
		head:     "\x80\x03(",
		between:  "C\x08",
		pairEnd:  "\x86",
		callName: "\x89X\x0a\x00\x00\x00loadBefore",
		tail:     "t.",
		reply:    "K\x00X\x06\x00\x00\x00.reply",

		tripleEnd: "\x87",
		none:      "N",
	}
	shapeM = loadShape{
		head:     "\x94",
		pair:     "\x92",
		between:  "\xc4\x08",
		callName: "\xc2\xaaloadBefore",
		reply:    "\x00\xa6.reply",

		triple: "\x93",
		none:   "\xc0",
	}
)

func (e Encoding) shape() *loadShape {
	if e == M5 {
		return &shapeM
	}
	return &shapeZ
}

// LoadID returns the id that stock clients give to a loadBefore.
func (e Encoding) LoadID(oid zodb.Oid, tid zodb.Tid) ID {
	return e.shape().appendPair(make([]byte, 0, 21), oid, tid)
}

// cut takes a constant off the front of a frame.
func cut(b []byte, s string) ([]byte, bool) {
	if len(b) < len(s) || string(b[:len(s)]) != s {
		return b, false
	}
	return b[len(s):], true
}

func (s *loadShape) appendPair(b []byte, oid zodb.Oid, tid zodb.Tid) []byte {
	b = append(b, s.pair...)
	b = append(b, s.between...)
	b = binary.BigEndian.AppendUint64(b, uint64(oid))
	b = append(b, s.between...)
	b = binary.BigEndian.AppendUint64(b, uint64(tid))
	return append(b, s.pairEnd...)
}

// cutPair takes a pair off the front of b.
func (s *loadShape) cutPair(b []byte) (oid zodb.Oid, tid zodb.Tid, rest []byte, ok bool) {
	n := len(s.pair) + 2*(2+8) + len(s.pairEnd)
	if len(b) < n {
		return 0, 0, nil, false
	}
	p := b[len(s.pair):]
	if string(b[:len(s.pair)]) != s.pair ||
		string(p[:2]) != s.between || string(p[10:12]) != s.between ||
		string(p[20:20+len(s.pairEnd)]) != s.pairEnd {
		return 0, 0, nil, false
	}
	return zodb.Oid(binary.BigEndian.Uint64(p[2:])), zodb.Tid(binary.BigEndian.Uint64(p[12:])), b[n:], true
}

// AppendLoadBefore appends the frame of the call of loadBefore.
func (e Encoding) AppendLoadBefore(b []byte, oid zodb.Oid, tid zodb.Tid) []byte {
	s := e.shape()
	b, start := beginFrame(b)
	b = append(b, s.head...)
	b = s.appendPair(b, oid, tid)
	b = append(b, s.callName...)
	b = s.appendPair(b, oid, tid)
	b = append(b, s.tail...)
	return endFrame(b, start)
}

// DecodeLoadBefore reads a frame that AppendLoadBefore, or a stock client,
// wrote. The id shares the memory of the frame. ok is false for every other
// frame.
func (e Encoding) DecodeLoadBefore(frame []byte) (id ID, oid zodb.Oid, tid zodb.Tid, ok bool) {
	s := e.shape()
	b, ok := cut(frame, s.head)
	if !ok {
		return nil, 0, 0, false
	}
	id = b
	oid, tid, b, ok = s.cutPair(b)
	if !ok {
		return nil, 0, 0, false
	}
	id = id[:len(id)-len(b)]
	if b, ok = cut(b, s.callName); !ok {
		return nil, 0, 0, false
	}
	// The arguments repeat the id.
	if len(b) != len(id)+len(s.tail) || !bytes.Equal(b[:len(id)], id) || string(b[len(id):]) != s.tail {
		return nil, 0, 0, false
	}
	return id, oid, tid, true
}

// AppendLoadBeforeReply appends the frame that answers a loadBefore with rev, or
// with None where ok is false.
func (e Encoding) AppendLoadBeforeReply(b []byte, id ID, rev zodb.Revision, ok bool) []byte {
	s := e.shape()
	b, start := beginFrame(b)
	b = append(b, s.head...)
	b = append(b, id...)
	b = append(b, s.reply...)
	b = e.appendRevision(b, rev, ok)
	b = append(b, s.tail...)
	return endFrame(b, start)
}

// appendRevision appends (data, serial, end or None), or None.
func (e Encoding) appendRevision(b []byte, rev zodb.Revision, ok bool) []byte {
	s := e.shape()
	if !ok {
		return append(b, s.none...)
	}
	b = append(b, s.triple...)
	if e == M5 {
		b = msgp.AppendBytes(b, rev.Data)
	} else {
		b = appendPickleBytes(b, rev.Data)
	}
	b = append(b, s.between...)
	b = binary.BigEndian.AppendUint64(b, uint64(rev.Serial))
	if rev.Next == zodb.NoTid {
		b = append(b, s.none...)
	} else {
		b = append(b, s.between...)
		b = binary.BigEndian.AppendUint64(b, uint64(rev.Next))
	}
	return append(b, s.tripleEnd...)
}

// A LoadReply is the answer to a loadBefore.
type LoadReply struct {
	Oid  zodb.Oid // with Tid, the id of the call
	Tid  zodb.Tid
	Rev  zodb.Revision // Data shares the memory of the frame
	None bool
}

// DecodeLoadBeforeReply reads a frame that AppendLoadBeforeReply, or the
// reference server, wrote. ok is false for every other, errors among them.
func (e Encoding) DecodeLoadBeforeReply(frame []byte) (r LoadReply, ok bool) {
	s := e.shape()
	b, ok := cut(frame, s.head)
	if !ok {
		return r, false
	}
	if r.Oid, r.Tid, b, ok = s.cutPair(b); !ok {
		return r, false
	}
	if b, ok = cut(b, s.reply); !ok {
		return r, false
	}
	if string(b) == s.none+s.tail {
		r.None = true
		return r, true
	}
	if b, ok = cut(b, s.triple); !ok {
		return r, false
	}
	if r.Rev.Data, b, ok = e.cutBytes(b); !ok {
		return r, false
	}
	var id uint64
	if id, b, ok = s.cutID(b); !ok {
		return r, false
	}
	r.Rev.Serial = zodb.Tid(id)
	if rest, none := cut(b, s.none); none {
		b = rest
	} else {
		if id, b, ok = s.cutID(b); !ok {
			return r, false
		}
		r.Rev.Next = zodb.Tid(id)
	}
	if b, ok = cut(b, s.tripleEnd); !ok {
		return r, false
	}
	return r, string(b) == s.tail
}

func (s *loadShape) cutID(b []byte) (uint64, []byte, bool) {
	if len(b) < 10 || string(b[:2]) != s.between {
		return 0, b, false
	}
	return binary.BigEndian.Uint64(b[2:]), b[10:], true
}

// cutBytes takes a byte string off the front of b.
func (e Encoding) cutBytes(b []byte) (data, rest []byte, ok bool) {
	if len(b) < 5 { // all that is looked for is longer
		return nil, b, false
	}
	var n, head uint64
	switch {
	case e == M5 && b[0] == 0xc4:
		n, head = uint64(b[1]), 2
	case e == M5 && b[0] == 0xc5:
		n, head = uint64(binary.BigEndian.Uint16(b[1:])), 3
	case e == M5 && b[0] == 0xc6:
		n, head = uint64(binary.BigEndian.Uint32(b[1:])), 5
	case e == Z5 && b[0] == pickle.ShortBinBytes:
		n, head = uint64(b[1]), 2
	case e == Z5 && b[0] == pickle.BinBytes:
		n, head = uint64(binary.LittleEndian.Uint32(b[1:])), 5
	default:
		return nil, b, false
	}
	end := head + n
	if end > uint64(len(b)) {
		return nil, b, false
	}
	return b[head:end:end], b[end:], true
}
