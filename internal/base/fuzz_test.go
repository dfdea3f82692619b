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
	data := (&Base{ID: id, Number: 1, Position: txlog.Start()}).Encode(db)
	data = data[:len(data)-sha256.Size]
	const count = 12 // where the number of segments is
	binary.BigEndian.PutUint32(data[count:], 1<<20)
	for n := startSize; n <= len(data); n++ {
		cut := fileformat.AppendSum(bytes.Clone(data[:n]))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode(db, id, cut)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, zodb.ErrCorrupt) || took > 1<<20 {
			t.Fatalf("cut to %d bytes: %v, %d bytes of memory", n, err, took)
		}
	}
}
