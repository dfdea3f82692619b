package zeo

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// DefaultMaxFrame is the longest frame taken unless configured otherwise. One
// frame holds one record. ZODB warns its users of records beyond 16 MiB, yet
// has no limit, and databases with single records past 100 MiB are about.
const DefaultMaxFrame = 256 << 20

// A FrameSizeError reports a frame that is longer than the receiver takes.
type FrameSizeError struct{ Size, Max int }

func (e *FrameSizeError) Error() string {
	return fmt.Sprintf("frame of %d bytes is over the limit of %d", e.Size, e.Max)
}

const (
	frameBuffer = 64 << 10 // shorter frames are read in place
	frameStep   = 1 << 20  // reserved for a long frame before any of it arrived
)

// A FrameReader cuts a stream into frames.
type FrameReader struct {
	Max int // the longest frame to take; may change between calls of Next

	r    *bufio.Reader
	held int // bytes of the frame returned last that still stand in r
}

// NewFrameReader returns a FrameReader that takes frames of up to limit bytes.
func NewFrameReader(r io.Reader, limit int) *FrameReader {
	return &FrameReader{Max: limit, r: bufio.NewReaderSize(r, frameBuffer)}
}

// Next returns the bytes of the next frame. Where owned is false they are valid
// until the next call of Next only. The error is io.EOF at the end of the
// stream between two frames.
func (f *FrameReader) Next() (frame []byte, owned bool, err error) {
	if f.held > 0 {
		_, _ = f.r.Discard(f.held) // cannot fail: the bytes were peeked
		f.held = 0
	}
	head, err := f.r.Peek(4)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, false, err
	}
	size := binary.BigEndian.Uint32(head)
	if int64(size) > int64(f.Max) {
		return nil, false, &FrameSizeError{Size: int(size), Max: f.Max}
	}
	n := int(size)
	if n+4 <= frameBuffer {
		b, err := f.r.Peek(n + 4)
		if err != nil {
			return nil, false, unexpected(err)
		}
		f.held = n + 4
		return b[4:], false, nil
	}
	_, _ = f.r.Discard(4)
	frame = make([]byte, 0, min(n, frameStep))
	for len(frame) < n {
		if len(frame) == cap(frame) {
			grown := make([]byte, len(frame), min(n, 4*cap(frame)))
			copy(grown, frame)
			frame = grown
		}
		m, err := io.ReadFull(f.r, frame[len(frame):cap(frame)])
		frame = frame[:len(frame)+m]
		if err != nil {
			return nil, false, unexpected(err)
		}
	}
	return frame, true, nil
}

// Ready reports whether Next will return a frame, or fail, without waiting.
func (f *FrameReader) Ready() bool {
	n := f.r.Buffered() - f.held
	if n < 4 {
		return false
	}
	b, _ := f.r.Peek(f.held + 4)
	size := int64(binary.BigEndian.Uint32(b[f.held:]))
	return size+4 <= int64(n) || size > int64(f.Max)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// AppendFrame appends a frame that holds payload.
func AppendFrame(b, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// beginFrame makes room for the size of a frame, endFrame fills it in.
func beginFrame(b []byte) ([]byte, int) {
	return append(b, 0, 0, 0, 0), len(b)
}

func endFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}
