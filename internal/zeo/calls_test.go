package zeo

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"s3storage/internal/zodb"
)

// eachEncoding runs a test in both encodings, each offered to a client that
// takes it and to one that wants the other.
func eachEncoding(t *testing.T, test func(t *testing.T, s *testServer, enc Encoding)) {
	for _, offered := range []Encoding{Z5, M5} {
		for _, enc := range []Encoding{Z5, M5} {
			t.Run(offered.String()+" offered, "+enc.String()+" taken", func(t *testing.T) {
				test(t, serve(t, newMemory(), Options{Encoding: offered}), enc)
			})
		}
	}
}

func TestReadsCallByCall(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.shake(enc)
		wantValue(t, p.want("register", "1", false), make([]byte, 8))
		wantValue(t, p.want("get_info"), Dict{
			{"length", int64(0)}, {"size", int64(0)}, {"name", "memory"},
			{"supportsUndo", true}, {"supports_record_iternext", true}, {"interfaces", interfaces},
		})
		wantValue(t, p.want("lastTransaction"), make([]byte, 8))
		wantValue(t, p.want("ping"), nil)
		p.tell("set_client_label", "label of this client")
		p.send(enc.AppendHeartbeat(nil))
		wantValue(t, p.want("new_oids", 3), oids(1, 2, 3))
		for n, want := range map[any]int{100: 100, 1000: 100, 0: 1, -5: 1} {
			if got := p.want("new_oids", n); len(tuples(got).(Tuple)) != want {
				t.Errorf("%v new oids: %v", n, got)
			}
		}
		if got := p.want("new_oids"); len(tuples(got).(Tuple)) != 100 {
			t.Errorf("new oids: %v", got)
		}

		const oid = zodb.Oid(0x68)
		t1 := p.commit(oid, zodb.NoTid, "one")
		wantValue(t, p.told[0].Args, Tuple{Dict{{"length", int64(1)}, {"size", int64(3)}}})
		t2 := p.commit(oid, t1, "two")
		wantValue(t, p.want("lastTransaction"), t2.Bytes())
		wantValue(t, p.want("loadBefore", oid, zodb.MaxTid), Tuple{[]byte("two"), t2.Bytes(), nil})
		wantValue(t, p.want("loadBefore", oid, t2), Tuple{[]byte("one"), t1.Bytes(), t2.Bytes()})
		wantValue(t, p.want("loadBefore", oid, t1), nil)
		wantValue(t, p.want("loadSerial", oid, t1), []byte("one"))
		wantValue(t, p.want("getTid", oid), t2.Bytes())
		wantValue(t, p.want("getInvalidations", t1), Tuple{t2.Bytes(), oids(oid)})
		wantValue(t, p.want("getInvalidations", t2), Tuple{t2.Bytes(), Tuple{}})
		wantValue(t, p.want("getInvalidations", t2+1), nil)

		unknown := Tuple{zodb.Oid(99).Bytes()}
		wantValue(t, p.wantError(classPOSKey, "loadBefore", zodb.Oid(99), zodb.MaxTid).Args, unknown)
		wantValue(t, p.wantError(classPOSKey, "loadSerial", zodb.Oid(99), t1).Args, unknown)
		wantValue(t, p.wantError(classPOSKey, "getTid", zodb.Oid(99)).Args, unknown)
		wantValue(t, p.wantError(classPOSKey, "history", zodb.Oid(99)).Args, unknown)

		// As stock clients ask, with the arguments as id.
		p.send(enc.AppendLoadBefore(nil, oid, t2))
		r, ok := enc.DecodeLoadBeforeReply(p.frame())
		if !ok || r.Oid != oid || r.Tid != t2 || string(r.Rev.Data) != "one" || r.Rev.Serial != t1 || r.Rev.Next != t2 {
			t.Errorf("%+v %v", r, ok)
		}
		p.send(enc.AppendLoadBefore(nil, 99, t2))
		m := p.message()
		wantValue(t, m.Args, Tuple{classPOSKey, unknown})
		wantValue(t, []byte(m.ID), []byte(enc.LoadID(99, t2)))
	})
}

