package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A file of the disk cache holds:
//
//	 0   8  magic word "s3zcch\r\n"
//	 8   2  format version, 1
//	10   2  flags, 0
//	12   4  length of the object's name
//	16  16  database id
//	32   8  offset of the range
//	40   8  length of the range
//	48      the object's name
//	     4  CRC-32C of all before and of the bytes
//	        the bytes
//
// All but the checksum and the bytes is known before the file is opened.
func (d *Disk) header(r Range) []byte {
	b := []byte("s3zcch\r\n")
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Name)))
	b = append(b, d.database[:]...)
	return appendRange(b, r)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(header, data []byte) []byte {
	sum := crc32.Update(crc32.Checksum(header, castagnoli), castagnoli, data)
	return binary.BigEndian.AppendUint32(nil, sum)
}

var errDamaged = errors.New("not what was written")

// readFile returns the bytes of a range from a file that must begin with that
// header, and the file's modification time.
func readFile(path string, header []byte, r Range) (data []byte, modified time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, modified, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, modified, err
	}
	start := len(header) + crc32.Size
	if info.Size() != int64(start)+r.Size {
		return nil, modified, fmt.Errorf("%s: %w: %d bytes", path, errDamaged, info.Size())
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, modified, err
	}
	data = b[start:]
	if !bytes.HasPrefix(b, header) || !bytes.Equal(b[len(header):start], checksum(header, data)) {
		return nil, modified, fmt.Errorf("%s: %w", path, errDamaged)
	}
	return data, info.ModTime(), nil
}

// writeFile writes a file, and the directory it is in if there is none.
func writeFile(path string, parts ...[]byte) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err = os.OpenFile(path, flags, 0o600)
	}
	if err != nil {
		return err
	}
	for _, part := range parts {
		if _, err = f.Write(part); err != nil {
			break
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
