package zeo

import (
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"s3storage/internal/zodb"
)

// commitWith commits one object under a description of the transaction.
func (p *peer) commitWith(oid zodb.Oid, serial zodb.Tid, user, description any, ext Dict) zodb.Tid {
	p.t.Helper()
	const id = 78
	p.tell("tpc_begin", id, user, description, ext, nil, " ")
	p.tell("storea", oid, serial, []byte("data"), id)
	p.want("vote", id)
	return wantTid(p.t, p.want("tpc_finish", id))
}

func TestUndoBringsBackAndSaysWhat(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p, other := s.client(enc), s.client(enc)
		t1 := p.commit(1, zodb.NoTid, "old")
		t2 := p.commit(1, t1, "new")
		entry := tuples(p.want("undoLog", 0, -1)).(Tuple)[0].(Dict)
		undo, _ := entry.Get("id")
		p.begin(5)
		p.tell("undoa", undo, 5)
		wantValue(t, p.want("vote", 5), oids(1))
		t3 := wantTid(t, p.want("tpc_finish", 5))
		wantValue(t, p.want("loadBefore", zodb.Oid(1), zodb.MaxTid), Tuple{[]byte("old"), t3.Bytes(), nil})
		other.want("ping")
		wantValue(t, other.told[len(other.told)-1].Args, Tuple{t3.Bytes(), oids(1)})

		// Conflicts are the client's to resolve, as those of stores are.
		t4 := p.commit(1, t3, "later")
		p.begin(6)
		p.tell("undoa", undoID(t2), 6)
		wantValue(t, p.want("vote", 6), Tuple{Dict{
			{"oid", zodb.Oid(1).Bytes()}, {"serials", Tuple{t4.Bytes(), t2.Bytes()}}, {"data", []byte("old")},
		}})
		p.tell("storea", zodb.Oid(1), t4, []byte("merged"), 6)
		wantValue(t, p.want("vote", 6), Tuple{})
		p.want("tpc_finish", 6)
	})
}

func TestUndoThatIsImpossibleIsAnErrorOfTheVote(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		t1 := p.commit(1, zodb.NoTid, "a")
		p.commit(1, t1, "b")
		p.begin(5)
		p.tell("undoa", undoID(t1), 5)
		e := p.wantError(classMultipleUndo, "vote", 5)
		errs, _ := e.Args.(Dict).Get("_errs")
		pair := itemsOf(errs)[0].(Tuple)
		wantValue(t, pair[0], zodb.Oid(1).Bytes())
		var multiple *zodb.MultipleUndoErrors
		if err := AsError(Tuple{e.Class, e.Args}); !errors.As(err, &multiple) || multiple.Errs[0].Oid != 1 || multiple.Errs[0].Reason != pair[1] {
			t.Errorf("%v", err)
		}
		for _, bad := range []any{undoID(t1 + 1), []byte("AAAA"), []byte("no base 64"), []byte(""), "AAAAAAAAAAA="} {
			p.begin(6)
			p.tell("undoa", bad, 6)
			p.tell("storea", zodb.Oid(2), nil, []byte("x"), 6)
			e := p.wantError(classUndo, "vote", 6)
			if err := AsError(Tuple{e.Class, e.Args}); !errors.As(err, new(*zodb.UndoError)) {
				t.Errorf("%v", err)
			}
			p.want("tpc_abort", 6)
		}
	})
}

func TestErrorsOfConflictsComeBack(t *testing.T) {
	want := zodb.ConflictError{Oid: 1, Committed: 2, Read: 3}
	for _, enc := range []Encoding{Z5, M5} {
		b, err := enc.AppendError(nil, enc.IntID(1), ErrorFrom(fmt.Errorf("vote: %w", &want)))
		if err != nil {
			t.Fatal(err)
		}
		m, err := enc.Decode(b[4:])
		if err != nil {
			t.Fatal(err)
		}
		var got *zodb.ConflictError
		if err := AsError(m.Args); !errors.As(err, &got) || *got != want {
			t.Errorf("%v", err)
		}
	}
}

func undoTids(t *testing.T, v any) (tids []zodb.Tid) {
	t.Helper()
	for _, entry := range itemsOf(v) {
		id, _ := entry.(Dict).Get("id")
		tid, err := parseUndoID(id.([]byte))
		if err != nil {
			t.Fatal(err)
		}
		tids = append(tids, tid)
	}
	return tids
}

