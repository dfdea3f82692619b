package bench

import "time"

// Of each so many transactions of a writer one has a blob, of so many bytes, and
// one is the undo of that before it.
const (
	writersRound    = 10
	writersBlobAt   = 4
	writersUndoAt   = 9
	writersBlobSize = 100_000
)

// writeBeside commits changes of the worker's share of what is loaded, blobs and
// undos among them, until l says that it is time.
func (w *worker) writeBeside(l *limit) error {
	for l.next(time.Now()) {
		start := time.Now()
		var err error
		switch w.turn % writersRound {
		case writersBlobAt:
			err = w.upload(&w.blob, writersBlobSize)
		case writersUndoAt:
			err = w.alone(w.undo(w.batch))
		default:
			w.batch = w.batch[:0]
			for len(w.batch) < min(w.session.options.Objects, len(w.own)) {
				w.batch = append(w.batch, w.nextOwn())
			}
			err = w.alone(w.try(w.batch))
		}
		if err != nil {
			return err
		}
		w.turn++
		w.mu.figures.Beside.Add(time.Since(start))
	}
	return nil
}
