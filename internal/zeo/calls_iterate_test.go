package zeo

import (
	"fmt"
	"strings"
	"testing"

	"s3storage/internal/zodb"
)

func TestIterationCallByCall(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		t1 := p.commit(1, zodb.NoTid, "old")
		t2 := p.commit(1, t1, "new")
		p.begin(5)
		p.tell("undoa", undoID(t2), 5)
		p.want("vote", 5)
		t3 := wantTid(t, p.want("tpc_finish", 5))
		p.begin(6)
		p.tell("deleteObject", zodb.Oid(1), t3, 6)
		wantValue(t, p.want("vote", 6), Tuple{})
		t4 := wantTid(t, p.want("tpc_finish", 6))

		wantValue(t, p.want("iterator_start", nil, nil), int64(0))
		for _, c := range []struct {
			tid    zodb.Tid
			record Tuple
		}{
			{t1, Tuple{zodb.Oid(1).Bytes(), t1.Bytes(), []byte("old"), nil}},
			{t2, Tuple{zodb.Oid(1).Bytes(), t2.Bytes(), []byte("new"), nil}},
			{t3, Tuple{zodb.Oid(1).Bytes(), t3.Bytes(), []byte("old"), t1.Bytes()}},
			{t4, Tuple{zodb.Oid(1).Bytes(), t4.Bytes(), nil, nil}},
		} {
			wantValue(t, p.want("iterator_next", 0), Tuple{c.tid.Bytes(), " ", []byte("u"), []byte("d"), Dict{}})
			rid := p.want("iterator_record_start", 0, c.tid)
			wantValue(t, p.want("iterator_record_next", rid), c.record)
			wantValue(t, p.want("iterator_record_next", rid), nil)
			wantValue(t, p.wantError(classKey, "iterator_record_next", rid).Args, Tuple{rid})
		}
		e := p.wantError(classException, "iterator_record_start", 0, t3)
		if !strings.Contains(e.Error(), t3.String()) {
			t.Error(e)
		}
		p.wantError(classKey, "iterator_record_next", 0) // it goes over transactions
		wantValue(t, p.want("iterator_next", 0), nil)
		wantValue(t, p.wantError(classKey, "iterator_next", 0).Args, Tuple{int64(0)})
		wantValue(t, p.wantError(classKey, "iterator_record_start", 0, t4).Args, Tuple{int64(0)})
		wantValue(t, p.wantError(classKey, "iterator_next", 9999).Args, Tuple{int64(9999)})

		iid := p.want("iterator_start", t2, t3)
		p.wantError(classKey, "iterator_record_start", iid, t2) // not there yet
		wantValue(t, p.want("iterator_next", iid).(Tuple)[0], t2.Bytes())
		rid := p.want("iterator_record_start", iid, t2)
		wantValue(t, p.want("iterator_next", iid).(Tuple)[0], t3.Bytes())
		wantValue(t, p.want("iterator_record_next", rid).(Tuple)[1], t2.Bytes()) // still
		wantValue(t, p.want("iterator_next", iid), nil)
		p.wantError(classKey, "iterator_record_next", iid)

		iid = p.want("iterator_start", t4, nil)
		other := s.client(enc)
		other.wantError(classKey, "iterator_next", iid) // it is p's
		p.tell("iterator_gc", List{iid, rid, 12345})
		p.wantError(classKey, "iterator_next", iid)
		p.wantError(classKey, "iterator_record_next", rid)
		p.tell("iterator_gc", List{iid})
		p.want("ping")
	})
}

func TestCallsOfOneIteratorAreAnsweredInTheirOrder(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(Z5)
	var tids []zodb.Tid
	serial := zodb.NoTid
	for range 100 {
		serial = p.commit(1, serial, "x")
		tids = append(tids, serial)
	}
	iid := p.want("iterator_start", nil, nil)
	want := map[string]any{}
	for _, tid := range tids {
		want[string(p.ask("iterator_next", iid))] = tid.Bytes()
	}
	want[string(p.ask("iterator_next", iid))] = nil
	for range want {
		m := p.message()
		got := m.Args
		if v, ok := got.(Tuple); ok {
			got = v[0]
		}
		wantValue(t, got, want[string(m.ID)])
	}
}

