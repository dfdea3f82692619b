package base

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"s3storage/internal/fileformat"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// What can be decoded is encoded to the same bytes. The sum is mended first, so that
// what follows its check is reached.
func FuzzDecode(f *testing.F) {
	db, id := txlog.DatabaseID{1}, txlog.BaseID{2}
	add := func(b *Base) {
		data := b.Encode(db)
		if _, err := Decode(db, id, data); err != nil {
			f.Fatalf("a seed is of no use: %v", err)
		}
		f.Add(data)
	}
	add(&Base{ID: id, Number: 1, Position: txlog.Start()})
	add(&Base{
		ID: id, Number: 3, Position: txlog.Start(), Packed: 4, Rolled: 9, Live: 5, BlobBytes: 6,
		Origins:   []Origin{{Database: txlog.DatabaseID{3}, Location: "parent"}},
		Segments:  []Segment{{Info: segment.Info{ID: [16]byte{5}, Size: 100, Tail: 10, Scan: 20, First: 1, Last: 8}, Origin: 1, Limit: 7}},
		Tables:    []Table{{Info: index.Info{ID: [16]byte{6}, Size: 100, Tail: 10, Entries: 2, First: 1, Last: 8}}},
		Snapshots: []Snapshot{{Name: "before", Base: txlog.BaseID{4}, Last: 8, Created: time.Unix(1, 0)}},
		Rewrites: []Rewrite{
			{What: [32]byte{7}, Of: []segment.ID{{5}, {8}}, Into: Segment{Info: segment.Info{ID: [16]byte{9}, Size: 100, Tail: 10, Scan: 20, Txns: 1, First: 1, Last: 8}}},
			{What: [32]byte{10}, Of: []segment.ID{{11}}},
		},
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		if n := len(data) - sha256.Size; n >= 0 {
			data = fileformat.AppendSum(bytes.Clone(data[:n]))
		}
		b, err := Decode(db, id, data)
		if err == nil && !bytes.Equal(b.Encode(db), data) {
			t.Errorf("decoded and encoded:\n%x\n%x", data, b.Encode(db))
		}
	})
}

// Nothing of the size that a base says it has is believed before it was compared with
// how long it is, also where it makes no sense before that.
func TestABaseThatMakesNoSenseTakesNoMemory(t *testing.T) {
	db, id := txlog.DatabaseID{1}, txlog.BaseID{2}
	empty := (&Base{ID: id, Number: 1, Position: txlog.Start()}).Encode(db)
	empty = empty[:len(empty)-sha256.Size]
	rewrite := (&Base{ID: id, Number: 1, Position: txlog.Start(), Rewrites: []Rewrite{{Of: []segment.ID{{1}}}}}).Encode(db)
	rewrite = rewrite[:len(rewrite)-sha256.Size]
	end := len(empty)
	for _, c := range []struct {
		name  string
		data  []byte
		count int // where it is
	}{
		{"segments", empty, 12},
		{"tables", empty, end - 16}, {"snapshots", empty, end - 12}, {"origins", empty, end - 8}, {"rewrites", empty, end - 4},
		{"segments of a rewrite", rewrite, len(rewrite) - 24},
	} {
		data := bytes.Clone(c.data)
		binary.BigEndian.PutUint32(data[c.count:], 1<<20)
		for n := startSize; n <= len(data); n++ {
			cut := fileformat.AppendSum(bytes.Clone(data[:n]))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Decode(db, id, cut)
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, zodb.ErrCorrupt) || took > 1<<20 {
				t.Fatalf("%s, cut to %d bytes: %v, %d bytes of memory", c.name, n, err, took)
			}
		}
	}
}