func TestHistoryMergesTheExtension(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		ext := Dict{{"k", []byte("v")}, {"size", "not this one"}, {"n", int64(3)}}
		p.tell("tpc_begin", 5, []byte("bob"), []byte("why"), ext, nil, " ")
		p.tell("storea", zodb.Oid(1), nil, []byte("abc"), 5)
		p.want("vote", 5)
		tid := wantTid(t, p.want("tpc_finish", 5))
		p.commit(1, tid, "defg")
		got := tuples(p.want("history", zodb.Oid(1), 5)).(Tuple)
		if len(got) != 2 {
			t.Fatalf("%v", got)
		}
		wantValue(t, got[1], Dict{
			{"k", []byte("v")}, {"n", int64(3)},
			{"time", seconds(tid)}, {"user_name", []byte("bob")}, {"description", []byte("why")},
			{"tid", tid.Bytes()}, {"size", int64(3)},
		})
		if got := tuples(p.want("history", zodb.Oid(1))).(Tuple); len(got) != 1 {
			t.Errorf("%v", got)
		}
	})
}

func TestTidsStandForTheTimesThatPythonTells(t *testing.T) {
	for tid, want := range map[zodb.Tid]float64{
		0x040d31d06f491d11: 1795381466.0825624,
		0x040d31d06f347cee: 1795381466.0636792,
		0x040d31d0751d2d00: 1795381467.4485865,
	} {
		if got := seconds(tid); math.Abs(got-want) > 3e-7 {
			t.Errorf("%s is %.7f, want %.7f", tid, got, want)
		}
	}
}

func TestConflictsAreTheClientsToResolve(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		t1 := p.commit(1, zodb.NoTid, "old")
		t2 := p.commit(1, t1, "new")
		p.begin(9)
		p.tell("storea", zodb.Oid(1), t1, []byte("stale"), 9)
		p.tell("storea", zodb.Oid(2), nil, []byte("other"), 9)
		wantValue(t, p.want("vote", 9), Tuple{Dict{
			{"oid", zodb.Oid(1).Bytes()},
			{"serials", Tuple{t2.Bytes(), t1.Bytes()}},
			{"data", []byte("stale")},
		}})
		p.tell("storea", zodb.Oid(1), t2, []byte("merged"), 9)
		wantValue(t, p.want("vote", 9), Tuple{})
		t3 := wantTid(t, p.want("tpc_finish", 9))
		wantValue(t, p.want("loadBefore", zodb.Oid(1), zodb.MaxTid), Tuple{[]byte("merged"), t3.Bytes(), nil})
		wantValue(t, p.want("loadBefore", zodb.Oid(2), zodb.MaxTid), Tuple{[]byte("other"), t3.Bytes(), nil})
	})
}

func TestTheLastVoteThatAClientTriesIsAnErrorIfThereAreConflicts(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	t1 := p.commit(1, zodb.NoTid, "x")
	p.begin(9)
	p.tell("storea", zodb.Oid(1), zodb.Tid(7), []byte("stale"), 9)
	for range maxVotes - 1 {
		if got := p.want("vote", 9); len(got.(List)) != 1 {
			t.Fatalf("%v", got)
		}
	}
	e := p.wantError(classConflict, "vote", 9)
	wantValue(t, e.Args, Dict{
		{"message", "database conflict error"}, {"oid", zodb.Oid(1).Bytes()},
		{"class_name", nil}, {"serials", Tuple{t1.Bytes(), zodb.Tid(7).Bytes()}},
	})
	p.want("tpc_abort", 9)
	p.commit(1, t1, "y")
}

