package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A Writer writes a segment as a stream. It keeps in memory one block of each
// kind, what headers and references come to when they are compressed, which is
// a few hundredths of the data, and 40 bytes for each block. It is for one
// goroutine. Once it failed it stays failed.
//
// A segment can hold some 200 GiB; it is for the caller to begin another one
// long before.
type Writer struct {
	w    io.Writer
	err  error
	db   [16]byte
	info Info // Size: of what was written

	begun           bool
	tid             zodb.Tid // of the transaction begun last
	next, committed uint32   // what its next record can have as K: from, to

	data       dataBuilder
	headers    headerBuilder
	references referenceBuilder
	classes    classTable

	dir    Directory // offsets are not set
	packed []byte    // room for a compressed block

	// What comes behind the data.
	packedHeaders, packedReferences bytes.Buffer
}

// NewWriter returns a writer of the segment of that id, of a database. The
// bytes go to w in pieces of about a block. The caller flushes and closes w.
func NewWriter(w io.Writer, db [16]byte, id ID) *Writer {
	s := &Writer{w: w, db: db, info: Info{ID: id}}
	s.err = s.write(appendStart(nil, db, id))
	return s
}

var errClosed = errors.New("the segment is complete")

// fail keeps an error.
func (w *Writer) fail(format string, args ...any) error {
	w.err = fmt.Errorf("writing %s: %w", w.info.ID.Name(), fmt.Errorf(format, args...))
	return w.err
}

func (w *Writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.info.Size += int64(n)
	if err != nil {
		return w.fail("%d bytes at offset %d: %w", len(b), w.info.Size-int64(n), err)
	}
	return nil
}

// Begin begins a transaction. Tids ascend, and are above 0. committed is the
// number of records that the transaction had when it was committed. It keeps
// nothing of meta, each part of which may have up to 1 MiB.
func (w *Writer) Begin(tid zodb.Tid, meta zodb.TxnMeta, committed uint32) error {
	if w.err != nil {
		return w.err
	}
	if tid <= w.tid {
		return w.fail("tid %s does not lie above %s", tid, w.tid)
	}
	if n := max(len(meta.User), len(meta.Description), len(meta.Extension)); n > maxMeta {
		return w.fail("transaction %s: user, description or extension of %d bytes, %d are possible", tid, n, maxMeta)
	}
	if len(w.headers.raw) >= blockSize {
		w.flushHeaders()
	}
	w.headers.begin(tid, meta, committed)
	w.begun, w.tid, w.next, w.committed = true, tid, 0, committed
	if w.info.Txns == 0 {
		w.info.First = tid
	}
	w.info.Last = tid
	w.info.Txns++
	return nil
}

// Add adds a record of the transaction begun last. Records come in the order of
// K. Size is not looked at. It keeps nothing of r.
//
// References are stored as unknown where there are more than 4 million of them,
// and classes where their name has more than 1024 bytes, or where the segment has
// 16384 others.
func (w *Writer) Add(r *Record) error {
	switch {
	case w.err != nil:
		return w.err
	case !w.begun:
		return w.fail("a record without a transaction")
	case r.K < w.next || r.K >= w.committed:
		return w.fail("transaction %s: record number %d of %d, where the next one is %d", w.tid, r.K, w.committed, w.next)
	case len(r.Data) > maxData:
		return w.fail("transaction %s, object %s: %d bytes of data, %d are possible", w.tid, r.Oid, len(r.Data), maxData)
	case r.Deleted && (len(r.Data) > 0 || r.Blob != nil):
		return w.fail("transaction %s, object %s: a deletion with data", w.tid, r.Oid)
	case r.Blob != nil && r.Blob.Size < 0:
		return w.fail("transaction %s, object %s: a blob of %d bytes", w.tid, r.Oid, r.Blob.Size)
	}
	k := Key{w.tid, r.K}
	if w.headers.full() {
		w.flushHeaders()
		w.headers.resume(k)
	}
	w.headers.add(r)
	w.next = r.K + 1 // at most w.committed
	w.info.Records++
	if r.Deleted {
		return nil
	}
	w.info.DataBytes += int64(len(r.Data))
	w.references.add(k, w.classes.number(r.Class), r.Refs, r.RefsKnown)
	if len(w.references.raw) >= blockSize {
		w.flushReferences()
	}
	if !w.data.room(len(r.Data)) {
		if err := w.flushData(nil); err != nil {
			return err
		}
	}
	w.data.add(k, r.Oid, len(r.Data))
	if len(r.Data) >= blockSize {
		return w.flushData(r.Data) // it is alone there
	}
	w.data.data = append(w.data.data, r.Data...)
	return nil
}

