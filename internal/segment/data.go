package segment

import (
	"bytes"
	"encoding/binary"
	"sync"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// maxDataEntry bounds what a record takes up in the head of a data block, and
// the length of the head.
const maxDataEntry = 40

// dataBuilder gathers the records of a data block.
type dataBuilder struct {
	head, data []byte
	first      Key
	last       Key
	oid        zodb.Oid
}

func (d *dataBuilder) empty() bool { return len(d.head) == 0 }

// room tells whether a record of n bytes may come to those that are there.
func (d *dataBuilder) room(n int) bool {
	return d.empty() || len(d.head)+len(d.data)+maxDataEntry+n <= blockSize
}

// add adds a record to the head. Its data is still to be added.
func (d *dataBuilder) add(k Key, oid zodb.Oid, n int) {
	if d.empty() {
		d.first = k
	}
	d.head = appendKey(d.head, d.last, k)
	d.head = appendStep(d.head, d.oid, oid)
	d.head = binary.AppendUvarint(d.head, uint64(n))
	d.last, d.oid = k, oid
}

// take appends to raw the bytes of the block, which end with more, and begins a new
// one.
func (d *dataBuilder) take(raw, more []byte) []byte {
	raw = appendBytes(raw, d.head)
	raw = append(raw, d.data...)
	raw = append(raw, more...)
	*d = dataBuilder{head: d.head[:0], data: d.data[:0]}
	return raw
}

// dataItems goes over the records of a data block.
type dataItems struct {
	head, data *fileformat.Reader
	first      Key // that the directory says
	begun      bool
	key        Key // of the record that next returned last
	oid        zodb.Oid
}

// openData verifies and decompresses a data block, into the memory of b where
// that suffices.
func (d *Directory) openData(b Block, stored, memory []byte) (*dataItems, error) {
	r, err := d.open(b, stored, memory)
	if err != nil {
		return nil, err
	}
	n := r.Uvarint()
	if n > uint64(b.Raw) {
		return nil, r.Corrupt("a head of %d bytes in a block of %d", n, b.Raw)
	}
	items := &dataItems{head: r.Sub(uint32(n)), data: r, first: b.First}
	if r.Err() == nil && n == 0 {
		return nil, r.Corrupt("no record in a data block")
	}
	return items, r.Err()
}

func (i *dataItems) more() bool { return len(i.head.Rest()) > 0 }

// next moves to the next record and returns its data, which shares memory with
// the block.
func (i *dataItems) next() ([]byte, error) {
	i.key = readKey(i.head, i.key)
	i.oid = readStep(i.head, i.oid)
	n := i.head.Uvarint()
	if err := i.head.Err(); err != nil {
		return nil, err
	}
	if !i.begun && i.key != i.first {
		return nil, i.head.Corrupt("the first record is %s, by the directory it is %s", i.key, i.first)
	}
	i.begun = true
	if n > maxData {
		return nil, i.head.Corrupt("a record of %d bytes", n)
	}
	data := i.data.Bytes(uint32(n))
	if err := i.data.Err(); err != nil {
		return nil, err
	}
	if !i.more() {
		return data, i.data.End()
	}
	return data, nil
}

// DecodeData calls fn for all records of a data block, in order. Their data
// shares memory that is not used again.
func (d *Directory) DecodeData(b Block, stored []byte, fn func(tid zodb.Tid, k uint32, oid zodb.Oid, data []byte) error) error {
	items, err := d.openData(b, stored, nil)
	if err != nil {
		return err
	}
	for items.more() {
		data, err := items.next()
		if err != nil {
			return err
		}
		if err := fn(items.key.Tid, items.key.K, items.oid, data); err != nil {
			return err
		}
	}
	return nil
}

// buffers are for blocks that hold several records.
var buffers = sync.Pool{New: func() any { return new([2 * blockSize]byte) }}

// Record returns the data of one record out of the block that Find names. It
// is a copy of its own. An error wraps zodb.ErrCorrupt, also where the record is
// not there or is of another object.
func (d *Directory) Record(b Block, stored []byte, tid zodb.Tid, k uint32, oid zodb.Oid) ([]byte, error) {
	var memory []byte
	shared := b.Raw <= 2*blockSize-spare
	if shared {
		buffer := buffers.Get().(*[2 * blockSize]byte)
		defer buffers.Put(buffer)
		memory = buffer[:0]
	}
	items, err := d.openData(b, stored, memory)
	if err != nil {
		return nil, err
	}
	want := Key{tid, k}
	for items.more() {
		data, err := items.next()
		if err != nil {
			return nil, err
		}
		switch c := items.key.Compare(want); {
		case c < 0:
			continue
		case c > 0:
			return nil, items.head.Corrupt("record %s of object %s is not there", want, oid)
		case items.oid != oid:
			return nil, items.head.Corrupt("record %s is of object %s, not of %s", want, items.oid, oid)
		case shared:
			return bytes.Clone(data), nil
		}
		return data, nil // alone in its block
	}
	return nil, items.head.Corrupt("record %s of object %s is not there", want, oid)
}
