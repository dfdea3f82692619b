package filestorage

import "io"

// windowSize is how much a window reads at once, unless it is asked for more.
const windowSize = 1 << 20

// A window reads a file mostly forward, in large pieces.
type window struct {
	r    io.ReaderAt
	buf  []byte // what is held
	from int64  // where in the file it begins
}

// at returns n bytes at an offset, valid until the next call. The caller has
// made sure that the file has them, if it has not become shorter.
func (w *window) at(offset int64, n int, size int64) ([]byte, error) {
	if i := offset - w.from; i >= 0 && i+int64(n) <= int64(len(w.buf)) {
		return w.buf[i : i+int64(n)], nil
	}
	want := int(min(max(int64(n), windowSize), size-offset))
	if n > want {
		return nil, io.ErrUnexpectedEOF
	}
	// What an unusually large piece took is let go of with the next read.
	if want > cap(w.buf) || want <= windowSize && cap(w.buf) > windowSize {
		w.buf = make([]byte, want, max(want, windowSize))
	}
	w.buf, w.from = w.buf[:want], offset
	read, err := w.r.ReadAt(w.buf, offset)
	w.buf = w.buf[:read]
	if read < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return w.buf[:n], nil
}

// drop forgets what is held.
func (w *window) drop() { w.buf = w.buf[:0] }
