package txlog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"s3storage/internal/blob"
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A Transaction is a transaction in the log.
type Transaction struct {
	Tid      zodb.Tid
	Meta     zodb.TxnMeta
	Payloads []PayloadID
	Records  []Record
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
	RecordShared   RecordKind = 4
)

// A Record is a revision of an object, or its deletion.
type Record struct {
	Oid     zodb.Oid
	Prev    zodb.Tid // serial of the revision that it replaces
	Existed bool     // the object existed before, and was not deleted
	Kind    RecordKind
	Data    []byte    // of kind RecordData; else nil
	Size    uint32    // bytes of the data, wherever it is
	Blob    *blob.Ref // the blob that belongs to it, or nil

	Payload uint32   // for kind RecordPayload: index into Transaction.Payloads
	Source  zodb.Tid // for kind RecordShared: serial of the revision whose data it shares
	Span    Span     // of the record with its header, in the log object or there
}

// A PayloadID names a payload object. It is random.
type PayloadID [16]byte

// NewPayloadID returns a random id.
func NewPayloadID() (id PayloadID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

// PayloadPrefix is what the names of all payload objects start with.
const PayloadPrefix = "payload/"

// Name returns the name of the payload object.
func (id PayloadID) Name() string { return PayloadPrefix + hex.EncodeToString(id[:]) }

const (
	txnFixedSize     = 32
	recordHeaderSize = 28
	crcSize          = 4
	payloadRefSize   = 12
	sharedRefSize    = 8
	blobRefSize      = 24
	flagBlob         = 1
	flagExisted      = 2
	payloadStartSize = 48

	// MaxMeta bounds each of user, description and extension.
	MaxMeta = 1 << 20

	// MaxData bounds the data of one record.
	MaxData = 1<<31 - 1

	maxPayloads = 1 << 16
)

func (t *Transaction) headSize() int {
	return txnFixedSize + len(t.Meta.User) + len(t.Meta.Description) + len(t.Meta.Extension) +
		16*len(t.Payloads) + crcSize
}

func (t *Transaction) size() int {
	n := t.headSize()
	for i := range t.Records {
		n += t.Records[i].encodedSize()
	}
	return n
}

func (r *Record) encodedSize() int {
	n := recordHeaderSize
	if r.Blob != nil {
		n += blobRefSize
	}
	switch r.Kind {
	case RecordData:
		n += len(r.Data)
	case RecordPayload:
		n += payloadRefSize
	case RecordShared:
		n += sharedRefSize
	}
	return n
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
	b = binary.BigEndian.AppendUint32(b, fileformat.CRC(b[start:]))
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
	flags := byte(0)
	if r.Blob != nil {
		flags |= flagBlob
	}
	if r.Existed {
		flags |= flagExisted
	}
	b = append(b, byte(r.Kind), flags, 0, 0)
	b = binary.BigEndian.AppendUint32(b, r.Size)
	b = append(b, 0, 0, 0, 0) // the checksum's place
	if r.Blob != nil {
		b = append(b, r.Blob.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(r.Blob.Size))
	}
	switch r.Kind {
	case RecordData:
		b = append(b, r.Data...)
	case RecordPayload:
		b = binary.BigEndian.AppendUint32(b, r.Payload)
		b = binary.BigEndian.AppendUint64(b, uint64(r.Span.Offset))
	case RecordShared:
		b = binary.BigEndian.AppendUint64(b, uint64(r.Source))
	}
	head, tail := b[start:start+recordHeaderSize-crcSize], b[start+recordHeaderSize:]
	binary.BigEndian.PutUint32(b[start+len(head):], fileformat.CRC(head, tail))
	if r.Kind != RecordPayload {
		r.Span = Span{uint32(start), uint32(len(b) - start)}
	}
	return b
}

// head reads the head of a transaction and returns the number of records.
func (r reader) head() (*Transaction, int, error) {
	start, all := r.Offset(), r.Rest()
	t := &Transaction{Tid: zodb.Tid(r.Uint64())}
	t.Meta.Status = r.Byte()
	r.Zero(3)
	n := r.Uint32()
	user, description, extension, payloads := r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
	if payloads > maxPayloads || user > MaxMeta || description > MaxMeta || extension > MaxMeta {
		return nil, 0, r.Corrupt("a transaction's head is larger than any may be")
	}
	t.Meta.User = r.Bytes(user)
	t.Meta.Description = r.Bytes(description)
	t.Meta.Extension = r.Bytes(extension)
	for range payloads {
		t.Payloads = append(t.Payloads, r.ID())
		if r.Err() != nil {
			return nil, 0, r.Err()
		}
	}
	want := r.Offset() - start
	crc := r.Uint32()
	if r.Err() == nil && crc != fileformat.CRC(all[:want]) {
		return nil, 0, r.Corrupt("the checksum of a transaction's head does not match")
	}
	return t, int(n), r.Err()
}

func (r reader) transaction() (*Transaction, error) {
	t, n, err := r.head()
	if err != nil {
		return nil, err
	}
	if n > len(r.Rest())/recordHeaderSize {
		return nil, r.Corrupt("%d records cannot fit into %d bytes", n, len(r.Rest()))
	}
	t.Records = make([]Record, n)
	for i := range t.Records {
		if t.Records[i], err = r.record(); err != nil {
			return nil, err
		}
		if rec := &t.Records[i]; rec.Kind == RecordPayload && int(rec.Payload) >= len(t.Payloads) {
			return nil, r.Corrupt("a record lies in payload object %d of %d", rec.Payload, len(t.Payloads))
		}
	}
	return t, r.End()
}

func (r reader) record() (rec Record, err error) {
	start, all := r.Offset(), r.Rest()
	rec.Oid = zodb.Oid(r.Uint64())
	rec.Prev = zodb.Tid(r.Uint64())
	rec.Kind = RecordKind(r.Byte())
	flags := r.Byte()
	r.Zero(2)
	rec.Size = r.Uint32()
	crc := r.Uint32()
	if r.Err() != nil {
		return rec, r.Err()
	}
	if flags&^(flagBlob|flagExisted) != 0 {
		return rec, r.Corrupt("unknown flags of a record %#02x", flags)
	}
	rec.Existed = flags&flagExisted != 0
	if flags&flagBlob != 0 {
		rec.Blob = &blob.Ref{ID: r.ID(), Size: int64(r.Uint64())}
		if r.Err() == nil && (rec.Blob.Size < 0 || rec.Kind == RecordDeletion) {
			return rec, r.Corrupt("a record of kind %d with a blob of %d bytes", rec.Kind, rec.Blob.Size)
		}
	}
	switch rec.Kind {
	case RecordData:
		rec.Data = r.Bytes(rec.Size)
	case RecordDeletion:
		if rec.Size != 0 {
			return rec, r.Corrupt("a deletion with %d bytes of data", rec.Size)
		}
	case RecordPayload:
		rec.Payload = r.Uint32()
		at := r.Uint64()
		if at > MaxObjectSize || rec.Size > MaxData {
			return rec, r.Corrupt("a record lies at offset %d of a payload object", at)
		}
		rec.Span = Span{uint32(at), recordHeaderSize + rec.Size}
	case RecordShared:
		rec.Source = zodb.Tid(r.Uint64())
	default:
		return rec, r.Corrupt("unknown kind of record %d", rec.Kind)
	}
	if r.Err() != nil {
		return rec, r.Err()
	}
	if crc != fileformat.CRC(all[:recordHeaderSize-crcSize], all[recordHeaderSize:r.Offset()-start]) {
		return rec, r.Corrupt("the checksum of the record of object %s does not match", rec.Oid)
	}
	if rec.Kind != RecordPayload {
		rec.Span = Span{uint32(start), uint32(r.Offset() - start)}
	}
	return rec, r.Err()
}

// DecodeRecord reads a record of kind RecordData from its span of an object
// and returns its data. It checks that it is the one of the given oid.
func DecodeRecord(name string, span Span, b []byte, oid zodb.Oid) ([]byte, error) {
	r := reader{fileformat.NewReader(name, int64(span.Offset), b)}
	if uint32(len(b)) != span.Size {
		return nil, r.Corrupt("%d bytes expected, %d are there", span.Size, len(b))
	}
	rec, err := r.record()
	if err == nil && (rec.Kind != RecordData || rec.Oid != oid || len(r.Rest()) > 0) {
		err = r.Corrupt("a record of object %s expected, one of %s is there", oid, rec.Oid)
	}
	return rec.Data, err
}

// EncodePayload returns the bytes of a payload object that holds the data of
// the records, and turns them into records of kind RecordPayload that point to
// it. index is what its place in Transaction.Payloads will be. Blobs, and
// whether the object existed, are in the log only.
func EncodePayload(db DatabaseID, id PayloadID, index int, records []*Record) []byte {
	size := payloadStartSize + sha256.Size
	for _, rec := range records {
		size += recordHeaderSize + len(rec.Data)
	}
	b := fileformat.AppendStart(make([]byte, 0, size), payloadMagic, formatVersion, len(records))
	b = append(b, db[:]...)
	b = append(b, id[:]...)
	for _, rec := range records {
		blob, existed := rec.Blob, rec.Existed
		rec.Blob, rec.Existed = nil, false
		b = rec.append(b)
		rec.Kind, rec.Data, rec.Payload, rec.Blob, rec.Existed = RecordPayload, nil, uint32(index), blob, existed
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// DecodePayload reads a whole payload object.
func DecodePayload(name string, b []byte) (DatabaseID, PayloadID, []Record, error) {
	in, count, _, err := fileformat.Open(name, b, payloadMagic, formatVersion, payloadStartSize)
	r := reader{in}
	if err != nil {
		return DatabaseID{}, PayloadID{}, nil, err
	}
	db, id := DatabaseID(r.ID()), PayloadID(r.ID())
	if count > len(r.Rest())/recordHeaderSize {
		return db, id, nil, r.Corrupt("%d records cannot fit into %d bytes", count, len(b))
	}
	records := make([]Record, count)
	for i := range records {
		if records[i], err = r.record(); err != nil {
			return db, id, nil, err
		}
	}
	return db, id, records, r.End()
}

// String names the transaction for people.
func (t *Transaction) String() string {
	return fmt.Sprintf("transaction %s (%d records)", t.Tid, len(t.Records))
}
