package filestorage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"s3storage/internal/zodb"
)

// ErrReplaced is the class of errors about a file that is not the one that was
// read before: a pack renames the file and puts another in its place.
var ErrReplaced = errors.New("it was packed or replaced; read it again from its begin")

// A Position is between two transactions of a file. The zero Position is its
// begin.
type Position struct {
	Offset int64
	Tid    zodb.Tid // of the transaction that ends there
}

// Position returns where the transaction ends that Next returned last.
func (r *Reader) Position() Position {
	if r.last == zodb.NoTid {
		return Position{}
	}
	return Position{r.next, r.last}
}

// Resume goes on at a position that a reader of the same file was at, in another
// process maybe. It returns an error that wraps ErrReplaced if no transaction
// with that tid ends there.
func (r *Reader) Resume(p Position) error {
	if p == (Position{}) {
		p.Offset = magicSize
	} else if err := r.verify(p); err != nil {
		return err
	}
	r.next, r.last = p.Offset, p.Tid
	r.records, r.end = 0, 0
	return nil
}

func (r *Reader) verify(p Position) error {
	wrong := fmt.Errorf("%s: transaction %s, which was read last, does not end at byte %d any more: %w", r.name, p.Tid, p.Offset, ErrReplaced)
	if p.Offset > r.size || p.Offset < magicSize+txnHeaderSize+txnTrailerSize {
		return wrong
	}
	b, err := r.aside(p.Offset-txnTrailerSize, txnTrailerSize)
	if err != nil {
		return err
	}
	length := binary.BigEndian.Uint64(b)
	if length < txnHeaderSize || length > uint64(p.Offset-txnTrailerSize-magicSize) {
		return wrong
	}
	b, err = r.aside(p.Offset-txnTrailerSize-int64(length), txnHeaderSize)
	if err != nil {
		return err
	}
	if h := parseTxnHeader(b); h.tid != p.Tid || h.length != length {
		return wrong
	}
	return nil
}

// Refresh lets Next go on with what was written to the file since, after it
// has returned io.EOF. It returns an error that wraps ErrReplaced if the name
// of the file stands for another file now, or if the file has lost transactions
// that were read.
func (r *Reader) Refresh() error {
	if r.file == nil {
		return nil
	}
	now, err := os.Stat(r.name)
	if err != nil {
		return err
	}
	open, err := r.file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(now, open) {
		return fmt.Errorf("%s is another file now: %w", r.name, ErrReplaced)
	}
	if open.Size() < r.next {
		return fmt.Errorf("%s has become shorter than what was read of it: %w", r.name, ErrReplaced)
	}
	r.size = open.Size()
	r.w.drop()
	return nil
}

// grow takes notice of what was written to the file since.
func (r *Reader) grow() error {
	if r.file == nil {
		return nil
	}
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	r.size = max(r.size, info.Size())
	return nil
}
