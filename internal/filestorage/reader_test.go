package filestorage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"s3storage/internal/zodb"
)

// small is a file of a few transactions, and those.
func small(t testing.TB) ([]byte, []*transactionRead) {
	t.Helper()
	f := fixtureNamed(t, "undo")
	return f.File, readAll(t, reader(t, f.File))
}

// tids returns the tids of the transactions that a reader finds, and the error
// that it ends with.
func tids(r *Reader) (found []zodb.Tid, err error) {
	for {
		txn, err := next(r)
		if err != nil {
			return found, err
		}
		found = append(found, txn.Tid)
	}
}

func TestDamageIsFoundAndSaysWhere(t *testing.T) {
	file, all := small(t)
	txn := all[5]
	rec := txn.records[0]
	for name, damage := range map[string]func(b []byte){
		"status":                       func(b []byte) { b[txn.Pos+16] = 'x' },
		"a checkpoint before the end":  func(b []byte) { b[txn.Pos+16] = 'c' },
		"tid too low":                  func(b []byte) { b[txn.Pos] = 0 },
		"tid beyond all":               func(b []byte) { b[txn.Pos] = 0xff },
		"length of the transaction":    func(b []byte) { b[txn.Pos+15]++ },
		"a length beyond all files":    func(b []byte) { b[txn.Pos+8] = 0xff },
		"length at the end":            func(b []byte) { b[txn.Pos+txn.Size-1]++ },
		"length of the description":    func(b []byte) { b[txn.Pos+19] = 0xff },
		"transaction of the record":    func(b []byte) { b[rec.Pos+31]++ },
		"previous record":              func(b []byte) { b[rec.Pos+16] = 0x7f },
		"length of the data":           func(b []byte) { b[rec.Pos+34] = 0x7f },
		"back pointer ahead":           func(b []byte) { b[rec.Pos+recordHeaderSize] = 0x7f },
		"back pointer to no record":    func(b []byte) { b[rec.Pos+recordHeaderSize+7]++ },
		"oid, which the pointer knows": func(b []byte) { b[rec.Pos+7]++ },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(file)
			damage(b)
			found, err := tids(reader(t, b))
			if !errors.Is(err, zodb.ErrCorrupt) || len(found) != 5 {
				t.Errorf("%d transactions, then %v", len(found), err)
			}
			if err != nil && !strings.Contains(err.Error(), "Data.fs, at byte ") {
				t.Errorf("%q does not say where", err)
			}
		})
	}
}

func TestVersionsAreRefused(t *testing.T) {
	file, all := small(t)
	b := bytes.Clone(file)
	b[all[5].records[0].Pos+33] = 1
	if found, err := tids(reader(t, b)); !errors.Is(err, zodb.ErrUnsupported) || len(found) != 5 {
		t.Errorf("%d transactions, then %v", len(found), err)
	}
}

