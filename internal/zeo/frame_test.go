package zeo

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
)

func TestFramesOfEverySizeAreRead(t *testing.T) {
	var stream []byte
	var want [][]byte
	for _, n := range []int{0, 1, 100, frameBuffer - 5, frameBuffer - 4, frameBuffer - 3, frameStep, frameStep + 1, 5*frameStep + 7, 3} {
		payload := bytes.Repeat([]byte{byte(n)}, n)
		want = append(want, payload)
		stream = AppendFrame(stream, payload)
	}
	r := NewFrameReader(bytes.NewReader(stream), 8*frameStep)
	for i, w := range want {
		got, _, err := r.Next()
		if err != nil || !bytes.Equal(got, w) {
			t.Fatalf("frame %d: %d bytes, want %d: %v", i, len(got), len(w), err)
		}
	}
	if _, _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
}

func TestALongFrameIsRefusedBeforeItIsRead(t *testing.T) {
	r := NewFrameReader(strings.NewReader("\x00\x00\x01\x01"), 256)
	_, _, err := r.Next()
	var size *FrameSizeError
	if !errors.As(err, &size) || size.Size != 257 || size.Max != 256 {
		t.Error(err)
	}
}

// Whoever claims a long frame and sends nothing does not cost its length.
func TestALongFrameCostsWhatArrived(t *testing.T) {
	const claimed = 1 << 30
	r := NewFrameReader(io.MultiReader(strings.NewReader("\x40\x00\x00\x00"), strings.NewReader(strings.Repeat("x", 3*frameStep))), claimed)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64*frameStep {
		t.Errorf("%d bytes", n)
	}
}

func TestReadyTellsWhetherAFrameStandsReady(t *testing.T) {
	client, server := io.Pipe()
	r := NewFrameReader(client, 1000)
	go server.Write([]byte("\x00\x00\x00\x01a\x00\x00\x00\x01b\x00\x00\x00\x02c"))
	if r.Ready() {
		t.Error("before anything was read")
	}
	r.Next()
	if !r.Ready() {
		t.Error("though a frame follows")
	}
	r.Next()
	if r.Ready() {
		t.Error("though half a frame follows")
	}
	go server.Write([]byte("d\x00\x00"))
	r.Next()
	if r.Ready() {
		t.Error("though only half a size follows")
	}
}
