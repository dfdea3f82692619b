package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

const (
	magic         = "s3zseg\r\n"
	endMagic      = "s3zend\r\n"
	formatVersion = 1

	startSize  = fileformat.StartSize + 16 + 16 + 4
	footerSize = fileformat.StartSize + 16 + 16 + 3*4
)

func appendStart(b []byte, db [16]byte, id ID) []byte {
	start := len(b)
	b = fileformat.AppendStart(b, magic, formatVersion, 0)
	b = append(b, db[:]...)
	b = append(b, id[:]...)
	return binary.BigEndian.AppendUint32(b, fileformat.CRC(b[start:]))
}

// appendFooter appends the footer to the stored bytes of the directory.
func appendFooter(directory []byte, raw uint32, db [16]byte, id ID) []byte {
	n := len(directory)
	b := fileformat.AppendStart(directory, endMagic, formatVersion, n)
	b = append(b, db[:]...)
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint32(b, raw)
	b = binary.BigEndian.AppendUint32(b, fileformat.CRC(b[:n]))
	return binary.BigEndian.AppendUint32(b, fileformat.CRC(b[n:]))
}

// A Directory says which blocks a segment has, and takes them apart. It is not
// changed any more, and may be used from any number of goroutines.
type Directory struct {
	db                  [16]byte
	info                Info
	data                dataBlocks
	headers, references []Block
	classes             Block
}

// ReadDirectory reads the directory out of the last info.Tail bytes of the file.
// Where it does not agree with info, the error wraps zodb.ErrCorrupt. It needs
// memory for at most five times the directory's length before compression, which
// is at most 64 MiB.
func ReadDirectory(db [16]byte, info Info, tail []byte) (*Directory, error) {
	name := info.ID.Name()
	r := fileformat.NewReader(name, info.Size-int64(len(tail)), tail)
	if len(tail) != int(info.Tail) || len(tail) <= footerSize || int64(len(tail)) > info.Size {
		return nil, r.Corrupt("the last %d bytes of %d expected, %d are there", info.Tail, info.Size, len(tail))
	}
	stored := r.Bytes(uint32(len(tail) - footerSize))
	footer := r.Rest()
	length, err := r.Start(endMagic, formatVersion)
	if err != nil {
		return nil, err
	}
	owner, id := r.ID(), ID(r.ID())
	raw, crc := r.Uint32(), r.Uint32()
	switch {
	case r.Uint32() != fileformat.CRC(footer[:footerSize-4]):
		return nil, r.Corrupt("the checksum of the footer does not match")
	case owner != db:
		return nil, r.Corrupt("it belongs to database %x, not to %x", owner, db)
	case id != info.ID:
		return nil, r.Corrupt("it is segment %s", id)
	case length != len(stored) || !plausible(uint32(length), raw, maxDirectoryRaw):
		return nil, r.Corrupt("a directory of %d bytes, which become %d, in a tail of %d", length, raw, len(tail))
	case crc != fileformat.CRC(stored):
		return nil, r.Corrupt("the checksum of the directory does not match its %d bytes", length)
	}
	b, ok := decompress(nil, stored, raw)
	if !ok {
		return nil, r.Corrupt("the directory does not decompress to %d bytes", raw)
	}
	d := &Directory{db: db, info: Info{ID: id, Tail: info.Tail}}
	r = fileformat.NewReader(name+" (directory, decompressed)", 0, b)
	if err := d.decode(r); err != nil {
		return nil, err
	}
	if d.info != info {
		return nil, r.Corrupt("it says %+v, expected was %+v", d.info, info)
	}
	return d, nil
}

// decode reads the directory, and sets of its info what that says.
func (d *Directory) decode(r *fileformat.Reader) error {
	said := &d.info
	said.Txns, said.Records, said.DataBytes = int64(r.Uvarint()), int64(r.Uvarint()), int64(r.Uvarint())
	said.First, said.Last = zodb.Tid(r.Uvarint()), zodb.Tid(r.Uvarint())
	numbers := [3]uint64{r.Uvarint(), r.Uvarint(), r.Uvarint()}
	if err := fits(r, numbers[0]); err != nil {
		return err
	}
	d.data, said.Scan = readDataBlocks(r, int(numbers[0]), startSize)
	at := said.Scan
	for i, list := range []struct {
		blocks *[]Block
		limit  uint32
	}{{&d.headers, maxHeaderRaw}, {&d.references, maxReferencesRaw}} {
		if err := fits(r, numbers[i+1]); err != nil {
			return err
		}
		blocks := make([]Block, numbers[i+1])
		var before Key
		for j := range blocks {
			before = readKey(r, before)
			blocks[j] = readLengths(r, at, list.limit)
			blocks[j].First = before
			at = blocks[j].End()
		}
		*list.blocks = blocks
	}
	d.classes = readLengths(r, at, maxClassesRaw)
	said.Size = d.classes.End() + int64(said.Tail)
	return r.End()
}