// Size returns about how many bytes the segment would have if it were closed
// now.
func (w *Writer) Size() int64 {
	return w.info.Size + int64(w.packedHeaders.Len()+w.packedReferences.Len())
}

// pack compresses a block. The bytes are valid until the next call.
func (w *Writer) pack(raw []byte, first Key) (Block, []byte) {
	stored := compress(w.packed[:0], raw)
	if w.packed = stored; cap(stored) > 4*blockSize {
		w.packed = nil
	}
	return Block{Stored: uint32(len(stored)), Raw: uint32(len(raw)), CRC: fileformat.CRC(stored), First: first}, stored
}

// flushData writes the data block that was gathered, with more data at its end.
func (w *Writer) flushData(more []byte) error {
	first := w.data.first
	b, stored := w.pack(w.data.take(more), first)
	w.dir.data = append(w.dir.data, b)
	return w.write(stored)
}

func (w *Writer) flushHeaders() {
	b, stored := w.pack(w.headers.raw, w.headers.first)
	w.dir.headers = append(w.dir.headers, b)
	w.packedHeaders.Write(stored)
	w.headers = headerBuilder{raw: w.headers.raw[:0]}
}

func (w *Writer) flushReferences() {
	b, stored := w.pack(w.references.raw, w.references.first)
	w.dir.references = append(w.dir.references, b)
	w.packedReferences.Write(stored)
	w.references = referenceBuilder{raw: w.references.raw[:0]}
}

// Close writes what was not written yet, and returns what has to be kept of the
// segment. It does not close what it writes to.
func (w *Writer) Close() (Info, error) {
	if w.err != nil {
		return Info{}, w.err
	}
	if !w.data.empty() {
		if err := w.flushData(nil); err != nil {
			return Info{}, err
		}
	}
	if len(w.headers.raw) > 0 {
		w.flushHeaders()
	}
	if len(w.references.raw) > 0 {
		w.flushReferences()
	}
	w.info.Scan = w.info.Size
	var classes []byte
	w.dir.classes, classes = w.pack(w.classes.encode(), Key{})
	for _, b := range [][]byte{w.packedHeaders.Bytes(), w.packedReferences.Bytes(), classes} {
		if err := w.write(b); err != nil {
			return Info{}, err
		}
	}
	raw := w.dir.encode(&w.info)
	if len(raw) > maxDirectoryRaw {
		return Info{}, w.fail("the directory of %d blocks has %d bytes, %d are possible: write several segments",
			len(w.dir.data), len(raw), maxDirectoryRaw)
	}
	tail := appendFooter(compress(nil, raw), uint32(len(raw)), w.db, w.info.ID)
	w.info.Tail = uint32(len(tail))
	if err := w.write(tail); err != nil {
		return Info{}, err
	}
	w.err = errClosed
	return w.info, nil
}

// encode returns the bytes of the directory before they are compressed.
func (d *Directory) encode(info *Info) []byte {
	var b []byte
	for _, n := range []uint64{uint64(info.Txns), uint64(info.Records), uint64(info.DataBytes), uint64(info.First), uint64(info.Last),
		uint64(len(d.data)), uint64(len(d.headers)), uint64(len(d.references))} {
		b = binary.AppendUvarint(b, n)
	}
	for _, blocks := range [][]Block{d.data, d.headers, d.references} {
		var before Key
		for _, block := range blocks {
			b = appendKey(b, before, block.First)
			b = block.appendLengths(b)
			before = block.First
		}
	}
	return d.classes.appendLengths(b)
}

func (b Block) appendLengths(to []byte) []byte {
	to = binary.AppendUvarint(to, uint64(b.Stored))
	to = binary.AppendUvarint(to, uint64(b.Raw))
	return binary.BigEndian.AppendUint32(to, b.CRC)
}
