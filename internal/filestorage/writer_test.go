package filestorage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"s3storage/internal/zodb"
)

func TestNothingCountsBeforeSync(t *testing.T) {
	_, all := small(t)
	w, name := created(t)
	write(t, w, all[:3])
	for _, txn := range all[3:6] {
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
	if err := w.flush(0); err != nil { // as it does when there is more
		t.Fatal(err)
	}
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if found, err := tids(r); err != io.EOF || len(found) != 3 || r.Unfinished() == 0 {
		t.Errorf("%d transactions, %v, %d bytes unfinished", len(found), err, r.Unfinished())
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	again, cut, err := Append(name)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if cut == 0 || again.Last() != all[2].Tid {
		t.Errorf("cut off %d bytes, the last transaction is %s, not %s", cut, again.Last(), all[2].Tid)
	}
}

// However far the writes of an export have come, the next goes on and makes the
// same file.
func TestAppendGoesOnAfterAWriterThatWasCutShortAnywhere(t *testing.T) {
	file, all := small(t)
	const synced = 4
	w, name := created(t)
	write(t, w, all[:synced])
	w.Close()
	start, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	unsynced := slices.Clone(file)
	unfinished := txnHeader{tid: all[synced].Tid, length: unfinishedLength, status: statusUnfinished}
	copy(unsynced[all[synced].Pos:], unfinished.append(nil)[:17])
	for end := len(start); end <= len(unsynced); end += 1 + (len(unsynced)-len(start))/40 {
		if err := os.WriteFile(name, unsynced[:end], 0o600); err != nil {
			t.Fatal(err)
		}
		w, cut, err := Append(name)
		if err != nil {
			t.Fatal(err)
		}
		if w.Last() != all[synced-1].Tid || cut != int64(end-len(start)) {
			t.Fatalf("after %d bytes: goes on after %s, %d bytes cut off", end, w.Last(), cut)
		}
		write(t, w, all[synced:])
		w.Close()
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, file) {
			t.Fatalf("after %d bytes: %v, the files differ at %d", end, err, differAt(got, file))
		}
	}
}

func TestAppendWritesWhatOneWriterWould(t *testing.T) {
	for _, f := range fixtures(t) {
		if f.Name == "packed, several revisions" {
			continue
		}
		all := readAll(t, reader(t, f.File))
		w, name := created(t)
		write(t, w, nil)
		for _, txn := range all {
			w.Close()
			var cut int64
			var err error
			if w, cut, err = Append(name); err != nil || cut != 0 {
				t.Fatal(err, cut)
			}
			write(t, w, []*transactionRead{txn})
		}
		w.Close()
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, f.File) {
			t.Errorf("%s: %v, the files differ at %d", f.Name, err, differAt(got, f.File))
		}
	}
}

func TestAppendChangesNothingWhereWholeTransactionsFollowDamage(t *testing.T) {
	file, all := small(t)
	name := t.TempDir() + "/Data.fs"
	b := bytes.Clone(file)
	b[all[4].Pos+all[4].Size-1]++
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Append(name); !errors.Is(err, zodb.ErrCorrupt) {
		t.Errorf("%v", err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%v, the files differ at %d", err, differAt(got, b))
	}
}

func TestAFileIsWrittenByOneAtATime(t *testing.T) {
	w, name := created(t)
	write(t, w, nil)
	if _, _, err := Append(name); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("%v", err)
	}
	w.Close()
	if _, err := Create(name); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that exists: %v", err)
	}
	again, _, err := Append(name)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestWhatCannotBeWrittenIsRefusedForGood(t *testing.T) {
	meta := zodb.TxnMeta{Status: ' '}
	begun := func(w *Writer) error { return w.Begin(5, meta) }
	ended := func(w *Writer) error { return errors.Join(w.Begin(5, meta), w.End()) }
	for name, c := range map[string]struct{ before, refused func(w *Writer) error }{
		"the same tid again": {ended, begun},
		"a lower tid":        {ended, func(w *Writer) error { return w.Begin(4, meta) }},
		"a tid beyond all":   {ended, func(w *Writer) error { return w.Begin(zodb.MaxTid+1, meta) }},
		"two transactions":   {begun, func(w *Writer) error { return w.Begin(6, meta) }},
		"a status":           {ended, func(w *Writer) error { return w.Begin(6, zodb.TxnMeta{Status: 'c'}) }},
		"a long user name": {ended, func(w *Writer) error {
			return w.Begin(6, zodb.TxnMeta{Status: ' ', User: make([]byte, 65536)})
		}},
		"a record of no transaction": {ended, func(w *Writer) error { return w.Record(1, []byte("x"), zodb.NoTid) }},
		"empty data":                 {begun, func(w *Writer) error { return w.Record(1, []byte{}, zodb.NoTid) }},
		"an end of nothing":          {ended, (*Writer).End},
		"a sync within":              {begun, (*Writer).Sync},
	} {
		t.Run(name, func(t *testing.T) {
			w, file := created(t)
			if err := c.before(w); err != nil {
				t.Fatal(err)
			}
			err := c.refused(w)
			if err == nil || !strings.Contains(err.Error(), file) {
				t.Fatalf("%v", err)
			}
			if again := w.Sync(); again != err {
				t.Errorf("later: %v", again)
			}
		})
	}
}

// restore of FileStorage does the same: the source is a hint.
func TestDataIsWrittenOutWhereTheSourceHasOther(t *testing.T) {
	w, name := created(t)
	one := func(tid zodb.Tid, data string, source zodb.Tid) *transactionRead {
		return &transactionRead{
			Transaction: Transaction{Tid: tid, Meta: zodb.TxnMeta{Status: ' '}},
			records:     []Record{{Oid: 1, Data: []byte(data), DataTxn: source}},
		}
	}
	write(t, w, []*transactionRead{
		one(10, "aaa", zodb.NoTid),
		one(20, "bbb", 5),  // before the first
		one(30, "ccc", 15), // no such transaction
		one(40, "ddd", 10), // other data
		one(50, "eeee", 10),
		one(60, "aaa", 10),
		one(70, "aaa", 60),
	})
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	for _, txn := range readAll(t, r) {
		got = append(got, fmt.Sprintf("%s %d", txn.records[0].Data, txn.records[0].DataTxn))
	}
	if want := []string{"aaa 0", "bbb 0", "ccc 0", "ddd 0", "eeee 0", "aaa 10", "aaa 60"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestPositionsKeepObjectsApart(t *testing.T) {
	p := positions{}
	oids := []zodb.Oid{0, 1, 63, 64, 65, 1 << 20, zodb.MaxOid - 1, zodb.MaxOid}
	for i, oid := range oids {
		if got := p.get(oid); got != 0 {
			t.Errorf("%s is at %d before it was set", oid, got)
		}
		p.set(oid, int64(i+1))
	}
	for i, oid := range oids {
		if got := p.get(oid); got != int64(i+1) {
			t.Errorf("%s is at %d, not %d", oid, got, i+1)
		}
	}
}
