package zeo

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"s3storage/internal/pickle"
	"s3storage/internal/zodb"
)

// Each of these is something no correct client sends. The server hangs up, says
// why in its log, and another client does not notice.
func TestWhatBreaksTheProtocolEndsTheConnection(t *testing.T) {
	oid, tid := zodb.Oid(1), zodb.Tid(1)
	frame := func(payload string) func(*peer) {
		return func(p *peer) { p.send(AppendFrame(nil, []byte(payload))) }
	}
	raw := func(v any) func(*peer) {
		return func(p *peer) {
			b, err := p.enc.appendValue(nil, v)
			if err != nil {
				p.t.Fatal(err)
			}
			if p.enc == Z5 {
				b = append(append([]byte{pickle.Proto, 3}, b...), pickle.Stop)
			}
			p.send(AppendFrame(nil, b))
		}
	}
	tell := func(name string, args ...any) func(*peer) { return func(p *peer) { p.tell(name, args...) } }
	ask := func(name string, args ...any) func(*peer) { return func(p *peer) { p.ask(name, args...) } }
	begun := func(then func(*peer)) func(*peer) {
		return func(p *peer) {
			p.begin(5)
			then(p)
		}
	}
	both := []Encoding{Z5, M5}
	for _, c := range []struct {
		name string
		encs []Encoding
		do   func(*peer)
		log  string
	}{
		{"an empty frame", both, frame(""), "too "},
		{"a long frame", both, func(p *peer) { p.send([]byte{0x7f, 0xff, 0xff, 0xff}) }, "over the limit"},
		{"the longest frame", both, func(p *peer) { p.send([]byte{0xff, 0xff, 0xff, 0xff}) }, "over the limit"},
		{"noise", both, frame("\xc1\x02\x03"), "is not taken"},
		{"half a pickle", []Encoding{Z5}, frame("\x80\x03(K\x01"), "ends too early"},
		{"half a msgpack", []Encoding{M5}, frame("\x94\x01\xc2"), "too few"},
		{"bytes after a pickle", []Encoding{Z5}, frame("\x80\x03(K\x01\x89X\x04\x00\x00\x00ping)t.."), "after the end"},
		{"bytes after a msgpack", []Encoding{M5}, frame("\x94\x01\xc2\xa4ping\x90\x00"), "after the end"},
		{"a pickle with a global", []Encoding{Z5}, frame("\x80\x03(K\x01\x89X\x04\x00\x00\x00pingcos\nsystem\nX\x04\x00\x00\x00true\x85Rt."), `mentions \"system\" of module \"os\"`},
		{"a pickle with a hidden global", []Encoding{Z5}, frame("\x80\x04\x8c\x02os\x8c\x06system\x93."), `mentions \"system\" of module \"os\"`},
		{"a msgpack extension", []Encoding{M5}, frame("\x94\x01\xc2\xa4ping\x91\xd4\x01\x00"), "is not taken"},
		{"a msgpack array that promises too much", []Encoding{M5}, frame("\x94\x01\xc2\xa4ping\xdd\xff\xff\xff\xff"), "too few"},
		{"a msgpack map that promises too much", []Encoding{M5}, frame("\x94\x01\xc2\xa4ping\xdf\xff\xff\xff\xff"), "too few"},
		{"a msgpack of many levels", []Encoding{M5}, frame("\x94\x01\xc2\xa4ping" + strings.Repeat("\x91", 5000) + "\xc0"), "levels"},
		{"a str that is none", []Encoding{M5}, frame("\x94\x01\xc2\xa4\xff\xff\xff\xff\x90"), "UTF-8"},
		{"a dict that is none", []Encoding{M5}, frame("\x94\x01\xc2\xa4ping\x91\x81\x90\xc0\xff"), "after"},
		{"no tuple", both, raw("ping"), "a message is"},
		{"three parts", both, raw(Tuple{1, false, "ping"}), "a message is"},
		{"five parts", both, raw(Tuple{1, false, "ping", Tuple{}, nil}), "a message is"},
		{"a flag that is none", both, raw(Tuple{1, "no", "ping", Tuple{}}), "a message is"},
		{"a name that is none", both, raw(Tuple{1, false, 7, Tuple{}}), "a message is"},
		{"arguments that are none", both, raw(Tuple{1, false, "ping", nil}), "a message is"},
		{"a reply", both, raw(Tuple{1, 0, ReplyName, nil}), "no replies"},
		{"an error", both, raw(Tuple{1, 2, ReplyName, Tuple{"a", Tuple{}}}), "no replies"},

		{"an unknown method", both, ask("load", oid, ""), "no method"},
		{"an unknown one-way method", both, tell("new_oid"), "no method"},
		{"a method of the code", both, ask("__class__"), "no method"},
		{"a second register", both, ask("register", "1", false), "twice"},

		{"a second transaction", both, begun(func(p *peer) { p.begin(6) }), "one transaction at a time"},
		{"a store without a transaction", both, tell("storea", oid, nil, []byte(""), 5), classTransaction},
		{"a store in another transaction", both, begun(tell("storea", oid, nil, []byte(""), 6)), classTransaction},
		{"a check in another transaction", both, begun(tell("checkCurrentSerialInTransaction", oid, tid, 6)), classTransaction},
		{"an undo in another transaction", both, begun(tell("undoa", []byte("x"), 6)), classTransaction},
		{"a deletion in another transaction", both, begun(tell("deleteObject", oid, tid, 6)), classTransaction},
		{"a restore in another transaction", both, begun(tell("restorea", oid, tid, nil, nil, 6)), classTransaction},
		{"an undo of a number", both, begun(tell("undoa", 7, 5)), "must be bytes"},
		{"a begin with a short tid", both, tell("tpc_begin", 5, []byte(""), []byte(""), Dict{}, []byte("short"), " "), "8 bytes"},
		{"a blob without a transaction", both, func(p *peer) {
			p.tell("storeBlobStart")
			p.tell("storeBlobEnd", oid, tid, []byte(""), 5)
		}, classTransaction},
		{"a blob that did not start", both, begun(tell("storeBlobEnd", oid, tid, []byte(""), 5)), "without storeBlobStart"},
		{"a chunk of no blob", both, begun(tell("storeBlobChunk", []byte("x"))), "without storeBlobStart"},
		{"a chunk of text", both, begun(func(p *peer) {
			p.tell("storeBlobStart")
			p.tell("storeBlobChunk", "x")
		}), "must be bytes"},
		{"two blobs at once", both, begun(func(p *peer) {
			p.tell("storeBlobStart")
			p.tell("storeBlobStart")
		}), "twice"},
		{"iterators that are none", both, tell("iterator_gc", 7), "must be list"},
		{"a store after the vote", both, begun(func(p *peer) {
			p.want("vote", 5)
			p.tell("storea", oid, nil, []byte(""), 5)
		}), "voted"},
		{"a store with a short oid", both, begun(tell("storea", []byte("short"), nil, []byte(""), 5)), "8 bytes"},
		{"a store with a long serial", both, begun(tell("storea", oid, []byte("123456789"), []byte(""), 5)), "8 bytes"},
		{"a store with an oid of text", both, begun(tell("storea", "12345678", nil, []byte(""), 5)), "must be bytes"},
		{"a store with a serial of text", both, begun(tell("storea", oid, "12345678", []byte(""), 5)), "must be bytes"},
		{"a store with three arguments", both, begun(tell("storea", oid, nil, []byte(""))), "takes 4"},
		{"a store in no id at all", both, begun(tell("storea", oid, nil, []byte(""), nil)), "must be int"},
		{"a check with a short oid", both, begun(tell("checkCurrentSerialInTransaction", []byte(""), tid, 5)), "8 bytes"},
		{"a begin with three arguments", both, tell("tpc_begin", 5, []byte(""), []byte("")), "takes 4 to 6"},
		{"a begin of a user that is none", both, tell("tpc_begin", 5, 7, []byte(""), Dict{}), "must be bytes"},
		{"a begin with an extension that is none", both, tell("tpc_begin", 5, []byte(""), []byte(""), 7), "must be dict"},
		{"a begin with a broken extension", both, tell("tpc_begin", 5, []byte(""), []byte(""), []byte("]."), nil, " "), "extension"},
		{"a begin with two states", both, tell("tpc_begin", 5, []byte(""), []byte(""), Dict{}, nil, "  "), "one character"},
		{"a label that is none", both, tell("set_client_label", 7), "must be str"},
		{"a one-way call that fails", both, tell("loadSerial"), "takes 2"},
	} {
		for _, enc := range c.encs {
			t.Run(c.name+" "+enc.String(), func(t *testing.T) {
				s := serve(t, newMemory(), Options{MaxFrame: 1 << 20})
				other := s.client(enc)
				p := s.client(enc)
				c.do(p)
				p.wantClosed()
				s.logged.waitFor(t, "broke the protocol")
				log := s.logged.String()
				if !strings.Contains(log, c.log) || !strings.Contains(log, "peer="+p.nc.LocalAddr().String()) {
					t.Errorf("no %q of %s in the log:\n%s", c.log, p.nc.LocalAddr(), log)
				}
				other.commit(1, zodb.NoTid, "fine")
				if n := s.storage.Stats().ActiveTxns; n != 0 {
					t.Errorf("%d transactions left", n)
				}
			})
		}
	}
}

