package filestorage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"s3storage/internal/zodb"
)

// A Writer writes a Data.fs that FileStorage opens; FileStorage makes its index
// itself then. It keeps the position of each object's newest record in memory
// (8 bytes an object, see positions), and what was not yet written, about a
// megabyte or as much as one record takes. It is for one goroutine. A Writer
// that failed stays failed.
//
// Until Sync, what was written is not part of the file: the first transaction
// after the last Sync keeps the status 'c', so that FileStorage, a Reader and
// Append take the file to end before it. Whatever becomes of the process or the
// machine, the file is what it was at the last Sync.
type Writer struct {
	name string
	file *os.File
	lock *os.File
	err  error

	at      int64 // what is in the file
	buf     []byte
	index   positions
	last    zodb.Tid
	pending bool // transactions were written that Sync has not yet made count
	first   txnHeader
	firstAt int64

	open    bool // a transaction is
	txn     txnHeader
	txnAt   int64
	written []placed // the records of the transaction
	newFile bool
}

// placed is a record of the transaction under way.
type placed struct {
	oid zodb.Oid
	pos int64
}

// unfinishedLength is the length of a transaction that is not yet known: the
// file ends before it, for whoever reads it.
const unfinishedLength = maxPosition

// Create makes a new file, which must not exist.
func Create(name string) (*Writer, error) {
	lock, err := lockFile(name)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Writer{name: name, file: file, lock: lock, buf: []byte(magicPython3), index: positions{}, newFile: true}, nil
}

// Last returns the tid of the last transaction, NoTid where there is none.
func (w *Writer) Last() zodb.Tid { return w.last }

// Begin starts the next transaction. Its tid lies above that of the last one.
// Its strings have at most 65,535 bytes each, and the status is ' ' or
// zodb.Packed.
func (w *Writer) Begin(tid zodb.Tid, meta zodb.TxnMeta) error {
	if w.err != nil {
		return w.err
	}
	switch {
	case w.open:
		return w.failed("transaction %s was not ended", w.txn.tid)
	case tid <= w.last || tid > zodb.MaxTid:
		return w.failed("transaction %s cannot follow %s", tid, w.last)
	case meta.Status != ' ' && meta.Status != zodb.Packed:
		return w.failed("transaction %s has the status %q", tid, meta.Status)
	case max(len(meta.User), len(meta.Description), len(meta.Extension)) > math.MaxUint16:
		return w.failed("transaction %s has a user name, description or extension of more than %d bytes", tid, math.MaxUint16)
	}
	w.open = true
	w.txn = txnHeader{
		tid:         tid,
		length:      unfinishedLength,
		status:      statusUnfinished,
		user:        uint16(len(meta.User)),
		description: uint16(len(meta.Description)),
		extension:   uint16(len(meta.Extension)),
	}
	w.txnAt = w.pos()
	w.written = w.written[:0]
	w.buf = w.txn.append(w.buf)
	w.buf = append(w.buf, meta.User...)
	w.buf = append(w.buf, meta.Description...)
	w.buf = append(w.buf, meta.Extension...)
	w.txn.status = meta.Status
	return nil
}

// Record writes what the transaction does to an object; data is nil where it
// does not exist from here on. Where source is not NoTid, and the file has a
// record of the object with that tid and the same data, a back pointer to that
// is written, as FileStorage's restore does. An object may have several records
// in a transaction, of which the last one counts.
func (w *Writer) Record(oid zodb.Oid, data []byte, source zodb.Tid) error {
	if w.err != nil {
		return w.err
	}
	if !w.open {
		return w.failed("there is no transaction to write object %s to", oid)
	}
	if data != nil && len(data) == 0 {
		return w.failed("object %s has empty data in transaction %s, which FileStorage cannot keep", oid, w.txn.tid)
	}
	prev := w.index.get(oid)
	back := int64(0)
	if source != zodb.NoTid {
		var err error
		if back, err = w.find(oid, prev, source, data); err != nil {
			return w.fail(err)
		}
		if back != 0 {
			data = nil
		}
	}
	h := recordHeader{oid: oid, tid: w.txn.tid, prev: uint64(prev), txn: uint64(w.txnAt), length: uint64(len(data))}
	w.written = append(w.written, placed{oid, w.pos()})
	w.buf = h.append(w.buf)
	if data == nil {
		w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(back))
	} else {
		w.buf = append(w.buf, data...)
	}
	return w.flush(windowSize)
}