func TestTheUndoLogCountsAsFileStorageDoes(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		var newestFirst []zodb.Tid
		serial := zodb.NoTid
		for n := range 10 {
			serial = p.commitWith(1, serial, fmt.Appendf(nil, "/site user%d", n%2), []byte("d"), Dict{{"n", n}})
			newestFirst = append([]zodb.Tid{serial}, newestFirst...)
		}
		for _, c := range []struct{ first, last, from, to int }{
			{0, -20, 0, 10}, {0, -3, 0, 3}, {4, -3, 4, 7}, {4, -300, 4, 10}, {0, 3, 0, 3}, {2, 5, 2, 5},
			{5, 5, 0, 0}, {5, 2, 0, 0}, {0, 0, 0, 0}, {20, -5, 0, 0}, {-5, 4, 0, 4}, {-2, -4, 0, 2}, {0, 1 << 62, 0, 10},
			{-1 << 62, -1 << 62, 0, 0},
		} {
			for _, call := range [][]any{{"undoLog", c.first, c.last}, {"undoInfo", c.first, c.last, nil}, {"undoInfo", c.first, c.last}} {
				got := undoTids(t, p.want(call[0].(string), call[1:]...))
				if want := newestFirst[c.from:c.to]; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%v: %v, want %v", call, got, want)
				}
			}
		}
		got := p.want("undoInfo", 1, -2, Dict{{"user_name", []byte("/site user1")}})
		if tids := undoTids(t, got); fmt.Sprint(tids) != fmt.Sprint([]zodb.Tid{newestFirst[2], newestFirst[4]}) {
			t.Errorf("%v", got)
		}
		wantValue(t, p.wantError(classType, "undoLog", nil, -3).Args, Tuple{"undoLog(): first must be int, not None"})
	})
}

func TestUndoEntriesSayWhatWasSent(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		tid := p.commitWith(1, zodb.NoTid, []byte("J\xc3\xbcrgen"), []byte("why"), Dict{{"k", "v"}, {"time", "mine"}})
		wantValue(t, p.want("undoLog", 0, -20), Tuple{Dict{
			{"id", undoID(tid)}, {"time", "mine"}, {"user_name", []byte("J\xc3\xbcrgen")},
			{"size", int64(4)}, {"description", []byte("why")}, {"k", "v"},
		}})
	})
}

func TestASpecificationSelectsAsPythonCompares(t *testing.T) {
	entry := Dict{
		{"user_name", []byte("/a/b joe")}, {"description", []byte("/a/b/c/edit")},
		{"n", int64(1)}, {"f", 2.0}, {"s", "text"}, {"t", Tuple{int64(1), "x"}}, {"l", List{int64(1)}},
		{"d", Dict{{"a", int64(1)}, {"b", int64(2)}}}, {"none", nil}, {int64(5), "five"},
	}
	for _, c := range []struct {
		spec Dict
		want bool
	}{
		{Dict{}, true},
		{Dict{{"user_name", []byte("/a/b joe")}}, true},
		{Dict{{"user_name", "/a/b joe"}}, false}, // str is not bytes
		{Dict{{"user_name", Prefix("/a/b")}}, true},
		{Dict{{"user_name", Prefix("/a/b/joe")}}, false},
		{Dict{{"user_name", Prefix("/a")}, {"description", Prefix("/a/b/c")}}, true},
		{Dict{{"user_name", Prefix("/a")}, {"description", Prefix("/b")}}, false},
		{Dict{{"n", Prefix("1")}}, false},
		{Dict{{"n", int64(1)}}, true}, {Dict{{"n", 1.0}}, true}, {Dict{{"n", true}}, true}, {Dict{{"n", big.NewInt(1)}}, true},
		{Dict{{"n", int64(2)}}, false}, {Dict{{"n", "1"}}, false}, {Dict{{"f", int64(2)}}, true},
		{Dict{{"s", "text"}}, true}, {Dict{{"s", []byte("text")}}, false},
		{Dict{{"t", Tuple{1.0, "x"}}}, true}, {Dict{{"t", List{int64(1), "x"}}}, false}, {Dict{{"t", Tuple{int64(1)}}}, false},
		{Dict{{"l", List{int64(1)}}}, true},
		{Dict{{"d", Dict{{"b", int64(2)}, {"a", int64(1)}}}}, true}, {Dict{{"d", Dict{{"a", int64(1)}}}}, false},
		{Dict{{"none", nil}}, true}, {Dict{{"missing", nil}}, true}, {Dict{{"missing", int64(0)}}, false},
		{Dict{{5.0, "five"}}, true},
	} {
		if got := matches(entry, c.spec); got != c.want {
			t.Errorf("%v: %v", c.spec, got)
		}
	}
}

// What a client says about a transaction is what every call tells about it.
func TestTheDescriptionOfATransactionArrivesAsItWasSent(t *testing.T) {
	ext := Dict{
		{"request_type", "View"}, {"stra\u00dfe", "\u00e4\u00f6\u00fc \u20ac \U0001f600"}, {"bytes", []byte{0, 255, 128}},
		{"int", int64(-70000)}, {"float", 1.5}, {"true", true}, {"none", nil}, {"tuple", Tuple{int64(1), Tuple{}}},
		{"dict", Dict{{"a", Dict{}}}}, {"long", strings.Repeat("x", 5000)},
	}
	user := []byte(" Ren\u00e9 d'\u00c9t\u00e9")
	description := []byte(strings.Repeat("Ein langer Text \u00fcber alles. ", 2000))
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		tid := p.commitWith(1, zodb.NoTid, user, description, ext)
		for _, reader := range []*peer{p, s.client(Z5), s.client(M5)} {
			history := reader.want("history", zodb.Oid(1))
			undo := reader.want("undoLog", 0, -1)
			for _, v := range []any{history, undo} {
				entry := itemsOf(v)[0].(Dict)
				for _, it := range append(Dict{{"user_name", user}, {"description", description}}, ext...) {
					got, _ := entry.Get(it.Key.(string))
					wantValue(t, got, it.Value)
				}
			}
			iid := reader.want("iterator_start", nil, nil)
			wantValue(t, reader.want("iterator_next", iid), Tuple{tid.Bytes(), " ", user, description, ext})
		}
	})
}

