package index

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"s3storage/internal/zodb"
)

// resum makes the checksum of a leaf right.
func resum(leaf []byte) []byte {
	sum := len(leaf) - sumSize
	return binary.BigEndian.AppendUint32(leaf[:sum:sum], leafSum(testID, headerSize, leaf[:sum]))
}

// What an open leaf answers is in order, whatever its bytes are.
func FuzzLeaf(f *testing.F) {
	file, info := write(f, small())
	where, err := ReadDirectory(testDB, info, tail(file, info))
	if err != nil {
		f.Fatal(err)
	}
	one := where.Leaf(0)
	f.Add(file[one.Offset:][:one.Size], uint64(0), uint64(1))
	file, info = write(f, []Entry{{3, 4, 5, true}})
	f.Add(file[headerSize:info.Size-int64(info.Tail)], uint64(3), uint64(5))
	f.Fuzz(func(t *testing.T, leaf []byte, oid, tid uint64) {
		if len(leaf) < leafHeaderSize+groupSize+sumSize || len(leaf) > maxLeaf {
			return
		}
		leaf = resum(leaf)
		first := zodb.Oid(binary.BigEndian.Uint64(leaf[leafHeaderSize:]))
		d := &Directory{db: testDB, info: Info{ID: testID}, first: []zodb.Oid{first, zodb.MaxOid},
			size: []uint16{uint16(len(leaf)), 0}, offset: []int64{headerSize}}
		l, err := d.Open(0, leaf)
		if err != nil {
			if !errors.Is(err, zodb.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		all := slices.Collect(l.From(0, 0))
		if !slices.IsSortedFunc(all, order) || len(all) != l.entries() {
			t.Fatalf("%d entries %v", l.entries(), all)
		}
		for _, e := range append(all, Entry{Oid: zodb.Oid(oid), Tid: zodb.Tid(tid)}) {
			got, ok, next, _ := l.Before(e.Oid, e.Tid)
			wantE, wantOK, wantNext := modelBefore(all, e.Oid, e.Tid)
			if got != wantE || ok != wantOK || next != wantNext {
				t.Fatalf("before %s of %s: %v %v %s, want %v %v %s", e.Tid, e.Oid, got, ok, next, wantE, wantOK, wantNext)
			}
		}
	})
}

// What a directory says lies within the file, whatever its bytes are.
func FuzzTableDirectory(f *testing.F) {
	for _, all := range [][]Entry{nil, small(), large()} {
		file, info := write(f, all)
		f.Add(tail(file, info), info.Size)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) < footerSize {
			return
		}
		footer := b[len(b)-footerSize:]
		info := Info{ID: testID, Size: size, Tail: uint32(len(b)), Entries: int64(binary.BigEndian.Uint64(footer[8:])),
			First: zodb.Tid(binary.BigEndian.Uint64(footer[16:])), Last: zodb.Tid(binary.BigEndian.Uint64(footer[24:])),
			MaxOid: zodb.Oid(binary.BigEndian.Uint64(footer[32:]))}
		body := b[: len(b)-sumSize : len(b)-sumSize]
		d, err := ReadDirectory(testDB, info, binary.BigEndian.AppendUint32(body, directorySum(testDB, testID, body)))
		if err != nil {
			if !errors.Is(err, zodb.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		at := int64(headerSize)
		for i := range d.Leaves() {
			where := d.Leaf(i)
			if where.Offset != at {
				t.Fatalf("leaf %d at %d, not at %d", i, where.Offset, at)
			}
			at += int64(where.Size)
			oid, tid := d.start(i)
			if found, ok := d.Find(oid, tid); !ok || found != i {
				t.Fatalf("leaf %d begins at %s, %s, where leaf %d is found", i, oid, tid, found)
			}
		}
		if at != size-int64(len(b)) {
			t.Fatalf("the leaves end at %d of %d", at, size)
		}
	})
}
