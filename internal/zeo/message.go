package zeo

import (
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"

	"s3storage/internal/pickle"
)

// An Encoding is the letter of a handshake: how messages are written.
type Encoding byte

// The encodings there are.
const (
	Z5 Encoding = 'Z' // pickles
	M5 Encoding = 'M' // msgpack
)

// String returns the handshake, as both sides send it.
func (e Encoding) String() string { return string(rune(e)) + "5" }

// ParseHandshake reads what the other side answered to, or sent as, handshake.
func ParseHandshake(frame []byte) (Encoding, error) {
	switch string(frame) {
	case "Z5":
		return Z5, nil
	case "M5":
		return M5, nil
	}
	return 0, fmt.Errorf("zeo: handshake %.20q is neither Z5 nor M5", frame)
}

// The flags of a message. A call's False decodes as FlagReply and a one-way
// call's True as FlagOneWay; the name tells calls from replies.
const (
	FlagReply  = 0
	FlagOneWay = 1
	FlagError  = 2
)

// ReplyName is the name of replies, errors and heartbeats.
const ReplyName = ".reply"

// An ID is a message's id in the encoding of its connection, to be echoed. As a
// string it can be the key of a map.
type ID []byte

// Int returns the id if it is an integer, as that of every call but loadBefore.
func (e Encoding) Int(id ID) (int64, bool) {
	v, err := e.decodeValue(id)
	if err != nil {
		return 0, false
	}
	n, ok := v.(int64)
	return n, ok
}

// IntID returns the id for a call.
func (e Encoding) IntID(n int64) ID {
	if e == M5 {
		return appendMsgpackInt(nil, n)
	}
	return appendPickleInt(nil, n)
}

// A Message is a decoded frame. All that is in it may share the memory of the
// frame.
type Message struct {
	ID   ID
	Flag int64
	Name string
	Args any // a Tuple in calls, anything in replies
}

// IsReply reports whether the message is a reply, an error or a heartbeat.
func (m *Message) IsReply() bool { return m.Name == ReplyName }

// IsHeartbeat reports whether the message only shows that its sender lives.
func (m *Message) IsHeartbeat(e Encoding) bool {
	if len(m.ID) > 5 { // -1 is five bytes of pickle, one of msgpack
		return false
	}
	n, ok := e.Int(m.ID)
	return ok && n == -1
}

var errMessage = errors.New("zeo: a message is a tuple (id, flag, name, arguments)")

// Decode reads the message in a frame.
func (e Encoding) Decode(frame []byte) (Message, error) {
	v, err := e.decode(frame)
	if err != nil {
		return Message{}, err
	}
	t, ok := v.(Tuple)
	if !ok || len(t) != 4 {
		return Message{}, errMessage
	}
	m := Message{Args: t[3]}
	if m.ID, err = e.appendValue(nil, t[0]); err != nil {
		return Message{}, err
	}
	switch f := t[1].(type) {
	case bool:
		if f {
			m.Flag = FlagOneWay
		}
	case int64:
		m.Flag = f
	default:
		return Message{}, errMessage
	}
	if m.Name, ok = t[2].(string); !ok {
		return Message{}, errMessage
	}
	if _, ok := m.Args.(Tuple); !ok && !m.IsReply() {
		return Message{}, errMessage
	}
	return m, nil
}

// decode reads a whole frame, decodeValue one value without its pickle's head
// and tail.
func (e Encoding) decode(frame []byte) (any, error) {
	if e != M5 {
		return decodePickle(frame)
	}
	budget := maxValues
	v, rest, err := decodeMsgpack(frame, 0, &budget)
	if err != nil {
		return nil, fmt.Errorf("zeo: %w", err)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("zeo: %d bytes after the end of the message", len(rest))
	}
	return v, nil
}

func (e Encoding) decodeValue(b []byte) (any, error) {
	if e == M5 {
		return e.decode(b)
	}
	return decodePickle(append(b[:len(b):len(b)], pickle.Stop))
}

func (e Encoding) appendValue(b []byte, v any) ([]byte, error) {
	if e == M5 {
		return appendMsgpack(b, v)
	}
	return appendPickle(b, v)
}

// AppendCall appends the frame of a call that wants a reply. The error, here
// and below, says that args holds what cannot be sent.
func (e Encoding) AppendCall(b []byte, id ID, name string, args Tuple) ([]byte, error) {
	return e.appendMessage(b, id, false, name, args)
}

// AppendOneWay appends the frame of a call that wants none.
func (e Encoding) AppendOneWay(b []byte, name string, args Tuple) ([]byte, error) {
	return e.appendMessage(b, e.IntID(0), true, name, args)
}

// AppendReply appends the frame of a reply.
func (e Encoding) AppendReply(b []byte, id ID, value any) ([]byte, error) {
	return e.appendMessage(b, id, int64(FlagReply), ReplyName, value)
}

// AppendError appends the frame that says that the call failed.
func (e Encoding) AppendError(b []byte, id ID, err *Error) ([]byte, error) {
	return e.appendMessage(b, id, int64(FlagError), ReplyName, Tuple{err.Class, err.Args})
}

// AppendHeartbeat appends the frame that says nothing.
func (e Encoding) AppendHeartbeat(b []byte) []byte {
	b, _ = e.appendMessage(b, e.IntID(-1), int64(0), ReplyName, nil)
	return b
}

func (e Encoding) appendMessage(b []byte, id ID, flag any, name string, value any) ([]byte, error) {
	b, start := e.beginMessage(b, id, flag, name)
	b, err := e.appendValue(b, value)
	if err != nil {
		return nil, err
	}
	return e.endMessage(b, start), nil
}

// beginMessage appends a frame up to its arguments, endMessage completes it.
func (e Encoding) beginMessage(b []byte, id ID, flag any, name string) ([]byte, int) {
	b, start := beginFrame(b)
	if e == M5 {
		b = append(append(b, 0x94), id...)
	} else {
		b = append(append(b, pickle.Proto, 3, pickle.Mark), id...)
	}
	b, _ = e.appendValue(b, flag) // a bool or an integer always can be
	if e == M5 {
		return msgp.AppendString(b, name), start
	}
	return appendPickleString(b, name), start
}

func (e Encoding) endMessage(b []byte, start int) []byte {
	if e != M5 {
		b = append(b, pickle.Tuple, pickle.Stop)
	}
	return endFrame(b, start)
}

// tripleTail is how many bytes of a frame follow the last of three arguments.
func (e Encoding) tripleTail() int {
	if e == M5 {
		return 0
	}
	return len([]byte{pickle.Tuple3, pickle.Tuple, pickle.Stop})
}
