package txlog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"

	"s3storage/internal/zodb"
)

// A Transaction is a transaction in the log.
type Transaction struct {
	Tid      zodb.Tid
	Meta     zodb.TxnMeta
	Payloads []PayloadID
	Records  []Record

	Head Span // of the head in the log object
}

// A Span is a run of bytes in an object.
type Span struct{ Offset, Size uint32 }

// RecordKind says what a record holds.
type RecordKind byte

// The kinds of records.
const (
	RecordData     RecordKind = 1
	RecordDeletion RecordKind = 2
	RecordPayload  RecordKind = 3
)

// A Record is a revision of an object, or its deletion.
type Record struct {
	Oid  zodb.Oid
	Prev zodb.Tid // serial of the revision that it replaces
	Kind RecordKind
	Data []byte // of kind RecordData; else nil
	Size uint32 // bytes of the data, wherever it is

	Payload uint32 // for kind RecordPayload: index into Transaction.Payloads
	Span    Span   // of the record with its header, in the log object or there
}

// A PayloadID names a payload object. It is random.
type PayloadID [16]byte

// NewPayloadID returns a random id.
func NewPayloadID() (id PayloadID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

// Name returns the name of the payload object.
func (id PayloadID) Name() string { return "payload/" + hex.EncodeToString(id[:]) }

const (
	txnFixedSize     = 32
	recordHeaderSize = 28
	payloadRefSize   = 12
	payloadStartSize = 48

	// MaxMeta bounds each of user, description and extension.
	MaxMeta = 1 << 20

	// MaxData bounds the data of one record.
	MaxData = 1<<31 - 1

	maxPayloads = 1 << 16

	// MaxHeadSize bounds the head of a transaction.
	MaxHeadSize = txnFixedSize + 3*MaxMeta + maxPayloads*16 + 4
)

func (t *Transaction) headSize() int {
	return txnFixedSize + len(t.Meta.User) + len(t.Meta.Description) + len(t.Meta.Extension) +
		16*len(t.Payloads) + crc32.Size
}

func (t *Transaction) size() int {
	n := t.headSize()
	for i := range t.Records {
		n += t.Records[i].encodedSize()
	}
	return n
}

func (r *Record) encodedSize() int {
	switch r.Kind {
	case RecordData:
		return recordHeaderSize + len(r.Data)
	case RecordPayload:
		return recordHeaderSize + payloadRefSize
	default:
		return recordHeaderSize
	}
}

// append appends the transaction's body to b, the beginning of a log object,
// and sets the spans.
func (t *Transaction) append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Tid))
	b = append(b, t.Meta.Status, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Records)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Meta.User)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Meta.Description)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Meta.Extension)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Payloads)))
	b = append(b, t.Meta.User...)
	b = append(b, t.Meta.Description...)
	b = append(b, t.Meta.Extension...)
	for _, id := range t.Payloads {
		b = append(b, id[:]...)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	t.Head = Span{uint32(start), uint32(len(b) - start)}
	for i := range t.Records {
		b = t.Records[i].append(b)
	}
	return b
}

// append appends the record and, for one that lies here, sets its span.
func (r *Record) append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Oid))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Prev))
	b = append(b, byte(r.Kind), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, r.Size)
	crc := crc32.Checksum(b[start:], castagnoli)
	tail := r.Data
	if r.Kind == RecordPayload {
		tail = binary.BigEndian.AppendUint32(nil, r.Payload)
		tail = binary.BigEndian.AppendUint64(tail, uint64(r.Span.Offset))
	} else {
		r.Span = Span{uint32(start), uint32(recordHeaderSize + len(tail))}
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Update(crc, castagnoli, tail))
	return append(b, tail...)
}

// head reads the head of a transaction and returns the number of records.
func (r *reader) head() (*Transaction, int, error) {
	start, all := r.at, r.b
	t := &Transaction{Tid: zodb.Tid(r.uint64())}
	t.Meta.Status = r.byte()
	r.zero(3)
	n := r.uint32()
	user, description, extension, payloads := r.uint32(), r.uint32(), r.uint32(), r.uint32()
	if payloads > maxPayloads || user > MaxMeta || description > MaxMeta || extension > MaxMeta {
		return nil, 0, r.corrupt("a transaction's head is larger than any may be")
	}
	t.Meta.User = r.bytes(user)
	t.Meta.Description = r.bytes(description)
	t.Meta.Extension = r.bytes(extension)
	for range payloads {
		t.Payloads = append(t.Payloads, r.id())
		if r.err != nil {
			return nil, 0, r.err
		}
	}
	want := r.at - start
	crc := r.uint32()
	if r.err == nil && crc != crc32.Checksum(all[:want], castagnoli) {
		return nil, 0, r.corrupt("the checksum of a transaction's head does not match")
	}
	t.Head = Span{uint32(start), uint32(r.at - start)}
	return t, int(n), r.err
}

