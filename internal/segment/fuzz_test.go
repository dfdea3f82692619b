package segment

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// bounded fails if f allocates more than some times what it reads.
func bounded(t *testing.T, n int, f func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+1000*n); got > limit {
		t.Errorf("%d bytes were allocated for %d", got, n)
	}
}

// rawDirectory returns the directory of a segment before compression.
func rawDirectory(d *Directory) []byte {
	list := blockLists{d.Data(), d.headers, d.references, d.classes}
	return list.encode(&d.info)
}

// What decodes is what a writer would have written.
func FuzzDirectory(f *testing.F) {
	for _, txns := range [][]Txn{nil, sample()} {
		file, d := write(f, ID{7}, txns)
		f.Add(rawDirectory(d), tailOf(file, d.Info()))
	}
	f.Fuzz(func(t *testing.T, raw, tail []byte) {
		bounded(t, len(raw)+maxRatio*len(tail), func() {
			var d Directory
			if err := d.decode(fileformat.NewReader("x", 0, raw)); err != nil {
				if !isDamage(err) {
					t.Errorf("error %v", err)
				}
			} else if again := rawDirectory(&d); !bytes.Equal(again, raw) {
				t.Errorf("%x was read as %x", raw, again)
			} else if len(raw) > 0 {
				// The same with all that is around it.
				d.info.ID = ID{7}
				whole := appendFooter(compress(nil, raw), uint32(len(raw)), database, d.info.ID)
				d.info.Size += int64(len(whole))
				d.info.Tail = uint32(len(whole))
				if _, err := ReadDirectory(database, d.info, whole); err != nil {
					t.Error(err)
				}
			}
			_, err := ReadDirectory(database, Info{ID: ID{7}, Size: 1 << 30, Tail: uint32(len(tail))}, tail)
			if !isDamage(err) {
				t.Errorf("a tail is read, or there is error %v", err)
			}
		})
	})
}

const (
	fuzzData = iota
	fuzzHeaders
	fuzzReferences
	fuzzClasses
	fuzzStored // not compressed by us
	fuzzKinds
)

// What decodes is what a writer would have written.
func FuzzBlocks(f *testing.F) {
	file, d := write(f, ID{7}, sample())
	for kind, blocks := range [][]Block{d.Data(), d.headers, d.references, {d.classes}} {
		for _, b := range blocks {
			r, err := d.open(b, stored(file, b), nil)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(kind), r.Rest(), uint64(b.First.Tid), b.First.K)
			f.Add(byte(fuzzStored), stored(file, b), uint64(b.First.Tid), b.Raw)
		}
	}
	var h headerBuilder
	h.resume(Key{9, 4})
	h.add(&Record{K: 4, Oid: 5, Prev: 6, Deleted: true})
	f.Add(byte(fuzzHeaders), bytes.Clone(h.raw), uint64(9), uint32(4))
	h.raw[4]++ // the record has another number than the item before says
	f.Add(byte(fuzzHeaders), h.raw, uint64(9), uint32(4))

	h = headerBuilder{}
	h.begin(9, zodb.TxnMeta{}, 2)
	h.add(&Record{Deleted: true})
	h.raw = append(h.raw, itemRecord|flagDeleted)
	h.raw = binary.AppendUvarint(h.raw, 1<<64-1) // a number that wraps around
	f.Add(byte(fuzzHeaders), append(h.raw, 0), uint64(9), uint32(0))

	f.Fuzz(func(t *testing.T, kind byte, in []byte, tid uint64, k uint32) {
		if len(in) == 0 {
			return // the directory has no such block
		}
		b := Block{Raw: uint32(len(in)), First: Key{zodb.Tid(tid), k}}
		stored := compress(nil, in)
		if kind %= fuzzKinds; kind == fuzzStored {
			stored, b.Raw = in, k%(1<<16)+1
		}
		b.Stored, b.CRC = uint32(len(stored)), fileformat.CRC(stored)
		d := &Directory{info: Info{ID: ID{7}}, classes: b}
		var again []byte
		var err error
		bounded(t, int(b.Raw)+len(in), func() {
			switch kind {
			case fuzzData:
				again, err = dataAgain(d, b, stored)
			case fuzzHeaders:
				again, err = headersAgain(d, b, stored)
			case fuzzReferences:
				again, err = referencesAgain(d, b, stored)
			case fuzzClasses:
				var classes []string
				classes, err = d.DecodeClasses(stored)
				again = binary.AppendUvarint(nil, uint64(max(len(classes)-1, 0)))
				for _, c := range classes[min(1, len(classes)):] {
					again = appendBytes(again, []byte(c))
				}
			case fuzzStored:
				_, err = d.Record(b, stored, b.First.Tid, b.First.K, 1)
				again = in
			}
		})
		if err != nil && !isDamage(err) {
			t.Errorf("error %v", err)
		}
		if err == nil && !bytes.Equal(again, in) {
			t.Errorf("%x was read as %x", in, again)
		}
	})
}

func dataAgain(d *Directory, b Block, stored []byte) ([]byte, error) {
	var build dataBuilder
	err := d.DecodeData(b, stored, func(tid zodb.Tid, k uint32, oid zodb.Oid, data []byte) error {
		build.add(Key{tid, k}, oid, len(data))
		build.data = append(build.data, data...)
		return nil
	})
	if err == nil {
		data, other := d.Record(b, stored, build.last.Tid, build.last.K, build.oid)
		if other != nil || !bytes.HasSuffix(build.data, data) {
			err = other
		}
	}
	return build.take(nil, nil), err
}

func headersAgain(d *Directory, b Block, stored []byte) ([]byte, error) {
	var build headerBuilder
	err := d.DecodeHeaders(b, stored, func(t *Txn, first bool) error {
		if first {
			build.begin(t.Tid, t.Meta, t.Committed)
		} else {
			build.resume(Key{t.Tid, t.Records[0].K})
		}
		for i := range t.Records {
			r := &t.Records[i]
			r.Data = make([]byte, min(r.Size, 1<<16))
			if int(r.Size) != len(r.Data) {
				return zodb.ErrCorrupt // too much for a test
			}
			build.add(r)
		}
		return nil
	})
	return build.raw, err
}

func referencesAgain(d *Directory, b Block, stored []byte) ([]byte, error) {
	var build referenceBuilder
	items, err := d.openReferences(b, stored)
	for err == nil && items.more() {
		if err = items.next(); err == nil {
			if items.class >= maxClasses {
				return nil, zodb.ErrCorrupt // className refuses it
			}
			build.add(items.key, uint32(items.class), items.refs, items.known)
		}
	}
	return build.raw, err
}
