package zeo

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"
	"testing"
)

// A fixture is one message as ZEO's own encoder writes it.
type fixture struct {
	name   string
	frames map[Encoding][]byte
}

func readFixtures(t testing.TB, name string, into any) {
	t.Helper()
	file, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var fixturesOnce struct {
	sync.Once
	fs []fixture
}

func fixtures(t testing.TB) []fixture {
	t.Helper()
	fixturesOnce.Do(func() { fixturesOnce.fs = loadFixtures(t) })
	return fixturesOnce.fs
}

func loadFixtures(t testing.TB) []fixture {
	t.Helper()
	var entries []struct{ Name, Z5, M5 string }
	readFixtures(t, "messages.json.gz", &entries)
	var fs []fixture
	for _, e := range entries {
		f := fixture{e.Name, map[Encoding][]byte{}}
		for enc, s := range map[Encoding]string{Z5: e.Z5, M5: e.M5} {
			if b := unhex(t, s); len(b) > 0 {
				f.frames[enc] = b
			}
		}
		fs = append(fs, f)
	}
	return fs
}

func fixtureNamed(t testing.TB, enc Encoding, name string) []byte {
	t.Helper()
	for _, f := range fixtures(t) {
		if f.name == name {
			return f.frames[enc]
		}
	}
	t.Fatalf("no fixture %q", name)
	return nil
}

// encode writes a decoded message again.
func encode(t testing.TB, enc Encoding, m Message, flag any) []byte {
	t.Helper()
	b, err := enc.appendMessage(nil, m.ID, flag, m.Name, m.Args)
	if err != nil {
		t.Fatal(err)
	}
	return b[4:]
}

func TestMessagesAreReadAndWrittenAsZEODoes(t *testing.T) {
	for _, f := range fixtures(t) {
		for enc, frame := range f.frames {
			t.Run(f.name+" "+enc.String(), func(t *testing.T) {
				m, err := enc.Decode(frame)
				if err != nil {
					t.Fatal(err)
				}
				var flag any = m.Flag
				if !m.IsReply() {
					flag = m.Flag == FlagOneWay
				}
				if got := encode(t, enc, m, flag); !bytes.Equal(got, frame) {
					t.Errorf("written as\n%x, not\n%x", got, frame)
				}
			})
		}
	}
}

func TestBothEncodingsSayTheSame(t *testing.T) {
	for _, f := range fixtures(t) {
		if f.frames[M5] == nil {
			continue
		}
		z, err := Z5.Decode(f.frames[Z5])
		if err != nil {
			t.Fatal(err)
		}
		m, err := M5.Decode(f.frames[M5])
		if err != nil {
			t.Fatal(err)
		}
		if z.Name != m.Name || z.Flag != m.Flag || !Equal(tuples(z.Args), m.Args) {
			t.Errorf("%s: %v is not %v", f.name, z, m)
		}
	}
}

// tuples returns v as msgpack tells it: without lists.
func tuples(v any) any {
	switch v := v.(type) {
	case List:
		return tuples(Tuple(v))
	case Tuple:
		out := make(Tuple, len(v))
		for i := range v {
			out[i] = tuples(v[i])
		}
		return out
	case Dict:
		out := make(Dict, len(v))
		for i := range v {
			out[i] = Item{v[i].Key, tuples(v[i].Value)}
		}
		return out
	}
	return v
}
