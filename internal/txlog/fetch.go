package txlog

import (
	"context"
	"sync"
)

// A fetcher reads log objects before they are asked for: after each that it
// finds, twice as many at a time, up to home.atOnce. It does so without knowing
// what there is; what it asks for in vain is dropped. It is for one goroutine.
type fetcher struct {
	home home
	wg   sync.WaitGroup // of the reads under way

	ctx    context.Context // of the reads of this epoch
	cancel context.CancelFunc
	epoch  Epoch
	next   Slot // the next one to be read
	window int
	queue  []chan fetched // those before it
}

type fetched struct {
	object *Object
	err    error
}

// get returns the object of a position, or fails with bucket.ErrNotExist if it
// was not there at some time since the fetcher was made.
func (f *fetcher) get(ctx context.Context, p Position) (*Object, error) {
	if p.Epoch != f.epoch || p.Slot != f.next-Slot(len(f.queue)) {
		f.drop()
		f.ctx, f.cancel = context.WithCancel(ctx)
		f.epoch, f.next, f.window = p.Epoch, p.Slot, 1
	}
	for len(f.queue) < f.window {
		ctx, name, result := f.ctx, Name(f.epoch, f.next), make(chan fetched, 1)
		f.wg.Go(func() {
			o, err := f.home.readObject(ctx, name)
			result <- fetched{o, err}
		})
		f.queue = append(f.queue, result)
		f.next++
	}
	got := <-f.queue[0]
	f.queue = f.queue[1:]
	if got.err == nil {
		f.window = min(2*f.window, f.home.atOnce)
	}
	return got.object, got.err
}

// drop gives up what is under way.
func (f *fetcher) drop() {
	if f.cancel != nil {
		f.cancel()
	}
	f.queue = nil
}

// stop gives up what is under way and waits for its end.
func (f *fetcher) stop() {
	f.drop()
	f.wg.Wait()
}