func TestAnExtensionThatAnEncodingCannotSayIsLeftOut(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	z, m := s.client(Z5), s.client(M5)
	huge := new(big.Int).Lsh(big.NewInt(1), 100)
	tid := z.commitWith(1, zodb.NoTid, []byte("u"), []byte("d"), Dict{{"n", huge}})
	iid := z.want("iterator_start", nil, nil)
	wantValue(t, z.want("iterator_next", iid), Tuple{tid.Bytes(), " ", []byte("u"), []byte("d"), Dict{{"n", huge}}})
	iid = m.want("iterator_start", nil, nil)
	wantValue(t, m.want("iterator_next", iid), Tuple{tid.Bytes(), " ", []byte("u"), []byte("d"), Dict{}})
	if entry := itemsOf(m.want("undoLog", 0, -1))[0].(Dict); len(entry) != 5 {
		t.Errorf("%v", entry)
	}
}

func FuzzUndoID(f *testing.F) {
	f.Add([]byte("BA0x0G9JHRE="))
	f.Add([]byte("AAAAAAAAAAA=\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, id []byte) {
		tid, err := parseUndoID(id)
		if err != nil {
			return
		}
		if again, err := parseUndoID(undoID(tid)); err != nil || again != tid {
			t.Errorf("%q is %s, which becomes %s, %v", id, tid, again, err)
		}
	})
}

func TestATransactionIsMatchedByWhatItsEntrySays(t *testing.T) {
	c := &conn{enc: Z5, log: slog.New(slog.DiscardHandler)}
	pickled := func(d Dict) []byte {
		b, err := PickleDict(d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	info := zodb.TxnInfo{Tid: 5 << 40, Meta: zodb.TxnMeta{User: []byte("joe"), Description: []byte("/a/b")}}
	keys := []any{"id", "time", "user_name", "size", "description", "k", "missing", 5.0, nil}
	values := []any{
		undoID(info.Tid), seconds(info.Tid), []byte("joe"), int64(0), 0.0, []byte("/a/b"), "v", nil, Prefix("/a"), Prefix("/b"), "five",
	}
	m := &undoMatch{c: c}
	matched := 0
	for _, ext := range [][]byte{
		nil, pickled(Dict{}), pickled(Dict{{"k", "v"}, {int64(5), "five"}}), pickled(Dict{{"user_name", "v"}, {"id", nil}}), []byte("no pickle"),
	} {
		info.Meta.Extension = ext
		for _, key := range keys {
			for _, value := range values {
				m.spec = Dict{{key, value}}
				got, want := m.matches(&info), matches(c.undoEntry(&info), m.spec)
				if got != want {
					t.Errorf("extension %q, %v: %v", ext, m.spec, got)
				}
				if got {
					matched++
				}
				m.spec = Dict{{"description", []byte("/a/b")}, {key, value}}
				if got := m.matches(&info); got != want {
					t.Errorf("extension %q, %v: %v", ext, m.spec, got)
				}
			}
		}
	}
	if matched == 0 {
		t.Error("nothing matched")
	}
	for i := range 3 * maxExtensions {
		info.Meta.Extension = pickled(Dict{{"k", i}})
		m.spec = Dict{{"k", int64(i)}}
		if !m.matches(&info) || len(m.extensions) > maxExtensions {
			t.Fatalf("%d extensions are remembered", len(m.extensions))
		}
	}
}

// BenchmarkUndoInfoMatch measures how long it takes to see that a transaction
// does not match.
func BenchmarkUndoInfoMatch(b *testing.B) {
	ext, err := PickleDict(Dict{{"request_type", "/site/folder/edit"}, {"level", int64(3)}})
	if err != nil {
		b.Fatal(err)
	}
	c := &conn{enc: Z5}
	for _, bm := range []struct {
		name string
		ext  []byte
		spec Dict
	}{
		{"user", nil, Dict{{"user_name", []byte("nobody")}}},
		{"user, with an extension", ext, Dict{{"user_name", []byte("nobody")}}},
		{"extension", ext, Dict{{"request_type", "x"}}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			info := zodb.TxnInfo{Tid: 5, Meta: zodb.TxnMeta{
				User: []byte("/site user"), Description: []byte("/site/folder/document"), Extension: bm.ext,
			}}
			m := &undoMatch{c: c, spec: bm.spec}
			for b.Loop() {
				if m.matches(&info) {
					b.Fatal("it matches")
				}
			}
		})
	}
}
