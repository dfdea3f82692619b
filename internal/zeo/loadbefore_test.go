package zeo

import (
	"bytes"
	"testing"

	"s3storage/internal/zodb"
)

func TestTheHotPathTakesWhatStockClientsSend(t *testing.T) {
	for _, enc := range []Encoding{Z5, M5} {
		frame := fixtureNamed(t, enc, "loadBefore")
		id, oid, tid, ok := enc.DecodeLoadBefore(frame)
		if !ok || oid != 0 || tid != zodb.MaxTid || !bytes.Equal(id, enc.LoadID(oid, tid)) {
			t.Errorf("%s: %x %s %s %v", enc, []byte(id), oid, tid, ok)
		}
		if got := enc.AppendLoadBefore(nil, 0, zodb.MaxTid)[4:]; !bytes.Equal(got, frame) {
			t.Errorf("%s: call written as %x", enc, got)
		}
		for _, name := range []string{"reply load", "reply load before", "reply load large", "reply load none"} {
			frame := fixtureNamed(t, enc, name)
			r, ok := enc.DecodeLoadBeforeReply(frame)
			if !ok {
				t.Errorf("%s: %s is not recognised", enc, name)
			}
			if got := enc.AppendLoadBeforeReply(nil, enc.LoadID(r.Oid, r.Tid), r.Rev, !r.None)[4:]; !bytes.Equal(got, frame) {
				t.Errorf("%s: %s written as %x", enc, name, got)
			}
		}
	}
}

func TestTheHotPathLeavesTheRestAlone(t *testing.T) {
	for _, f := range fixtures(t) {
		for enc, frame := range f.frames {
			if _, _, _, ok := enc.DecodeLoadBefore(frame); ok != (f.name == "loadBefore") {
				t.Errorf("%s %s: a load: %v", f.name, enc, ok)
			}
			load := f.name == "reply load" || f.name == "reply load before" ||
				f.name == "reply load large" || f.name == "reply load none"
			if _, ok := enc.DecodeLoadBeforeReply(frame); ok != load {
				t.Errorf("%s %s: the reply to a load: %v", f.name, enc, ok)
			}
			for n := range min(len(frame), 200) {
				enc.DecodeLoadBefore(frame[:n])
				if _, ok := enc.DecodeLoadBeforeReply(frame[:n]); ok {
					t.Errorf("%s %s: %d bytes are enough", f.name, enc, n)
				}
			}
		}
	}
}

func TestTheHotPathDoesNotAllocate(t *testing.T) {
	rev := zodb.Revision{Data: make([]byte, 500), Serial: 5}
	for _, enc := range []Encoding{Z5, M5} {
		frame := fixtureNamed(t, enc, "loadBefore")
		out := make([]byte, 0, 1000)
		n := testing.AllocsPerRun(100, func() {
			id, _, _, _ := enc.DecodeLoadBefore(frame)
			out = enc.AppendLoadBeforeReply(out[:0], id, rev, true)
			enc.DecodeLoadBeforeReply(out[4:])
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", enc, n)
		}
	}
}

func BenchmarkLoadBeforeCall(b *testing.B) {
	for _, enc := range []Encoding{Z5, M5} {
		frame := fixtureNamed(b, enc, "loadBefore")
		b.Run(enc.String()+"/fast", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, ok := enc.DecodeLoadBefore(frame); !ok {
					b.Fatal()
				}
			}
		})
		b.Run(enc.String()+"/general", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := enc.Decode(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLoadBeforeReply(b *testing.B) {
	rev := zodb.Revision{Data: make([]byte, 500), Serial: 5}
	for _, enc := range []Encoding{Z5, M5} {
		id := enc.LoadID(1, 2)
		var out []byte
		b.Run(enc.String()+"/encode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				out = enc.AppendLoadBeforeReply(out[:0], id, rev, true)
			}
		})
		b.Run(enc.String()+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := enc.DecodeLoadBeforeReply(out[4:]); !ok {
					b.Fatal()
				}
			}
		})
		b.Run(enc.String()+"/decode general", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := enc.Decode(out[4:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStorea(b *testing.B) {
	for _, enc := range []Encoding{Z5, M5} {
		frame := fixtureNamed(b, enc, "storea")
		b.Run(enc.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := enc.Decode(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
