package segment

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"s3storage/internal/blob"
	"s3storage/internal/zodb"
)

func isDamage(err error) bool {
	return errors.Is(err, zodb.ErrCorrupt) || errors.Is(err, zodb.ErrNewerFormat)
}

// serveAll asks for every record. Each that comes has to be right.
func serveAll(t *testing.T, d *Directory, file []byte, txns []Txn) (served int) {
	t.Helper()
	for _, txn := range txns {
		for _, r := range txn.Records {
			b, ok := d.Find(txn.Tid, r.K)
			if !ok || r.Deleted {
				continue
			}
			data, err := d.Record(b, stored(file, b), txn.Tid, r.K, r.Oid)
			if err == nil && !bytes.Equal(data, r.Data) {
				t.Errorf("record %d of %s is %q, not %q", r.K, txn.Tid, data, r.Data)
			}
			if err == nil {
				served++
			} else if !isDamage(err) {
				t.Error(err)
			}
		}
	}
	return served
}

func TestEveryFlippedBitIsDetectedAndNoneIsServed(t *testing.T) {
	txns := sample()
	file, d := write(t, ID{7}, txns)
	if n := serveAll(t, d, file, txns); n != 4 {
		t.Fatalf("%d records were served, want 4", n)
	}
	for i := range len(file) * 8 {
		file[i/8] ^= 1 << (i % 8)
		if err := d.Check(t.Context(), fetchFrom(file)); !isDamage(err) {
			t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
		}
		if n := serveAll(t, d, file, txns); n != 4 && (n != 0 || int64(i/8) >= d.Info().Scan) {
			t.Fatalf("bit %d of byte %d: %d records were served", i%8, i/8, n)
		}
		if int64(i/8) >= d.Info().Size-int64(d.Info().Tail) {
			if _, err := ReadDirectory(database, d.Info(), tailOf(file, d.Info())); !isDamage(err) {
				t.Fatalf("bit %d of byte %d: a directory with it is read: %v", i%8, i/8, err)
			}
		}
		file[i/8] ^= 1 << (i % 8)
	}
}

func TestTruncationIsDetected(t *testing.T) {
	file, d := write(t, ID{7}, sample())
	info := d.Info()
	for n := range file {
		cut := file[:n]
		if err := d.Check(t.Context(), fetchFrom(cut)); err == nil {
			t.Fatalf("cut to %d bytes: no error", n)
		}
		if _, err := ReadDirectory(database, info, tailOf(file, info)[:min(n, int(info.Tail)-1)]); !isDamage(err) {
			t.Fatalf("a tail of %d bytes: %v", n, err)
		}
		// Of a file that was cut, other bytes are the last ones.
		short := info
		short.Size = int64(n)
		if n >= int(info.Tail) {
			if _, err := ReadDirectory(database, short, tailOf(cut, info)); !isDamage(err) {
				t.Fatalf("the tail of a file cut to %d bytes: %v", n, err)
			}
		}
		for _, b := range d.Data() {
			if at := int64(n) - b.Offset; at >= 0 && at < int64(b.Stored) {
				if _, err := d.Record(b, stored(file, b)[:at], 50, 0, 1); !isDamage(err) {
					t.Fatalf("a block cut to %d bytes: %v", at, err)
				}
			}
		}
	}
}

