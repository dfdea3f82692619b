package filestorage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"s3storage/internal/zodb"
)

// Append opens a file to go on after its last transaction. It reads the whole
// file for that, which also checks it. It cuts off what an earlier Writer, or a
// FileStorage, has left unfinished at the end, and returns how many bytes that
// were. Damage that whole transactions follow is an error, and nothing is
// changed then.
func Append(name string) (w *Writer, cut int64, err error) {
	lock, err := lockFile(name)
	if err != nil {
		return nil, 0, err
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, errors.Join(err, lock.Close())
	}
	w = &Writer{name: name, file: file, lock: lock, index: positions{}}
	if cut, err = w.scan(); err != nil {
		return nil, 0, errors.Join(err, w.Close())
	}
	return w, cut, nil
}

// scan finds the last transaction and the positions of all objects' records.
func (w *Writer) scan() (cut int64, err error) {
	info, err := w.file.Stat()
	if err != nil {
		return 0, err
	}
	r, err := NewReader(w.file, info.Size(), w.name)
	if err != nil {
		return 0, err
	}
	if r.python2 {
		return 0, fmt.Errorf("%s was written by Python 2: %w, as its records and those of Python 3 do not go together", w.name, zodb.ErrUnsupported)
	}
	for {
		_, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, zodb.ErrCorrupt) {
			// Without records there is nothing whose loss could matter.
			if next, searchErr := r.search(r.next + 1); searchErr != nil || next < r.size {
				return 0, errors.Join(err, searchErr)
			}
			break
		}
		if err != nil {
			return 0, err
		}
		for {
			rec, err := r.NextRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, err
			}
			w.index.set(rec.Oid, rec.Pos)
		}
	}
	w.at, w.last = r.next, r.last
	if cut = r.size - r.next; cut > 0 {
		if err := errors.Join(w.file.Truncate(r.next), w.file.Sync()); err != nil {
			return 0, err
		}
	}
	return cut, nil
}