// find returns the position of the last record of the object with the tid
// source, if it has the data or shares another's, else 0. It goes from the
// object's newest record over the previous ones, in the file: undo mostly points
// to the last one but one.
func (w *Writer) find(oid zodb.Oid, pos int64, source zodb.Tid, data []byte) (int64, error) {
	if pos == 0 {
		return 0, nil
	}
	if err := w.flush(0); err != nil {
		return 0, err
	}
	for b := make([]byte, recordHeaderSize); ; {
		if _, err := w.file.ReadAt(b, pos); err != nil {
			return 0, err
		}
		h := parseRecordHeader(b)
		switch {
		case h.oid != oid || h.prev >= uint64(pos):
			return 0, damaged(w.name, pos, "there is no record of object %s", oid)
		case h.tid > source && h.prev != 0:
			pos = int64(h.prev)
			continue
		case h.tid != source || h.length != 0 && h.length != uint64(len(data)):
			return 0, nil
		case h.length == 0:
			return pos, nil
		}
		same := make([]byte, len(data))
		if _, err := w.file.ReadAt(same, pos+recordHeaderSize); err != nil {
			return 0, err
		}
		if !bytes.Equal(same, data) {
			return 0, nil
		}
		return pos, nil
	}
}

// End ends the transaction. It counts from the next Sync on.
func (w *Writer) End() error {
	if w.err != nil {
		return w.err
	}
	if !w.open {
		return w.failed("there is no transaction to end")
	}
	w.txn.length = uint64(w.pos() - w.txnAt)
	w.buf = binary.BigEndian.AppendUint64(w.buf, w.txn.length)
	for _, p := range w.written {
		w.index.set(p.oid, p.pos)
	}
	w.open, w.last = false, w.txn.tid
	if !w.pending {
		w.pending, w.first, w.firstAt = true, w.txn, w.txnAt
	} else if err := w.patch(w.txn, w.txnAt); err != nil {
		return w.fail(err)
	}
	return w.flush(windowSize)
}

// patch overwrites the header of a transaction, wherever it is now.
func (w *Writer) patch(h txnHeader, pos int64) error {
	if i := pos - w.at; i >= 0 {
		h.append(w.buf[i:i:cap(w.buf)])
		return nil
	}
	_, err := w.file.WriteAt(h.append(nil), pos)
	return err
}

// Sync makes all that was written durable, and then part of the file. It must
// not be called within a transaction.
func (w *Writer) Sync() error {
	if w.err != nil {
		return w.err
	}
	if w.open {
		return w.failed("transaction %s was not ended", w.txn.tid)
	}
	if err := w.flush(0); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return w.fail(err)
	}
	if w.pending {
		if err := w.patch(w.first, w.firstAt); err != nil {
			return w.fail(err)
		}
		if err := w.file.Sync(); err != nil {
			return w.fail(err)
		}
		w.pending = false
	}
	if w.newFile {
		if err := syncDirectory(filepath.Dir(w.name)); err != nil {
			return w.fail(err)
		}
		w.newFile = false
	}
	return nil
}

// Close closes the file. What was written since the last Sync does not become
// part of it.
func (w *Writer) Close() error {
	if w.err == nil {
		w.err = fmt.Errorf("%s is closed", w.name)
	}
	return errors.Join(w.file.Close(), w.lock.Close())
}

// pos returns where in the file the next byte goes.
func (w *Writer) pos() int64 { return w.at + int64(len(w.buf)) }

// flush writes out what is buffered if it is more than that.
func (w *Writer) flush(over int) error {
	if len(w.buf) <= over {
		return nil
	}
	if _, err := w.file.WriteAt(w.buf, w.at); err != nil {
		return w.fail(err)
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	if cap(w.buf) > 4*windowSize {
		w.buf = nil
	}
	return nil
}

func (w *Writer) failed(format string, args ...any) error {
	return w.fail(fmt.Errorf(format, args...))
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = fmt.Errorf("write %s: %w", w.name, err)
	}
	return w.err
}

// syncDirectory makes durable what names are in a directory.
func syncDirectory(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