func TestAReadConflictEndsTheTransaction(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		t1 := p.commit(1, zodb.NoTid, "x")
		t2 := p.commit(1, t1, "y")
		p.begin(9)
		p.tell("checkCurrentSerialInTransaction", zodb.Oid(1), t1, 9)
		p.tell("storea", zodb.Oid(2), nil, []byte("z"), 9)
		wantValue(t, p.wantError(classReadConflict, "vote", 9).Args, Dict{
			{"message", "database read conflict error"}, {"oid", zodb.Oid(1).Bytes()},
			{"class_name", nil}, {"serials", Tuple{t2.Bytes(), t1.Bytes()}},
		})
		wantValue(t, p.wantError(classTransaction, "vote", 9).Args, Tuple{nil, int64(9)})
		wantValue(t, p.want("tpc_abort", 9), nil)
		p.begin(10)
		p.tell("checkCurrentSerialInTransaction", zodb.Oid(1), t2, 10)
		wantValue(t, p.want("vote", 10), Tuple{})
		p.want("tpc_abort", 10)
	})
}

func TestCallsThatDoNotFitTheTransaction(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p, q := s.client(Z5), s.client(Z5)
	wantValue(t, p.wantError(classTransaction, "vote", 1).Args, Tuple{nil, int64(1)})
	wantValue(t, p.want("tpc_finish", 1), nil)
	wantValue(t, p.want("tpc_abort", 1), nil)

	p.begin(5)
	p.begin(5) // again
	wantValue(t, p.wantError(classTransaction, "vote", 6).Args, Tuple{int64(5), int64(6)})
	wantValue(t, p.want("tpc_finish", 6), nil)
	wantValue(t, p.want("tpc_abort", 6), nil)
	p.wantError(classTransaction, "tpc_finish", 5) // not voted
	p.tell("storea", zodb.Oid(1), nil, []byte("x"), 5)
	p.want("vote", 5)
	wantValue(t, p.wantError(classTransaction, "vote", 5).Args, Tuple{"Already voting (locked)"})

	q.begin(5)
	q.tell("storea", zodb.Oid(1), nil, []byte("y"), 5)
	waiting := q.ask("vote", 5)
	eventually(t, "a vote waits", func() bool { return s.storage.Stats().Waiting == 1 })
	wantValue(t, q.wantError(classTransaction, "vote", 5).Args, Tuple{"Already voting (waiting)"})
	t1 := wantTid(t, p.want("tpc_finish", 5))
	v, err := q.answer(waiting)
	if err != nil || len(v.(List)) != 1 {
		t.Fatalf("%v %v", v, err)
	}
	wantValue(t, q.told[0].Args, Tuple{t1.Bytes(), oids(1)})
	q.want("tpc_abort", 5)

	// The same in calls that want a reply.
	p.wantError(classTransaction, "storea", zodb.Oid(1), nil, []byte("x"), 8)
	p.want("tpc_begin", 5, []byte(""), []byte(""), Dict{}, nil, " ")
	p.wantError(classTransaction, "tpc_begin", 6, []byte(""), []byte(""), Dict{}, nil, " ")
}

func TestAbortAndDisconnectEndAVoteThatWaits(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p, q, r := s.client(Z5), s.client(Z5), s.client(M5)
	for _, x := range []*peer{p, q, r} {
		x.begin(5)
		x.tell("storea", zodb.Oid(1), nil, []byte("x"), 5)
	}
	p.want("vote", 5)
	waiting := q.ask("vote", 5)
	r.ask("vote", 5)
	eventually(t, "two votes wait", func() bool { return s.storage.Stats().Waiting == 2 })
	abort := q.ask("tpc_abort", 5)
	seen := map[string]bool{}
	for range 2 { // in any order
		m := q.message()
		seen[string(m.ID)] = true
		if (string(m.ID) == string(waiting)) != (m.Flag == FlagError) {
			t.Errorf("%v", m)
		}
	}
	if !seen[string(waiting)] || !seen[string(abort)] {
		t.Error(seen)
	}
	r.nc.Close()
	eventually(t, "no vote waits", func() bool { return s.storage.Stats().Waiting == 0 })
	eventually(t, "both are gone", func() bool { return s.storage.Stats().ActiveTxns == 1 })
	p.nc.Close() // a voted one
	eventually(t, "all are gone", func() bool { return s.storage.Stats().ActiveTxns == 0 })
	q.commit(1, zodb.NoTid, "free")
	s.logged.waitFor(t, "transaction=aborted")
}