func TestDirectoryThatDoesNotAgreeIsRefused(t *testing.T) {
	file, d := write(t, ID{7}, sample())
	tail := tailOf(file, d.Info())
	for name, change := range map[string]func(*Info){
		"id":        func(i *Info) { i.ID[0]++ },
		"size":      func(i *Info) { i.Size++ },
		"scan":      func(i *Info) { i.Scan-- },
		"txns":      func(i *Info) { i.Txns++ },
		"records":   func(i *Info) { i.Records-- },
		"databytes": func(i *Info) { i.DataBytes++ },
		"first":     func(i *Info) { i.First++ },
		"last":      func(i *Info) { i.Last-- },
	} {
		info := d.Info()
		change(&info)
		if _, err := ReadDirectory(database, info, tail); !errors.Is(err, zodb.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadDirectory([16]byte{9}, d.Info(), tail); !errors.Is(err, zodb.ErrCorrupt) {
		t.Errorf("another database: %v", err)
	}
}

// What has the right checksums may still not fit together.
func TestPartsThatDisagreeAreDetected(t *testing.T) {
	for name, forge := range map[string]func(w *Writer){
		"nothing is forged":          func(*Writer) {},
		"data without header":        func(w *Writer) { w.data.add(Key{70, 1}, 5, 0) },
		"references without header":  func(w *Writer) { w.references.add(Key{70, 1}, 0, nil, true) },
		"header without data":        func(w *Writer) { w.headers.add(&Record{K: 1, Oid: 5}); w.info.Records++ },
		"deletion too many":          func(w *Writer) { w.headers.add(&Record{K: 1, Deleted: true}) },
		"number above the committed": func(w *Writer) { w.headers.add(&Record{K: 3, Deleted: true}); w.info.Records++ },
		"transaction too many":       func(w *Writer) { w.headers.begin(80, zodb.TxnMeta{}, 0); w.info.Last = 80 },
		"transactions missing":       func(w *Writer) { w.headers = headerBuilder{} },
		"references missing":         func(w *Writer) { w.references = referenceBuilder{} },
		"data missing":               func(w *Writer) { w.data = dataBuilder{} },
		"bytes at the end of data":   func(w *Writer) { w.data.data = append(w.data.data, 1) },
		"another oid": func(w *Writer) {
			w.data = dataBuilder{data: w.data.data}
			w.data.add(Key{70, 0}, 6, 4)
		},
		"another length": func(w *Writer) {
			w.data = dataBuilder{data: []byte("dat")}
			w.data.add(Key{70, 0}, 5, 3)
		},
		"another number": func(w *Writer) {
			w.data = dataBuilder{data: w.data.data}
			w.data.add(Key{70, 1}, 5, 4)
		},
		"references of another record": func(w *Writer) {
			w.references = referenceBuilder{}
			w.references.add(Key{70, 1}, 0, nil, true)
		},
		"class that is not in the table": func(w *Writer) {
			w.references = referenceBuilder{}
			w.references.add(Key{70, 0}, 3, nil, true)
		},
		"first key of headers":    func(w *Writer) { w.headers.first.Tid-- },
		"first key of references": func(w *Writer) { w.references.first.K++ },
		"first key of data":       func(w *Writer) { w.data.first.K++ },
		"bytes of data":           func(w *Writer) { w.info.DataBytes++ },
		"first tid":               func(w *Writer) { w.info.First-- },
		"a tid twice": func(w *Writer) {
			w.flushHeaders()
			w.headers.begin(70, zodb.TxnMeta{}, 0)
			w.headers.first.K = 1 // the directory ascends
			w.info.Txns++
		},
		"another transaction is continued": func(w *Writer) {
			w.flushHeaders()
			w.headers.resume(Key{71, 1})
			w.headers.add(&Record{K: 1, Deleted: true})
			w.info.Records++
		},
		"a continuation that goes back": func(w *Writer) {
			w.headers.add(&Record{K: 2, Deleted: true})
			w.flushHeaders()
			w.headers.resume(Key{70, 1})
			w.headers.add(&Record{K: 1, Deleted: true})
			w.info.Records += 2
		},
		"a continuation above the committed": func(w *Writer) {
			w.flushHeaders()
			w.headers.resume(Key{70, 3})
			w.headers.add(&Record{K: 3, Deleted: true})
			w.info.Records++
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := NewWriter(&b, database, ID{7}, 0)
			if err := w.Begin(70, zodb.TxnMeta{}, 3); err != nil {
				t.Fatal(err)
			}
			if err := w.Add(&Record{Oid: 5, Data: []byte("data")}); err != nil {
				t.Fatal(err)
			}
			forge(w)
			info, err := w.Close()
			if err != nil {
				t.Fatal(err)
			}
			d, err := ReadDirectory(database, info, tailOf(b.Bytes(), info))
			if err == nil {
				err = d.Check(t.Context(), fetchFrom(b.Bytes()))
			}
			if strings.HasPrefix(name, "nothing") {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, zodb.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestCheckFindsADirectoryThatWasReplaced(t *testing.T) {
	txns := sample()
	file, d := write(t, ID{7}, txns)
	txns[0].Records[0].Data = []byte("same size")
	changed, other := write(t, ID{7}, txns)
	info := d.Info()
	if info != other.Info() {
		t.Fatalf("the segments differ more than they should: %+v, %+v", info, other.Info())
	}
	if err := d.Check(t.Context(), fetchFrom(changed)); !errors.Is(err, zodb.ErrCorrupt) {
		t.Errorf("another file: %v", err)
	}
	copy(tailOf(file, info), tailOf(changed, info))
	if err := d.Check(t.Context(), fetchFrom(file)); !errors.Is(err, zodb.ErrCorrupt) {
		t.Errorf("only the directory is another one: %v", err)
	}
}

func TestErrorsOfFetchAndOfTheCallerComeThrough(t *testing.T) {
	file, d := write(t, ID{7}, sample())
	broken := errors.New("broken")
	for at := range int64(len(file)) {
		fetch := func(ctx context.Context, offset, n int64) ([]byte, error) {
			if offset <= at && at < offset+n {
				return nil, broken
			}
			return fetchFrom(file)(ctx, offset, n)
		}
		if err := d.Check(t.Context(), fetch); !errors.Is(err, broken) {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	if err := d.Scan(t.Context(), fetchFrom(file), WithData, func(*Txn) error { return broken }); err != broken {
		t.Errorf("error %v", err)
	}
	fetch := func(ctx context.Context, offset, n int64) ([]byte, error) { return fetchFrom(file)(ctx, offset, n-1) }
	if err := d.Scan(t.Context(), fetch, HeadersOnly, func(*Txn) error { return nil }); err == nil {
		t.Error("too few bytes are taken")
	}
}

func TestWriterRefusesWhatItCannotWriteAndStaysFailed(t *testing.T) {
	begun := func(w *Writer) error { return w.Begin(5, zodb.TxnMeta{}, 3) }
	for name, do := range map[string]func(w *Writer) error{
		"record without transaction": func(w *Writer) error { return w.Add(&Record{}) },
		"tid 0":                      func(w *Writer) error { return w.Begin(0, zodb.TxnMeta{}, 0) },
		"tid twice":                  func(w *Writer) error { _ = begun(w); return begun(w) },
		"long name":                  func(w *Writer) error { return w.Begin(5, zodb.TxnMeta{User: make([]byte, maxMeta+1)}, 0) },
		"number too high":            func(w *Writer) error { _ = begun(w); return w.Add(&Record{K: 3}) },
		"number twice":               func(w *Writer) error { _ = begun(w); _ = w.Add(&Record{K: 1}); return w.Add(&Record{K: 1}) },
		"deletion with data":         func(w *Writer) error { _ = begun(w); return w.Add(&Record{Deleted: true, Data: []byte("x")}) },
		"deletion with blob":         func(w *Writer) error { _ = begun(w); return w.Add(&Record{Deleted: true, Blob: &blob.Ref{}}) },
		"blob below nothing":         func(w *Writer) error { _ = begun(w); return w.Add(&Record{Blob: &blob.Ref{Size: -1}}) },
		"anything after the end":     func(w *Writer) error { _, _ = w.Close(); return begun(w) },
	} {
		w := NewWriter(new(bytes.Buffer), database, ID{7}, 0)
		err := do(w)
		if err == nil {
			t.Errorf("%s is taken", name)
		}
		if _, again := w.Close(); again != err {
			t.Errorf("%s: closed with %v after %v", name, again, err)
		}
	}
}

// A full writes some bytes and then fails.
type full struct {
	left int
	err  error
}

func (f *full) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, f.err
	}
	return len(b), nil
}

func TestErrorsOfTheMediumComeThrough(t *testing.T) {
	file, _ := write(t, ID{7}, sample())
	for n := range file {
		f := &full{n, errors.New("full")}
		w := NewWriter(f, database, ID{7}, n%3)
		for _, txn := range sample() {
			_ = w.Begin(txn.Tid, txn.Meta, txn.Committed)
			for i := range txn.Records {
				_ = w.Add(&txn.Records[i])
			}
		}
		if _, err := w.Close(); !errors.Is(err, f.err) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}
