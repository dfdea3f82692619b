package zeo

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// seed adds every fixture of an encoding.
func seed(f *testing.F, enc Encoding) {
	for _, x := range fixtures(f) {
		if b := x.frames[enc]; len(b) > 0 && len(b) < 4096 {
			f.Add(b)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02Z5\x00\x00\x00\x00"), uint16(100))
	f.Add([]byte("\x00\x01\x00\x00xyz"), uint16(1000))
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		whole := NewFrameReader(bytes.NewReader(b), int(limit))
		bytewise := NewFrameReader(iotest.OneByteReader(bytes.NewReader(b)), int(limit))
		var again []byte
		for {
			x, _, errX := whole.Next()
			y, _, errY := bytewise.Next()
			if !bytes.Equal(x, y) || (errX == nil) != (errY == nil) || errX != nil && errX.Error() != errY.Error() {
				t.Fatalf("%q %v, byte by byte %q %v", x, errX, y, errY)
			}
			if errX == nil {
				if len(x) > int(limit) {
					t.Fatalf("%d bytes, the limit is %d", len(x), limit)
				}
				again = AppendFrame(again, x)
				continue
			}
			if !bytes.HasPrefix(b, again) || errX == io.EOF && len(again) != len(b) {
				t.Fatalf("%q is not %q", again, b)
			}
			var size *FrameSizeError
			if errX != io.EOF && errX != io.ErrUnexpectedEOF && !errors.As(errX, &size) {
				t.Fatal(errX)
			}
			return
		}
	})
}

// What was decoded is encoded and decoded again, with the same result. No
// encoding is much longer than what it was decoded from was allowed to say.
func roundTrip(t *testing.T, enc Encoding, b []byte) {
	enc.DecodeLoadBefore(b)
	enc.DecodeLoadBeforeReply(b)
	if m, err := enc.Decode(b); err == nil {
		m.IsHeartbeat(enc)
		_ = AsError(m.Args).Error()
	}
	v, err := enc.decode(b)
	if err != nil {
		return
	}
	out, err := enc.appendValue(nil, v)
	if err != nil {
		t.Fatalf("%v was decoded and cannot be encoded: %v", v, err)
	}
	again, err := enc.decodeValue(out)
	if err != nil || !Equal(v, again) {
		t.Fatalf("%v became %v, %v", v, again, err)
	}
	other := Z5 + M5 - enc
	if out, err := other.appendValue(nil, v); err == nil {
		if _, err := other.decodeValue(out); err != nil {
			t.Fatalf("%v in the other encoding: %v", v, err)
		}
	}
}

func FuzzZ5(f *testing.F) {
	seed(f, Z5)
	var entries []struct{ Name, Pickle string }
	readFixtures(f, "pickles.json.gz", &entries)
	for _, e := range entries {
		if b := unhex(f, e.Pickle); len(b) < 4096 {
			f.Add(b)
		}
	}
	f.Add([]byte("\x80\x03cZopeUndo.Prefix\nPrefix\n)\x81}(X\x06\x00\x00\x00lengthK\x01X\x04\x00\x00\x00path]X\x01\x00\x00\x00aaub."))
	f.Fuzz(func(t *testing.T, b []byte) { roundTrip(t, Z5, b) })
}

func FuzzM5(f *testing.F) {
	seed(f, M5)
	f.Fuzz(func(t *testing.T, b []byte) { roundTrip(t, M5, b) })
}
