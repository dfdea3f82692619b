package segment

import (
	"context"
	"fmt"
)

// A Fetch returns exactly n bytes of the file from an offset on. It may be called
// from several goroutines at once. It may be asked for up to 4 MiB, or for one
// block.
type Fetch func(ctx context.Context, offset, n int64) ([]byte, error)

// rangeSize is how many bytes are fetched at once, unless one block has more.
const rangeSize = 4 << 20

// fetchTries is how often a block is fetched before it is taken to be damaged.
const fetchTries = 4

// A stream reads blocks that lie one behind the other, in ranges: the next one
// while the one before is in use.
type stream struct {
	d      *Directory
	fetch  Fetch
	blocks []Block // what next has not returned
	stored []byte  // of the first of them, as far as they are here

	rest  []Block // of which nothing was fetched
	size  int64   // of the range that is being fetched
	at    int64   // its offset
	ahead chan fetched
}

type fetched struct {
	b   []byte
	err error
}

func newStream(d *Directory, fetch Fetch, blocks []Block) *stream {
	return &stream{d: d, fetch: fetch, blocks: blocks, rest: blocks}
}

// next returns the next block; ok is false behind the last one.
func (s *stream) next(ctx context.Context) (b Block, stored []byte, ok bool, err error) {
	if len(s.blocks) == 0 {
		return b, nil, false, nil
	}
	if len(s.stored) == 0 {
		if s.ahead == nil {
			s.start(ctx)
		}
		got := <-s.ahead
		s.ahead = nil
		if got.err == nil && int64(len(got.b)) != s.size {
			got.err = fmt.Errorf("there are %d", len(got.b))
		}
		if got.err != nil {
			return b, nil, false, fmt.Errorf("reading %d bytes of %s at offset %d: %w", s.size, s.d.info.ID.Name(), s.at, got.err)
		}
		s.stored = got.b
		s.start(ctx)
	}
	b = s.blocks[0]
	stored = s.stored[:b.Stored:b.Stored]
	s.blocks, s.stored = s.blocks[1:], s.stored[b.Stored:]
	// It may have been damaged on the way.
	for tries := 1; s.d.Verify(b, stored) != nil; tries++ {
		if tries == fetchTries {
			return b, nil, false, s.d.Verify(b, stored)
		}
		if stored, err = s.fetch(ctx, b.Offset, int64(b.Stored)); err != nil {
			return b, nil, false, err
		}
	}
	return b, stored, true, nil
}

// start begins to fetch the next range, if there is one.
func (s *stream) start(ctx context.Context) {
	if len(s.rest) == 0 {
		return
	}
	offset, n := s.rest[0].Offset, int64(0)
	for len(s.rest) > 0 && (n == 0 || n+int64(s.rest[0].Stored) <= rangeSize) {
		n += int64(s.rest[0].Stored)
		s.rest = s.rest[1:]
	}
	ahead := make(chan fetched, 1)
	s.at, s.size, s.ahead = offset, n, ahead
	go func() {
		b, err := s.fetch(ctx, offset, n)
		ahead <- fetched{b, err}
	}()
}

// wait returns when nothing is being fetched any more.
func (s *stream) wait() {
	if s.ahead != nil {
		<-s.ahead
	}
}