// fits checks that so many blocks with keys can follow.
func fits(r *fileformat.Reader, blocks uint64) error {
	const least = 8 // bytes for one
	if n := uint64(len(r.Rest())) / least; blocks > n {
		return r.Corrupt("%d blocks, where there is room for %d", blocks, n)
	}
	return nil
}

func readLengths(r *fileformat.Reader, at int64, limit uint32) Block {
	stored, raw := r.Uvarint(), r.Uvarint()
	if r.Err() == nil && (max(stored, raw) >= 1<<32 || !plausible(uint32(stored), uint32(raw), limit)) {
		_ = r.Corrupt("a block of %d bytes, which become %d, where at most %d may be", stored, raw, limit)
	}
	return Block{Offset: at, Stored: uint32(stored), Raw: uint32(raw), CRC: r.Uint32()}
}

// Info returns what ReadDirectory was given.
func (d *Directory) Info() Info { return d.info }

// Weight returns how many bytes of memory the directory takes up, about.
func (d *Directory) Weight() int {
	const block = 40
	return 256 + d.data.weight() + block*(len(d.headers)+len(d.references))
}

// Data returns the blocks with the data of records, in the order of the file
// and of keys, in a list that it makes. There are none for deletions.
func (d *Directory) Data() []Block { return d.data.all() }

// Headers returns the blocks that describe transactions and records, in the
// order of the file and of keys. They must not be changed.
func (d *Directory) Headers() []Block { return d.headers }

// References returns the blocks that say of each record with data what it refers
// to and its class, in the order of the file and of keys. They must not be
// changed.
func (d *Directory) References() []Block { return d.references }

// ClassTable returns the block with the names of classes.
func (d *Directory) ClassTable() Block { return d.classes }

// Find returns the block in which the record is if it has data. ok is false where
// there is certainly no such record.
func (d *Directory) Find(tid zodb.Tid, k uint32) (b Block, ok bool) { return d.data.find(Key{tid, k}) }

// FindHeaders returns the index, among those of Headers, of the block in which
// the transaction begins. If there is no such transaction, the first one after
// it begins in that block or in the next one, or there is none.
func (d *Directory) FindHeaders(tid zodb.Tid) (i int) {
	return max(last(d.headers, Key{tid, 0}), 0)
}

// last returns the index of the last block that begins at or before a key, or
// -1.
func last(blocks []Block, k Key) int {
	return sort.Search(len(blocks), func(i int) bool { return blocks[i].First.Compare(k) > 0 }) - 1
}

// Verify checks that these are the stored bytes of the block: their number and
// their checksum. Its error wraps zodb.ErrCorrupt.
func (d *Directory) Verify(b Block, stored []byte) error {
	r := fileformat.NewReader(d.info.ID.Name(), b.Offset, stored)
	if len(stored) != int(b.Stored) {
		return r.Corrupt("a block of %d bytes expected, %d are there", b.Stored, len(stored))
	}
	if fileformat.CRC(stored) != b.CRC {
		return r.Corrupt("the checksum of a block does not match its %d bytes", b.Stored)
	}
	return nil
}

// open verifies and decompresses a block, into the memory of b where that
// suffices.
func (d *Directory) open(b Block, stored, memory []byte) (*fileformat.Reader, error) {
	if err := d.Verify(b, stored); err != nil {
		return nil, err
	}
	raw, ok := decompress(memory, stored, b.Raw)
	if !ok {
		return nil, fileformat.NewReader(d.info.ID.Name(), b.Offset, nil).
			Corrupt("a block of %d bytes does not decompress to %d", b.Stored, b.Raw)
	}
	return fileformat.NewReader(fmt.Sprintf("%s (block at offset %d, decompressed)", d.info.ID.Name(), b.Offset), 0, raw), nil
}

// equal tells whether two directories say the same.
func (d *Directory) equal(other *Directory) bool {
	return d.info == other.info && d.db == other.db && d.classes == other.classes && bytes.Equal(d.data.entries, other.data.entries) &&
		slices.Equal(d.headers, other.headers) && slices.Equal(d.references, other.references)
}
