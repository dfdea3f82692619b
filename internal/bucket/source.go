package bucket

import (
	"context"
	"io"
	"time"
)

// A source is the reader of a PutStream. It ends when ctx is done, and keeps
// why it failed, so that this is not taken for an error of the store.
type source struct {
	ctx  context.Context
	r    io.Reader
	n    uint64        // bytes read
	took time.Duration // in all calls of r
	err  error         // of r or ctx; nil at r's end
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = err
		return 0, err
	}
	start := time.Now()
	n, err := s.r.Read(p)
	s.took += time.Since(start)
	s.n += uint64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
