package base

import (
	"bytes"
	"fmt"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Of a segment and a table with a limit, what lies above it is not there, and what
// other files have of the same tids is.
func TestWhatLiesAboveALimitIsNotThere(t *testing.T) {
	const oid = 7
	db := txlog.DatabaseID{1}
	bk := bucket.NewMemory()
	b := &Base{ID: NewID(), Number: 1, Position: txlog.Start()}
	add := func(limit zodb.Tid, data string, tids ...zodb.Tid) {
		var file bytes.Buffer
		put := func(name string) {
			if err := bk.Put(t.Context(), name, file.Bytes()); err != nil {
				t.Fatal(err)
			}
			file = bytes.Buffer{}
		}
		sid, iid := segment.NewID(), index.NewID()
		sw := segment.NewWriter(&file, db, sid, 0)
		for _, tid := range tids {
			if err := sw.Begin(tid, zodb.TxnMeta{Status: ' '}, 1); err != nil {
				t.Fatal(err)
			}
			if err := sw.Add(&segment.Record{Oid: oid, Data: fmt.Appendf(nil, "%s %d", data, tid)}); err != nil {
				t.Fatal(err)
			}
		}
		info, err := sw.Close()
		if err != nil {
			t.Fatal(err)
		}
		put(sid.Name())
		iw := index.NewWriter(&file, db, iid)
		for _, tid := range tids {
			if err := iw.Add(index.Entry{Oid: oid, Tid: tid}); err != nil {
				t.Fatal(err)
			}
		}
		table, err := iw.Close()
		if err != nil {
			t.Fatal(err)
		}
		put(iid.Name())
		b.Segments = append(b.Segments, Segment{Info: info, Limit: limit})
		b.Tables = append(b.Tables, Table{Info: table, Limit: limit})
	}
	add(2, "first", 1, 2, 3, 4)
	add(0, "second", 3, 5)
	b, err := Decode(db, b.ID, b.Encode(db))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := cache.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	v, err := (&Reader{Bucket: bk, Database: db, Memory: memory}).View(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	all, err := v.Revisions(t.Context(), oid)
	if err != nil || len(all) != 4 {
		t.Fatalf("%v %v", all, err)
	}
	for i, want := range []string{"first 1", "first 2", "second 3", "second 5"} {
		data, err := v.Data(t.Context(), all[i])
		if err != nil || string(data) != want {
			t.Errorf("revision %v is %q, want %q: %v", all[i], data, want, err)
		}
		e, _, ok, err := v.Before(t.Context(), oid, all[i].Tid+1)
		if err != nil || !ok || e != all[i] {
			t.Errorf("before %s: %v, want %v: %v", all[i].Tid+1, e, all[i], err)
		}
	}
	if e, ok, err := v.At(t.Context(), oid, 4); ok || err != nil {
		t.Errorf("at 4: %v %v", e, err)
	}
}
