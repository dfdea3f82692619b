package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"s3storage/internal/zodb"
)

// A Writer writes a segment as a stream. It keeps in memory one block of each
// kind, those that are being compressed, what headers and references come to when
// they are, which is a few hundredths of the data, and 40 bytes for each block. It
// is for one goroutine. Once it failed it stays failed.
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

	dir    blockLists
	packer packer

	// What comes behind the data.
	packedHeaders, packedReferences bytes.Buffer
}

// blockLists are the blocks that were written, without their offsets.
type blockLists struct {
	data, headers, references []Block
	classes                   Block
}

// NewWriter returns a writer of the segment of that id, of a database. The
// bytes go to w in pieces of about a block. The caller flushes and closes w.
//
// Up to ahead blocks are compressed in other goroutines while more is added; with 0
// it is done by who adds. The bytes are the same.
func NewWriter(w io.Writer, db [16]byte, id ID, ahead int) *Writer {
	s := &Writer{w: w, db: db, info: Info{ID: id}}
	s.packer = packer{ahead: ahead, write: s.writeParcel}
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
		if err := w.flushHeaders(); err != nil {
			return err
		}
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
		if err := w.flushHeaders(); err != nil {
			return err
		}
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
		if err := w.flushReferences(); err != nil {
			return err
		}
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
// now, without the blocks that are being compressed.
func (w *Writer) Size() int64 {
	return w.info.Size + int64(w.packedHeaders.Len()+w.packedReferences.Len())
}

// flushData writes the data block that was gathered, with more data at its end.
func (w *Writer) flushData(more []byte) error {
	first, p := w.data.first, w.packer.parcel()
	p.raw = w.data.take(p.raw, more)
	return w.send(p, first, &w.dir.data, w.w)
}

func (w *Writer) flushHeaders() error {
	first, p := w.headers.first, w.packer.parcel()
	p.raw, w.headers = w.headers.raw, headerBuilder{raw: p.raw}
	return w.send(p, first, &w.dir.headers, &w.packedHeaders)
}

func (w *Writer) flushReferences() error {
	first, p := w.references.first, w.packer.parcel()
	p.raw, w.references = w.references.raw, referenceBuilder{raw: p.raw}
	return w.send(p, first, &w.dir.references, &w.packedReferences)
}

func (w *Writer) send(p *parcel, first Key, kind *[]Block, to io.Writer) error {
	p.block, p.kind, p.to = Block{First: first}, kind, to
	return w.packer.send(p)
}

func (w *Writer) writeParcel(p *parcel) error {
	*p.kind = append(*p.kind, p.block)
	if p.to == w.w {
		return w.write(p.stored)
	}
	_, err := p.to.Write(p.stored)
	return err
}

// Abort waits for the goroutines of a writer that was not closed.
func (w *Writer) Abort() {
	w.packer.abandon()
	if w.err == nil {
		w.err = errClosed
	}
}

// Close writes what was not written yet, and returns what has to be kept of the
// segment. It does not close what it writes to.
func (w *Writer) Close() (Info, error) {
	defer w.packer.abandon()
	if w.err != nil {
		return Info{}, w.err
	}
	if err := w.flushAll(); err != nil {
		return Info{}, err
	}
	w.info.Scan = w.info.Size
	classes := parcel{raw: w.classes.encode(), done: make(chan struct{}, 1)}
	classes.pack()
	w.dir.classes = classes.block
	for _, b := range [][]byte{w.packedHeaders.Bytes(), w.packedReferences.Bytes(), classes.stored} {
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

// flushAll writes all blocks that were gathered.
func (w *Writer) flushAll() error {
	if !w.data.empty() {
		if err := w.flushData(nil); err != nil {
			return err
		}
	}
	if len(w.headers.raw) > 0 {
		if err := w.flushHeaders(); err != nil {
			return err
		}
	}
	if len(w.references.raw) > 0 {
		if err := w.flushReferences(); err != nil {
			return err
		}
	}
	return w.packer.settle(0)
}

// encode returns the bytes of the directory before they are compressed.
func (d *blockLists) encode(info *Info) []byte {
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