func TestReadOnlyConnections(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.shake(Z5)
	p.want("register", "1", true)
	for _, call := range [][]any{
		{"new_oids"},
		{"tpc_begin", 1, []byte(""), []byte(""), Dict{}, nil, " "},
		{"vote", 1}, {"tpc_finish", 1}, {"tpc_abort", 1},
		{"storea", zodb.Oid(1), nil, []byte(""), 1},
	} {
		wantValue(t, p.wantError(classReadOnly, call[0].(string), call[1:]...).Args, Tuple{})
	}
	p.want("lastTransaction")
	p.begin(1) // one-way: nobody could be told
	p.wantClosed()
}

func TestAReadOnlyStorageTakesReadOnlyClients(t *testing.T) {
	m := newMemory()
	s := serve(t, m, Options{})
	before := s.client(Z5)
	m.SetReadOnly(errReadOnlyForTest{})
	p := s.shake(Z5)
	e := p.wantError(classReadOnly, "register", "1", false)
	wantValue(t, e.Args, Tuple{"a follower, for the test"})
	p.want("register", "1", true) // as clients with read-only-fallback do

	before.begin(3) // had no way to know
	before.tell("storea", zodb.Oid(1), nil, []byte("x"), 3)
	before.wantError(classReadOnly, "vote", 3)
	before.wantError(classReadOnly, "new_oids")
}

type errReadOnlyForTest struct{}

func (errReadOnlyForTest) Error() string { return "a follower, for the test" }
func (errReadOnlyForTest) Unwrap() error { return zodb.ErrReadOnly }

func TestStatus(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	s.client(M5)
	tid := p.commit(1, zodb.NoTid, "x")
	names := []string{"connections", "loads", "stores", "commits", "aborts", "active_txns", "lock_time",
		"conflicts", "conflicts_resolved", "start", "waiting", "timeout-thread-is-alive", "last-transaction"}
	status := p.want("server_status").(Dict)
	for i, it := range status {
		if len(status) != len(names) || it.Key != names[i] {
			t.Fatalf("%v", status)
		}
	}
	if v, _ := status.Get("connections"); v != int64(2) {
		t.Errorf("%v", status)
	}

	q := s.connect()
	q.send(AppendFrame(nil, []byte("ruok")))
	var all map[string]map[string]any
	if err := json.Unmarshal(q.frame(), &all); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, ok := all["1"][name]; !ok {
			t.Errorf("no %s in %v", name, all)
		}
	}
	if all["1"]["last-transaction"] != tid.String() || all["1"]["commits"] != 1.0 {
		t.Errorf("%v", all)
	}
	q.wantClosed()
}

// Some of ZODB's tests do this, and abort.
func TestRecordsThatAreNoneFailTheVote(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		for _, call := range [][]any{
			{"storea", zodb.Oid(1), nil, "text", 5},
			{"storea", zodb.Oid(1), nil, nil, 5},
			{"restorea", zodb.Oid(1), zodb.Tid(7), "text", nil, 5},
			{"storeBlobEnd", zodb.Oid(1), nil, "text", 5},
		} {
			p.tell("tpc_begin", 5, []byte(""), []byte(""), Dict{}, zodb.Tid(7), " ")
			p.tell("storeBlobStart")
			p.tell(call[0].(string), call[1:]...)
			if e := p.wantError(classType, "vote", 5); !strings.Contains(e.Error(), "must be bytes") {
				t.Error(e)
			}
			p.want("tpc_abort", 5)
			p.begin(6)
			p.want("tpc_abort", 6) // and with it what was uploaded
		}
		p.begin(5)
		p.tell("storea", zodb.Oid(1), "\x00\x00\x00\x00\x00\x00\x00\x00", []byte("x"), 5)
		wantValue(t, p.want("vote", 5), Tuple{})
	})
}
