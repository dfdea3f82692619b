package segment

import (
	"io"

	"s3storage/internal/fileformat"
)

// A packer compresses the blocks of a segment, several at a time, and has them
// written in the order in which they came. So the bytes do not depend on how many
// that are. It is for one goroutine.
//
// Invariant: of the blocks under way, which are at most ahead, none has more than
// largeBlock bytes. So it takes a bounded amount of memory beside what it is given.
type packer struct {
	ahead int       // blocks that may be under way when send returns
	queue []*parcel // under way, the oldest first
	free  []*parcel // with buffers to use again
	write func(*parcel) error
}

// largeBlock is the size from which on a block is compressed alone, and its buffers
// are not kept.
const largeBlock = 4 * blockSize

// A parcel is a block on its way through a packer.
type parcel struct {
	block  Block
	kind   *[]Block  // where it is to be noted
	to     io.Writer // what it is to be written to
	raw    []byte
	stored []byte
	done   chan struct{} // gets a value when it is compressed
}

func (p *parcel) pack() {
	p.stored = compress(p.stored[:0], p.raw)
	p.block.Stored, p.block.Raw, p.block.CRC = uint32(len(p.stored)), uint32(len(p.raw)), fileformat.CRC(p.stored)
	p.done <- struct{}{}
}

// parcel returns one that is empty.
func (p *packer) parcel() *parcel {
	if n := len(p.free); n > 0 {
		one := p.free[n-1]
		p.free = p.free[:n-1]
		return one
	}
	return &parcel{done: make(chan struct{}, 1)}
}

// send has a parcel compressed, and written when those before it are. The error may
// be of one of those.
func (p *packer) send(one *parcel) error {
	ahead := p.ahead
	if len(one.raw) > largeBlock {
		ahead = 0
	}
	if err := p.settle(max(ahead-1, 0)); err != nil {
		return err
	}
	p.queue = append(p.queue, one)
	if ahead > 0 {
		go one.pack()
		return nil
	}
	one.pack()
	return p.settle(0)
}

// settle writes the oldest parcels, until no more than n are under way.
func (p *packer) settle(n int) error {
	for len(p.queue) > n {
		one := p.next()
		err := p.write(one)
		if len(one.raw) <= largeBlock {
			one.raw, one.stored = one.raw[:0], one.stored[:0]
			p.free = append(p.free, one)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next waits for the oldest parcel and takes it out of the queue.
func (p *packer) next() *parcel {
	one := p.queue[0]
	p.queue = append(p.queue[:0], p.queue[1:]...)
	<-one.done
	return one
}

// abandon waits for what is under way, and forgets it.
func (p *packer) abandon() {
	for len(p.queue) > 0 {
		p.next()
	}
}
