package bench

import (
	"io"
	"time"
)

// blobText reads as much text as the options give to a blob.
func (w *worker) blobText(size int) io.Reader {
	return io.LimitReader(&repeated{text: prose()}, int64(size))
}

// A repeated reads the same text again and again.
type repeated struct {
	text string
	at   int
}

// Read implements io.Reader.
func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

// upload commits a new revision of the object, with a blob of so many bytes.
func (w *worker) upload(obj *object, size int) error {
	tid, conflict, err := w.transaction(func(id int64) error {
		w.record = appendRecord(w.record[:0], w.mu.rand, minRecord)
		return w.client.StoreBlob(obj.oid, obj.serial, w.record, w.blobText(size), id)
	})
	if err := w.alone(conflict, err); err != nil {
		return err
	}
	obj.serial = tid
	return nil
}

// uploadUntil uploads new blobs until l says that it is time.
func (w *worker) uploadUntil(l *limit) error {
	for l.next(time.Now()) {
		oid, err := w.oid()
		if err != nil {
			return err
		}
		start := time.Now()
		if err := w.upload(&object{oid: oid}, w.session.options.Size); err != nil {
			return err
		}
		w.mu.figures.Commits.Add(time.Since(start))
		w.mu.figures.Stored++
	}
	return nil
}

// downloadUntil reads the session's blob until l says that it is time.
func (w *worker) downloadUntil(l *limit) error {
	for l.next(time.Now()) {
		start := time.Now()
		blob := w.session.set[0]
		if err := w.client.SendBlob(blob.oid, blob.serial, io.Discard); err != nil {
			return err
		}
		w.mu.figures.Loads.Add(time.Since(start))
	}
	return nil
}