func TestOpenIteratorsAreBounded(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	p := s.client(M5)
	var b []byte
	for n := range maxIterators {
		b, _ = p.enc.AppendCall(b, p.enc.IntID(int64(1_000_000+n)), "iterator_start", Tuple{nil, nil})
		if len(b) > 1<<16 || n == maxIterators-1 {
			p.send(b)
			b = b[:0]
			id := p.ask("ping")
			for string(p.message().ID) != string(id) {
			}
		}
	}
	e := p.wantError(classStorage, "iterator_start", nil, nil)
	if !strings.Contains(e.Error(), fmt.Sprint(maxIterators)) {
		t.Error(e)
	}
	p.tell("iterator_gc", List{0, 1})
	p.want("iterator_start", nil, nil)
	s.client(M5).want("iterator_start", nil, nil) // each connection has its own
}

func TestRecordIternext(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		p.wantError(classValue, "record_iternext", nil)
		t1 := p.commit(1, zodb.NoTid, "one")
		t2 := p.commit(7, zodb.NoTid, "seven")
		wantValue(t, p.want("record_iternext"), Tuple{zodb.Oid(1).Bytes(), t1.Bytes(), []byte("one"), zodb.Oid(7).Bytes()})
		wantValue(t, p.want("record_iternext", nil), Tuple{zodb.Oid(1).Bytes(), t1.Bytes(), []byte("one"), zodb.Oid(7).Bytes()})
		wantValue(t, p.want("record_iternext", zodb.Oid(2)), Tuple{zodb.Oid(7).Bytes(), t2.Bytes(), []byte("seven"), nil})
		p.wantError(classValue, "record_iternext", zodb.Oid(8))
	})
}

func TestRestoreKeepsTidsAndStatus(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p, other := s.client(enc), s.client(enc)
		tids := []zodb.Tid{0x0300000000000000, 0x0300000100000000, 0x0300000200000000}
		for i, c := range []struct{ status, data, source any }{
			{" ", []byte("a"), nil}, {"p", nil, nil}, {" ", []byte("a"), tids[0]},
		} {
			p.tell("tpc_begin", 5, []byte("u"), []byte("d"), Dict{}, tids[i], c.status)
			p.tell("restorea", zodb.Oid(1), tids[i], c.data, c.source, 5)
			wantValue(t, p.want("vote", 5), Tuple{})
			wantValue(t, p.want("tpc_finish", 5), tids[i].Bytes())
			other.want("ping")
			wantValue(t, other.told[len(other.told)-1].Args, Tuple{tids[i].Bytes(), oids(1)})
		}
		wantValue(t, p.want("loadBefore", zodb.Oid(1), zodb.MaxTid), Tuple{[]byte("a"), tids[2].Bytes(), nil})
		wantValue(t, p.want("loadBefore", zodb.Oid(1), tids[1]), Tuple{[]byte("a"), tids[0].Bytes(), tids[1].Bytes()})
		p.wantError(classPOSKey, "loadBefore", zodb.Oid(1), tids[2])
		iid := p.want("iterator_start", tids[1], nil)
		wantValue(t, p.want("iterator_next", iid).(Tuple)[1], "p")
		wantValue(t, p.want("iterator_next", iid).(Tuple)[1], " ")
		rid := p.want("iterator_record_start", iid, tids[2])
		wantValue(t, p.want("iterator_record_next", rid), Tuple{zodb.Oid(1).Bytes(), tids[2].Bytes(), []byte("a"), tids[0].Bytes()})

		for _, c := range []struct {
			class      string
			begun, tid any
		}{
			{classTransaction, tids[2], tids[2]},   // not above the last
			{classValue, tids[2] + 1, tids[2] + 2}, // not the transaction's
			{classValue, nil, tids[2] + 1},
		} {
			p.tell("tpc_begin", 6, []byte("u"), []byte("d"), Dict{}, c.begun, " ")
			p.tell("restorea", zodb.Oid(1), c.tid, []byte("b"), nil, 6)
			p.wantError(c.class, "vote", 6)
			p.want("tpc_abort", 6)
		}
	})
}

func TestDeletionOfWhatChangedIsAConflict(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p := s.client(enc)
		t1 := p.commit(1, zodb.NoTid, "a")
		t2 := p.commit(1, t1, "b")
		p.begin(5)
		p.tell("deleteObject", zodb.Oid(1), t1, 5)
		wantValue(t, p.wantError(classConflict, "vote", 5).Args, Dict{
			{"message", "database conflict error"}, {"oid", zodb.Oid(1).Bytes()},
			{"class_name", nil}, {"serials", Tuple{t2.Bytes(), t1.Bytes()}},
		})
		p.begin(6)
		p.tell("deleteObject", zodb.Oid(9), t1, 6)
		wantValue(t, p.wantError(classPOSKey, "vote", 6).Args, oids(9))
	})
}
