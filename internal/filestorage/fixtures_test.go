package filestorage

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"s3storage/internal/zodb"
)

// hexBytes are bytes in hexadecimal; null is nil.
type hexBytes []byte

func (b *hexBytes) UnmarshalJSON(text []byte) error {
	var s *string
	if err := json.Unmarshal(text, &s); err != nil || s == nil {
		return err
	}
	var err error
	*b, err = hex.DecodeString(*s)
	return err
}

// A fixture is a file that FileStorage made, and what its iterator reads from it.
type fixture struct {
	Name         string
	File         []byte
	Blobs        map[string]hexBytes
	Transactions []struct {
		Tid, User, Description, Extension hexBytes
		Status                            string
		Pos                               int64
		Records                           []struct {
			Oid, Tid hexBytes
			Data     hexBytes // SHA-256
			DataTxn  hexBytes `json:"data_txn"`
			Pos      int64
		}
	}
}

var fixturesOnce struct {
	sync.Once
	fs []fixture
}

// fixtures are shared: their bytes must not be changed.
func fixtures(t testing.TB) []fixture {
	t.Helper()
	fixturesOnce.Do(func() { fixturesOnce.fs = loadFixtures(t) })
	return fixturesOnce.fs
}

func loadFixtures(t testing.TB) (fs []fixture) {
	t.Helper()
	file, err := os.Open("testdata/fixtures.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(&fs); err != nil {
		t.Fatal(err)
	}
	return fs
}

func fixtureNamed(t testing.TB, name string) fixture {
	t.Helper()
	for _, f := range fixtures(t) {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no fixture %q", name)
	return fixture{}
}

// id reads an oid or tid; there may be none.
func id(b []byte) uint64 {
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// reader reads bytes.
func reader(t testing.TB, file []byte) *Reader {
	t.Helper()
	r, err := NewReader(bytes.NewReader(file), int64(len(file)), "Data.fs")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A transactionRead is a transaction with its records, all of it copied.
type transactionRead struct {
	Transaction
	records []Record
}

// next reads a transaction, or returns io.EOF or another error of the reader.
func next(r *Reader) (*transactionRead, error) {
	txn, err := r.Next()
	if err != nil {
		return nil, err
	}
	read := &transactionRead{Transaction: *txn}
	read.Meta.User = bytes.Clone(txn.Meta.User)
	read.Meta.Description = bytes.Clone(txn.Meta.Description)
	read.Meta.Extension = bytes.Clone(txn.Meta.Extension)
	for {
		rec, err := r.NextRecord()
		if err == io.EOF {
			return read, nil
		}
		if err != nil {
			return nil, err
		}
		c := *rec
		c.Data = bytes.Clone(rec.Data)
		read.records = append(read.records, c)
	}
}

// readAll reads what is left.
func readAll(t testing.TB, r *Reader) (all []*transactionRead) {
	t.Helper()
	for {
		txn, err := next(r)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, txn)
	}
}

// write writes transactions and makes them durable.
func write(t testing.TB, w *Writer, all []*transactionRead) {
	t.Helper()
	for _, txn := range all {
		if err := w.Begin(txn.Tid, txn.Meta); err != nil {
			t.Fatal(err)
		}
		for _, rec := range txn.records {
			if err := w.Record(rec.Oid, rec.Data, rec.DataTxn); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.End(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
}

// created makes a new file in a temporary directory.
func created(t testing.TB) (w *Writer, name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "Data.fs")
	w, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, name
}

func TestAReaderReadsWhatFileStoragesIteratorDoes(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.Name, func(t *testing.T) {
			r := reader(t, f.File)
			got := readAll(t, r)
			if len(got) != len(f.Transactions) {
				t.Fatalf("%d transactions, not %d", len(got), len(f.Transactions))
			}
			for i, want := range f.Transactions {
				g := got[i]
				if uint64(g.Tid) != id(want.Tid) || g.Pos != want.Pos || string(g.Meta.Status) != want.Status ||
					!bytes.Equal(g.Meta.User, want.User) || !bytes.Equal(g.Meta.Description, want.Description) ||
					!bytes.Equal(g.Meta.Extension, want.Extension) || g.Records != int64(len(want.Records)) {
					t.Errorf("transaction %d is %+v, not %+v", i, g.Transaction, want)
				}
				if len(g.records) != len(want.Records) {
					t.Fatalf("transaction %d has %d records, not %d", i, len(g.records), len(want.Records))
				}
				for j, want := range want.Records {
					rec := g.records[j]
					var sum []byte
					if rec.Data != nil {
						s := sha256.Sum256(rec.Data)
						sum = s[:]
					}
					if uint64(rec.Oid) != id(want.Oid) || uint64(rec.Tid) != id(want.Tid) || rec.Pos != want.Pos ||
						!bytes.Equal(sum, want.Data) || uint64(rec.DataTxn) != id(want.DataTxn) {
						t.Errorf("record %d of transaction %d is %v, not %v", j, i, rec, want)
					}
				}
			}
			if r.Unfinished() != 0 || r.Gaps() != nil {
				t.Errorf("%d bytes unfinished, gaps %v", r.Unfinished(), r.Gaps())
			}
		})
	}
}

func TestAFileWrittenAgainIsTheSameByteForByte(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.Name, func(t *testing.T) {
			if f.Name == "packed, several revisions" {
				t.Skip("a pack writes no previous records, where there are some")
			}
			w, name := created(t)
			write(t, w, readAll(t, reader(t, f.File)))
			got, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, f.File) {
				t.Errorf("%d bytes differ from %d bytes at %d", len(got), len(f.File), differAt(got, f.File))
			}
		})
	}
}

// differAt returns the first place where two strings of bytes differ.
func differAt(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func TestARevisionThatWasPackedGetsItsPreviousRecordBack(t *testing.T) {
	f := fixtureNamed(t, "packed, several revisions")
	w, name := created(t)
	all := readAll(t, reader(t, f.File))
	write(t, w, all)
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	last := map[zodb.Oid]int64{}
	for i, txn := range readAll(t, r) {
		for j, rec := range txn.records {
			if rec.Prev != last[rec.Oid] {
				t.Errorf("the record of object %s before that at %d is at %d, not %d", rec.Oid, rec.Pos, last[rec.Oid], rec.Prev)
			}
			last[rec.Oid] = rec.Pos
			if want := all[i].records[j]; !bytes.Equal(rec.Data, want.Data) || rec.DataTxn != want.DataTxn {
				t.Errorf("record %v, not %v", rec, want)
			}
		}
	}
}