// DecodeHead reads the head of a transaction from its span of a log object;
// the records stay away.
func DecodeHead(name string, span Span, b []byte) (*Transaction, error) {
	r := &reader{name: name, b: b, at: int(span.Offset)}
	t, _, err := r.head()
	if err != nil {
		return nil, err
	}
	return t, r.end()
}

func (r *reader) transaction() (*Transaction, error) {
	t, n, err := r.head()
	if err != nil {
		return nil, err
	}
	if n > len(r.b)/recordHeaderSize {
		return nil, r.corrupt("%d records cannot fit into %d bytes", n, len(r.b))
	}
	t.Records = make([]Record, n)
	for i := range t.Records {
		if t.Records[i], err = r.record(); err != nil {
			return nil, err
		}
		if rec := &t.Records[i]; rec.Kind == RecordPayload && int(rec.Payload) >= len(t.Payloads) {
			return nil, r.corrupt("a record lies in payload object %d of %d", rec.Payload, len(t.Payloads))
		}
	}
	return t, r.end()
}

func (r *reader) record() (rec Record, err error) {
	start, all := r.at, r.b
	rec.Oid = zodb.Oid(r.uint64())
	rec.Prev = zodb.Tid(r.uint64())
	rec.Kind = RecordKind(r.byte())
	r.zero(3)
	rec.Size = r.uint32()
	crc := r.uint32()
	if r.err != nil {
		return rec, r.err
	}
	want := crc32.Checksum(all[:recordHeaderSize-crc32.Size], castagnoli)
	var tail []byte
	switch rec.Kind {
	case RecordData:
		tail = r.bytes(rec.Size)
		rec.Data = tail
	case RecordDeletion:
		if rec.Size != 0 {
			return rec, r.corrupt("a deletion with %d bytes of data", rec.Size)
		}
	case RecordPayload:
		if tail = r.bytes(payloadRefSize); tail != nil {
			rec.Payload = binary.BigEndian.Uint32(tail)
			at := binary.BigEndian.Uint64(tail[4:])
			if at > MaxObjectSize || rec.Size > MaxData {
				return rec, r.corrupt("a record lies at offset %d of a payload object", at)
			}
			rec.Span = Span{uint32(at), recordHeaderSize + rec.Size}
		}
	default:
		return rec, r.corrupt("unknown kind of record %d", rec.Kind)
	}
	if r.err == nil && crc != crc32.Update(want, castagnoli, tail) {
		return rec, r.corrupt("the checksum of the record of object %s does not match", rec.Oid)
	}
	if rec.Kind != RecordPayload {
		rec.Span = Span{uint32(start), uint32(r.at - start)}
	}
	return rec, r.err
}

// DecodeRecord reads a record of kind RecordData from its span of an object
// and returns its data. It checks that it is the one of the given oid.
func DecodeRecord(name string, span Span, b []byte, oid zodb.Oid) ([]byte, error) {
	r := &reader{name: name, b: b, at: int(span.Offset)}
	if uint32(len(b)) != span.Size {
		return nil, r.corrupt("%d bytes expected, %d are there", span.Size, len(b))
	}
	rec, err := r.record()
	if err == nil && (rec.Kind != RecordData || rec.Oid != oid || len(r.b) > 0) {
		err = r.corrupt("a record of object %s expected, one of %s is there", oid, rec.Oid)
	}
	return rec.Data, err
}

// EncodePayload returns the bytes of a payload object that holds the data of
// the records, and turns them into records of kind RecordPayload that point to
// it. index is what its place in Transaction.Payloads will be.
func EncodePayload(db DatabaseID, id PayloadID, index int, records []*Record) []byte {
	size := payloadStartSize + sha256.Size
	for _, rec := range records {
		size += rec.encodedSize()
	}
	b := appendStart(make([]byte, 0, size), payloadMagic, len(records))
	b = append(b, db[:]...)
	b = append(b, id[:]...)
	for _, rec := range records {
		b = rec.append(b)
		rec.Kind, rec.Data, rec.Payload = RecordPayload, nil, uint32(index)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// DecodePayload reads a whole payload object.
func DecodePayload(name string, b []byte) (DatabaseID, PayloadID, []Record, error) {
	r, err := open(name, b, payloadMagic, payloadStartSize)
	if err != nil {
		return DatabaseID{}, PayloadID{}, nil, err
	}
	db, id := DatabaseID(r.id()), PayloadID(r.id())
	if r.count > len(r.b)/recordHeaderSize {
		return db, id, nil, r.corrupt("%d records cannot fit into %d bytes", r.count, len(b))
	}
	records := make([]Record, r.count)
	for i := range records {
		if records[i], err = r.record(); err != nil {
			return db, id, nil, err
		}
	}
	return db, id, records, r.end()
}

// String names the transaction for people.
func (t *Transaction) String() string {
	return fmt.Sprintf("transaction %s (%d records)", t.Tid, len(t.Records))
}

// DataSize returns the number of bytes of data in a record that takes up size
// bytes.
func DataSize(size uint32) int64 { return max(0, int64(size)-recordHeaderSize) }