func TestAFileOfAnotherKindIsRefused(t *testing.T) {
	for _, s := range []string{"", "FS3", "FS20", "<?xml version"} {
		if _, err := NewReader(strings.NewReader(s), int64(len(s)), "x"); err == nil || !strings.Contains(err.Error(), "no Data.fs") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestFilesOfPython2AreRead(t *testing.T) {
	file, all := small(t)
	r := reader(t, append([]byte(magicPython2), file[magicSize:]...))
	if found, err := tids(r); err != io.EOF || len(found) != len(all) || !r.Python2() {
		t.Errorf("%d transactions, %v, Python 2: %v", len(found), err, r.Python2())
	}
}

func TestUndoneTransactionsOfOldFilesAreLeftOut(t *testing.T) {
	f := fixtureNamed(t, "plain")
	b := bytes.Clone(f.File)
	b[f.Transactions[4].Pos+16] = statusUndone
	if found, err := tids(reader(t, b)); err != io.EOF || len(found) != len(f.Transactions)-1 {
		t.Errorf("%d of %d transactions, %v", len(found), len(f.Transactions), err)
	}
}

// Whatever length a file was cut to, its whole transactions are found.
func TestACutFileEndsWithDamageUnlessItWasBeingWritten(t *testing.T) {
	file, all := small(t)
	txn := all[7]
	for cut := txn.Pos; cut < txn.Pos+txn.Size; cut++ {
		for _, status := range []byte(" c") {
			b := bytes.Clone(file[:cut])
			if cut > txn.Pos+16 {
				b[txn.Pos+16] = status
			}
			r := reader(t, b)
			found, err := tids(r)
			if len(found) != 7 {
				t.Fatalf("%d transactions in %d bytes", len(found), cut)
			}
			whole := cut >= txn.Pos+txnHeaderSize && status == ' '
			if whole != errors.Is(err, zodb.ErrCorrupt) || !whole && (err != io.EOF || r.Unfinished() != cut-txn.Pos) {
				t.Errorf("cut after %d bytes, status %q: %v, %d unfinished", cut-txn.Pos, status, err, r.Unfinished())
			}
		}
	}
}

func TestDamagedTransactionsAreSkippedAndReported(t *testing.T) {
	f := fixtureNamed(t, "plain")
	all := readAll(t, reader(t, f.File))
	// Not the last: nothing tells then that its tid is wrong. Not one that has no
	// records after it, which is not found again.
	for i, txn := range all[:len(all)-1] {
		if all[i+1].Records == 0 {
			continue
		}
		for name, at := range map[string]int64{"tid": 0, "length": 8, "status": 16, "end": txn.Size - 1} {
			b := bytes.Clone(f.File)
			b[txn.Pos+at] ^= 0x40
			r := reader(t, b)
			r.SkipDamaged = true
			found, err := tids(r)
			if err != io.EOF || len(found) != len(all)-1 {
				t.Errorf("%s of transaction %d: %d of %d found, %v", name, i, len(found), len(all), err)
			}
			if gaps := r.Gaps(); len(gaps) != 1 || gaps[0].Pos != txn.Pos || gaps[0].Size != txn.Size || gaps[0].Err == nil {
				t.Errorf("%s of transaction %d at %d of %d bytes: %v", name, i, txn.Pos, txn.Size, gaps)
			}
		}
	}
}

func TestAnEndThatIsDamagedIsSkippedToTheLastByte(t *testing.T) {
	file, all := small(t)
	last := all[len(all)-1]
	b := bytes.Clone(file)
	b[len(b)-1]++
	r := reader(t, b)
	r.SkipDamaged = true
	found, err := tids(r)
	if err != io.EOF || len(found) != len(all)-1 || len(r.Gaps()) != 1 || r.Gaps()[0].Pos+r.Gaps()[0].Size != int64(len(b)) {
		t.Errorf("%d of %d, %v, %v; the last is at %d", len(found), len(all), err, r.Gaps(), last.Pos)
	}
}

func TestAReaderGoesOnWhereAnotherWas(t *testing.T) {
	file, all := small(t)
	for i := range len(all) + 1 {
		first := reader(t, file)
		for range i {
			if _, err := first.Next(); err != nil {
				t.Fatal(err)
			}
		}
		second := reader(t, file)
		if err := second.Resume(first.Position()); err != nil {
			t.Fatal(err)
		}
		if rest := readAll(t, second); len(rest) != len(all)-i {
			t.Errorf("after %d of %d come %d", i, len(all), len(rest))
		}
	}
}

func TestAPositionInAPackedFileIsRefused(t *testing.T) {
	file, all := small(t)
	good := Position{all[3].Pos, all[2].Tid}
	for name, p := range map[string]Position{
		"another tid":      {good.Offset, good.Tid + 1},
		"another place":    {good.Offset + 1, good.Tid},
		"behind the end":   {int64(len(file)) + 100, good.Tid},
		"before the first": {magicSize, good.Tid},
	} {
		if err := reader(t, file).Resume(p); !errors.Is(err, ErrReplaced) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := reader(t, file).Resume(good); err != nil {
		t.Error(err)
	}
}

func TestAReaderFollowsAFileThatIsWritten(t *testing.T) {
	file, all := small(t)
	name := t.TempDir() + "/Data.fs"
	put := func(b []byte) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			_, err = f.Write(b)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	put(file[:all[0].Pos])
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, txn := range all {
		// At the vote, but for the last bytes; then finished.
		b := bytes.Clone(file[:txn.Pos+txn.Size])
		b[txn.Pos+16] = statusUnfinished
		for _, end := range []int64{txn.Pos + 10, txn.Pos + txn.Size - 1, txn.Pos + txn.Size} {
			put(b[:end])
			if err := r.Refresh(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Next(); err != io.EOF || r.Unfinished() != end-txn.Pos {
				t.Fatalf("transaction %d: %v, %d of %d bytes unfinished", i, err, r.Unfinished(), end-txn.Pos)
			}
		}
		b[txn.Pos+16] = ' '
		put(b)
		if err := r.Refresh(); err != nil {
			t.Fatal(err)
		}
		if got, err := next(r); err != nil || got.Tid != txn.Tid {
			t.Fatalf("transaction %d: %v", i, err)
		}
	}
	if err := os.Truncate(name, all[2].Pos); err != nil {
		t.Fatal(err)
	}
	if err := r.Refresh(); !errors.Is(err, ErrReplaced) {
		t.Errorf("a file that has become shorter: %v", err)
	}
	if err := os.Rename(name, name+".old"); err != nil {
		t.Fatal(err)
	}
	put(file)
	if err := r.Refresh(); !errors.Is(err, ErrReplaced) {
		t.Errorf("another file: %v", err)
	}
}

func TestTransactionsAndRecordsLargerThanTheWindowAreRead(t *testing.T) {
	w, name := created(t)
	var all []*transactionRead
	for i := range 3 {
		txn := &transactionRead{Transaction: Transaction{Tid: zodb.Tid(i + 1), Meta: zodb.TxnMeta{Status: ' '}}}
		for j := range 5 {
			data := bytes.Repeat([]byte{byte(i), byte(j)}, 1+(i+1)*j*windowSize/4)
			txn.records = append(txn.records, Record{Oid: zodb.Oid(j), Data: data})
		}
		all = append(all, txn)
	}
	write(t, w, all)
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, txn := range readAll(t, r) {
		for j, rec := range txn.records {
			if !bytes.Equal(rec.Data, all[i].records[j].Data) {
				t.Errorf("record %d of transaction %d is another", j, i)
			}
		}
	}
}

// Each record of the chain leads to the one before it.
func TestLongChainsOfBackPointersAreFollowedInOneStepEach(t *testing.T) {
	const length = 20000
	b := []byte(magicPython3)
	prev := uint64(0)
	for i := range length {
		txn := uint64(len(b))
		body := []byte("data")
		rec := recordHeader{oid: 1, tid: zodb.Tid(i + 1), prev: prev, txn: txn}
		if i == 0 {
			rec.length = uint64(len(body))
		} else {
			body = binary.BigEndian.AppendUint64(nil, prev)
		}
		h := txnHeader{tid: rec.tid, status: ' ', length: uint64(txnHeaderSize + recordHeaderSize + len(body))}
		b = h.append(b)
		prev = uint64(len(b))
		b = append(rec.append(b), body...)
		b = binary.BigEndian.AppendUint64(b, h.length)
	}
	counted := &countingReaderAt{r: bytes.NewReader(b)}
	r, err := NewReader(counted, int64(len(b)), "Data.fs")
	if err != nil {
		t.Fatal(err)
	}
	for _, txn := range readAll(t, r) {
		if rec := txn.records[0]; string(rec.Data) != "data" || rec.Back != 0 && rec.DataTxn != txn.Tid-1 {
			t.Fatalf("transaction %s: %v", txn.Tid, rec)
		}
	}
	if counted.calls > 10*length {
		t.Errorf("%d reads for %d records", counted.calls, length)
	}
}

// A chain of back pointers goes down through the file, also at its very begin.
func TestABackPointerThatLeadsForwardIsDamage(t *testing.T) {
	// The first record lies in what is the transaction's own header, and points
	// ahead to the second, which points to it.
	b := []byte(magicPython3)
	const low, txn = 30, 200
	b = append(b, make([]byte, low-len(b))...)
	b = (&recordHeader{oid: 1, tid: 1, txn: 4}).append(b)
	b = binary.BigEndian.AppendUint64(b, txn+txnHeaderSize)
	b = append(b, make([]byte, txn-len(b))...)
	h := txnHeader{tid: 2, status: ' ', length: txnHeaderSize + recordHeaderSize + pointerSize}
	b = h.append(b)
	b = (&recordHeader{oid: 1, tid: 2, txn: txn}).append(b)
	b = binary.BigEndian.AppendUint64(b, low)
	b = binary.BigEndian.AppendUint64(b, h.length)
	r := reader(t, b)
	if _, err := r.examine(txn, zodb.NoTid); !errors.Is(err, zodb.ErrCorrupt) {
		t.Error(err)
	}
}

type countingReaderAt struct {
	r     io.ReaderAt
	calls int
}

func (c *countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	c.calls++
	return c.r.ReadAt(p, off)
}