func TestBeforeRegister(t *testing.T) {
	s := serve(t, newMemory(), Options{HandshakeTimeout: 200 * time.Millisecond})
	other := s.client(Z5)
	for name, do := range map[string]func(p *peer){
		"another version":    func(p *peer) { p.send(AppendFrame(nil, []byte("Z4"))) },
		"another letter":     func(p *peer) { p.send(AppendFrame(nil, []byte("X5"))) },
		"no handshake":       func(p *peer) { p.send(AppendFrame(nil, nil)) },
		"a long handshake":   func(p *peer) { p.send([]byte{0, 0, 1, 0}) },
		"an HTTP request":    func(p *peer) { p.send([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"silence":            func(*peer) {},
		"half a handshake":   func(p *peer) { p.send([]byte{0, 0, 0, 2, 'Z'}) },
		"a call too early":   func(p *peer) { p.hello(); p.ask("lastTransaction") },
		"a load too early":   func(p *peer) { p.hello(); p.send(Z5.AppendLoadBefore(nil, 0, zodb.MaxTid)) },
		"much too early":     func(p *peer) { p.hello(); p.send([]byte{0, 1, 0, 0}) },
		"a hang-up":          func(p *peer) { p.nc.Close() },
		"a hang-up midway":   func(p *peer) { p.send([]byte{0, 0}); p.nc.Close() },
		"an unknown storage": func(p *peer) { p.hello(); p.wantError(classValue, "register", "nosuch", false); p.nc.Close() },
		"a storage that is none": func(p *peer) {
			p.hello()
			p.wantError(classType, "register", 1, false)
			p.wantError(classType, "register", "1", "no")
			p.wantError(classType, "register", "1")
			p.want("register", "1", false) // none of that was fatal
			p.nc.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := s.connect()
			p.t = t
			p.enc = Z5
			do(p)
			p.wantClosed()
			other.want("ping")
		})
	}
}

func (p *peer) hello() { p.send(AppendFrame(nil, []byte(p.enc.String()))) }

func TestCallsWithWrongArgumentsAreAnswered(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		good, short := zodb.Oid(1), []byte("short")
		for _, c := range []struct {
			class string
			call  []any
		}{
			{classType, []any{"loadBefore", good}},
			{classType, []any{"loadBefore", good, good, good}},
			{classType, []any{"loadBefore", nil, good}},
			{classType, []any{"loadBefore", "12345678", good}},
			{classValue, []any{"loadBefore", short, good}},
			{classValue, []any{"loadBefore", good, short}},
			{classValue, []any{"loadSerial", short, good}},
			{classValue, []any{"loadSerial", good, []byte{}}},
			{classValue, []any{"getTid", short}},
			{classType, []any{"getTid", Tuple{}}},
			{classValue, []any{"history", short}},
			{classType, []any{"history", good, nil}},
			{classType, []any{"history", good, 1.5}},
			{classType, []any{"new_oids", "3"}},
			{classType, []any{"new_oids", 1, 2}},
			{classValue, []any{"getInvalidations", short}},
			{classType, []any{"getInvalidations", Dict{{"a", true}}}},
			{classType, []any{"vote"}},
			{classType, []any{"vote", Tuple{1}}},
			{classType, []any{"tpc_finish", nil}},
			{classType, []any{"tpc_abort", 1, 2}},
			{classType, []any{"ping", 1}},
			{classType, []any{"get_info", 1}},
			{classType, []any{"pack"}},
			{classValue, []any{"storea", short, nil, []byte(""), 1}},
			{classTransaction, []any{"storea", good, nil, []byte(""), 1}},
			{classType, []any{"set_client_label", Tuple{}}},
		} {
			e := p.wantError(c.class, c.call[0].(string), c.call[1:]...)
			if text, ok := e.Args.(Tuple)[0].(string); c.class != classTransaction && (!ok || !strings.Contains(text, c.call[0].(string))) {
				t.Errorf("%v: %v", c.call, e)
			}
		}
		p.commit(1, zodb.NoTid, "fine")
	})
}

func TestALongFrameIsTakenInPieces(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	data := strings.Repeat("0123456789abcdef", 3<<16) // 3 MiB
	tid := p.commit(1, zodb.NoTid, data)
	p.send(Z5.AppendLoadBefore(nil, 1, zodb.MaxTid))
	if r, ok := Z5.DecodeLoadBeforeReply(p.frame()); !ok || string(r.Rev.Data) != data || r.Rev.Serial != tid {
		t.Error("not what was stored")
	}
	// A size alone reserves little: many clients may claim much.
	for range 50 {
		q := s.client(Z5)
		q.send(binary.BigEndian.AppendUint32(nil, DefaultMaxFrame))
	}
	p.want("ping")
}

// chunks makes frames arrive in pieces of every size.
func TestFramesMayBeCutAnywhere(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	p.commit(1, zodb.NoTid, "x")
	var b []byte
	for range 20 {
		b = Z5.AppendLoadBefore(b, 1, zodb.MaxTid)
		b = Z5.AppendHeartbeat(b)
	}
	for piece := range slices.Chunk(b, 7) {
		p.send(piece)
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		if _, ok := Z5.DecodeLoadBeforeReply(p.frame()); !ok {
			t.Fatal("not a load")
		}
	}
}
