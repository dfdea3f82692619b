package segment

import (
	"context"
	"fmt"

	"s3storage/internal/fileformat"
)

// Check reads the whole file, every byte of it, and checks all that it says. Its
// error wraps zodb.ErrCorrupt, or zodb.ErrNewerFormat, or is that of fetch. It
// needs as much memory as Scan does, and that of another directory.
func (d *Directory) Check(ctx context.Context, fetch Fetch) error {
	name := d.info.ID.Name()
	read := func(offset, n int64) ([]byte, error) {
		b, err := fetch(ctx, offset, n)
		if err != nil {
			return nil, fmt.Errorf("reading %d bytes of %s at offset %d: %w", n, name, offset, err)
		}
		return b, nil
	}
	start, err := read(0, startSize)
	if err != nil {
		return err
	}
	if err := d.checkStart(fileformat.NewReader(name, 0, start)); err != nil {
		return err
	}
	tail, err := read(d.classes.End(), int64(d.info.Tail))
	if err != nil {
		return err
	}
	now, err := ReadDirectory(d.db, d.info, tail)
	if err != nil {
		return err
	}
	if !d.equal(now) {
		return fileformat.NewReader(name, d.classes.End(), nil).Corrupt("the directory is another one than before")
	}
	// The parts lie one behind the other, from the start to the tail: so the
	// directory was read. All that is left is what the blocks say.
	return d.Scan(ctx, fetch, WithReferences|WithData, func(*Txn) error { return nil })
}

// checkStart checks the bytes before the first block.
func (d *Directory) checkStart(r *fileformat.Reader) error {
	all := r.Rest()
	count, err := r.Start(magic, formatVersion)
	if err != nil {
		return err
	}
	db, id, crc := r.ID(), ID(r.ID()), r.Uint32()
	if err := r.End(); err != nil {
		return err
	}
	switch {
	case crc != fileformat.CRC(all[:startSize-4]):
		return r.Corrupt("the checksum of its start does not match")
	case count != 0:
		return r.Corrupt("the number at offset 12 is %d, not 0", count)
	case db != d.db:
		return r.Corrupt("it belongs to database %x, not to %x", db, d.db)
	case id != d.info.ID:
		return r.Corrupt("it is segment %s", id)
	}
	return nil
}
