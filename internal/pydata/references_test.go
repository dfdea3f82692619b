package pydata

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"s3storage/internal/pickle"
	"s3storage/internal/zodb"
)

// A fixture is a record and what ZODB finds in it.
type fixture struct {
	name   string
	record []byte
	class  string
	refs   []zodb.Oid // in the order of the record, and as often
}

func fixtures(t testing.TB) (fs []fixture) {
	t.Helper()
	file, err := os.Open("testdata/records.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var entries []struct {
		Name, Record, Class string
		Refs                []string
	}
	if err := json.NewDecoder(z).Decode(&entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		f := fixture{name: e.Name, class: e.Class}
		if f.record, err = hex.DecodeString(e.Record); err != nil {
			t.Fatal(err)
		}
		for _, r := range e.Refs {
			b, err := hex.DecodeString(r)
			if err != nil {
				t.Fatal(err)
			}
			oid, err := zodb.OidFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			f.refs = append(f.refs, oid)
		}
		fs = append(fs, f)
	}
	return fs
}

// distinct returns each oid once, at its first place.
func distinct(oids []zodb.Oid) (out []zodb.Oid) {
	for i, oid := range oids {
		if !slices.Contains(oids[:i], oid) {
			out = append(out, oid)
		}
	}
	return out
}

func TestReferencesAreThoseThatZODBFinds(t *testing.T) {
	fs := fixtures(t)
	refs := 0
	for _, f := range fs {
		got, err := References(f.record)
		if want := distinct(f.refs); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", f.name, got, err, want)
		}
		refs += len(got)
	}
	if len(fs) < 500 || refs < 1000 {
		t.Errorf("only %d records with %d references", len(fs), refs)
	}
}

// deflated is a record as zc.zlibstorage keeps it.
func deflated(record []byte) []byte {
	var b bytes.Buffer
	b.WriteString(".z")
	z := zlib.NewWriter(&b)
	z.Write(record)
	z.Close()
	return b.Bytes()
}

// class is the first pickle of a record.
const class = "\x80\x03cm\nC\n."

func TestWhatReferencesfFailsOnIsKept(t *testing.T) {
	const oid = zodb.Oid(0x99ff)
	for name, state := range map[string]string{
		"SHORT_BINSTRING beyond ASCII": "U\x08\x00\x00\x00\x00\x00\x00\x99\xffQ.",
		"BINSTRING beyond ASCII":       "T\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x99\xffQ.",
		"STRING beyond ASCII":          "S'\\x00\\x00\\x00\\x00\\x00\\x00\\x99\\xff'\nQ.",
		"UNICODE beyond ASCII":         "V\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\x99\\u00ff\nQ.",
		"BINUNICODE beyond ASCII":      "X\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc2\x99\xc3\xbfQ.",
		"SHORT_BINUNICODE":             "\x8c\x0a\x00\x00\x00\x00\x00\x00\xc2\x99\xc3\xbfQ.",
		"BINUNICODE8":                  "\x8d\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc2\x99\xc3\xbfQ.",
		"BINBYTES8":                    "\x8e\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x99\xffQ.",
		"PERSID beyond ASCII":          "P\x00\x00\x00\x00\x00\x00\x99\xff\n.",
		"other strings beyond ASCII":   "U\x01\xff0C\x08\x00\x00\x00\x00\x00\x00\x99\xffN\x86Q.",
		"encode from the memo": "c_codecs\nencode\nq\x010X\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc2\x99\xc3\xbf" +
			"X\x06\x00\x00\x00latin1\x86q\x020h\x01h\x02RN\x86Q.",
	} {
		if got, err := References([]byte(class + state)); err != nil || !slices.Equal(got, []zodb.Oid{oid}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	const oid = "C\x08\x00\x00\x00\x00\x00\x00\x00\x01"
	for _, c := range []struct{ name, record, says string }{
		{"nothing", "", "byte 0 of 0: pickle ends too early"},
		{"one pickle", class, "byte 8 of 8: pickle ends too early"},
		{"no STOP", class + "N", "byte 9 of 9"},
		{"bytes after both", class + "N.garbage", "7 bytes follow"},
		{"a third pickle", class + "N.N.", "2 bytes follow"},
		{"no pickle", "It is text.", "opcode at byte"},
		{"encrypted", ".e\x12\x34", `starts with ".e"`},
		{"in hexadecimal", ".h8003", `starts with ".h"`},
		{"an unknown opcode", class + "\xffN.", "byte 8 of 11: opcode 0xff is not taken"},
		{"opcode 0", class + "\x00N.", "opcode 0x00 is not taken"},
		{"protocol 6", class + "\x80\x06N.", "protocol 6"},
		{"a buffer from outside", class + "\x97.", "0x97 is not taken"},
		{"a read-only buffer from outside", class + "N\x98.", "0x98 is not taken"},
		{"no value", class + ".", "one value"},
		{"two values", class + "NN.", "one value"},
		{"a mark left", class + "N(.", "one value"},
		{"a value of the class", "N(N.N.", "one value"},
		{"a tuple of nothing", class + "\x85.", "stack"},
		{"a tuple across a mark", class + "N(N\x86t.", "stack"},
		{"a call of nothing", class + "NR.", "stack"},
		{"an instance without a class", class + "(o.", "stack"},
		{"no mark", class + "Nt.", "mark"},
		{"items without a mark", class + "}NNu.", "mark"},
		{"items of nothing", class + "(NNu.", "stack"},
		{"append to nothing", class + "Na.", "stack"},
		{"append to a mark", class + "N(Na.", "stack"},
		{"build of nothing", class + "}b.", "stack"},
		{"an item of nothing", class + "NNs.", "stack"},
		{"POP of nothing", class + "0N.", "stack"},
		{"POP_MARK of nothing", class + "1N.", "mark"},
		{"DUP of nothing", class + "2.", "stack"},
		{"PUT of nothing", class + "q\x00N.", "stack"},
		{"an unset memo", class + "h\x00.", "memo"},
		{"an unset memo among others", class + "Nq\x02h\x01\x86.", "memo"},
		{"a far memo", class + "Nr\xff\xff\xff\xff.", "memo 4294967295"},
		{"GET of a far memo", class + "j\xff\xff\xff\xff.", "memo"},
		{"PUT of a negative memo", class + "Np-1\n.", "number"},
		{"PUT of a memo beyond 32 bits", class + "Np4294967296\n.", "number"},
		{"bytes beyond the end", class + "B\xff\xff\xff\xffabc.", "too early"},
		{"bytes beyond any end", class + "\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.", "too early"},
		{"a line without end", class + "Vabc.", "too early"},
		{"a global of one line", class + "cm\nC.", "too early"},
		{"a persistent id of nothing", class + "Q.", "stack"},
		{"None as persistent id", class + "NQ.", "form"},
		{"a number as persistent id", class + "K\x01Q.", "form"},
		{"a dict as persistent id", class + "}Q.", "form"},
		{"bytearray as persistent id", class + "\x96\x08\x00\x00\x00\x00\x00\x00\x0012345678Q.", "form"},
		{"a tuple of nothing as persistent id", class + ")Q.", "form"},
		{"a tuple that begins with None", class + "N" + oid + "\x86Q.", "form"},
		{"a tuple in a tuple", class + oid + "\x85\x85Q.", "form"},
		{"a computed persistent id", class + "cm\nf\n" + oid + "\x85RQ.", "form"},
		{"an oid of 7 bytes", class + "C\x071234567Q.", "8 bytes"},
		{"an oid of 9 bytes", class + "C\x09123456789N\x86Q.", "8 bytes"},
		{"an empty oid", class + "P\n.", "8 bytes"},
		{"the repr of an oid", class + "Pb'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01'\n.", "8 bytes"},
		{"text that stands for no bytes", class + "X\x0a\x00\x00\x001234567\xe2\x82\xacQ.", "no byte"},
		{"text that is not UTF-8", class + "X\x08\x00\x00\x001234567\xffQ.", "no byte"},
		{"a string without quotes", class + "Sabcdefgh\nQ.", "text"},
		{"a bad escape", class + "V1234567\\u12\nQ.", "text"},
		{"compressed, cut short", string(deflated([]byte(class + "N."))[:15]), "inflate"},
		{"compressed, damaged", ".z" + strings.Repeat("\x01", 20), "inflate"},
		{"compressed, with more after it", string(deflated([]byte(class+"N."))) + "x", "1 bytes follow"},
		{"compressed, no pickle", string(deflated([]byte("ZZZ"))), "byte 0 of 3"},
		{"compressed twice", string(deflated(deflated([]byte(class + "N.")))), "one value"},
	} {
		refs, err := References([]byte(c.record))
		if err == nil || refs != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v, want an error that says %q", c.name, refs, err, c.says)
		}
	}
}

func TestErrorsOfThePicklesCanBeTold(t *testing.T) {
	if _, err := References([]byte(class)); !errors.Is(err, pickle.ErrShort) {
		t.Error(err)
	}
	if _, err := References([]byte(class + "P1\n.")); !errors.Is(err, zodb.ErrIDLength) {
		t.Error(err)
	}
}

func TestRecordsAreWalkedAtOnceAndAfterBadOnes(t *testing.T) {
	fs := fixtures(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for _, f := range fs[i*len(fs)/4:] {
				if _, err := References(f.record[:len(f.record)-1]); err == nil {
					t.Errorf("%s: a record without its end passed", f.name)
				}
				if got, err := References(f.record); err != nil || !slices.Equal(got, distinct(f.refs)) {
					t.Errorf("%s: %v, %v, want %v", f.name, got, err, f.refs)
				}
			}
		})
	}
	wg.Wait()
}

func TestABeginningOfARecordIsNoRecord(t *testing.T) {
	for _, f := range fixtures(t) {
		for n := 0; n < len(f.record); n += 1 + len(f.record)/200 {
			if refs, err := References(f.record[:n]); err == nil {
				t.Errorf("%s, %d bytes of %d: %v", f.name, n, len(f.record), refs)
			}
		}
	}
}

func TestManyReferencesAreGivenOnceInTheirOrder(t *testing.T) {
	record := []byte(class + "]")
	var want []zodb.Oid
	for i := range 3000 {
		oid := zodb.Oid(i * 7919 % 1000)
		record = append(record, "C\x08"...)
		record = append(append(record, oid.Bytes()...), "Qa"...)
		if i < 1000 {
			want = append(want, oid)
		}
	}
	if got, err := References(append(record, '.')); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d oids, %v", len(got), err)
	}
}

func TestInflatedRecordsAreBounded(t *testing.T) {
	record := []byte(class + "N.")
	small := deflated(append(record, make([]byte, 1<<20)...))
	if _, err := inflated(small, 1<<20); err == nil || !strings.Contains(err.Error(), "when inflated") {
		t.Error(err)
	}
	if b, err := inflated(small, 2<<20); err != nil || len(b) != len(record)+1<<20 {
		t.Error(len(b), err)
	}
	if _, err := inflated(record, len(record)-1); err == nil {
		t.Error("a record that is too long passed")
	}
	if used := allocated(func() { inflated(small, 64<<10) }); used > 1<<20 {
		t.Errorf("%d bytes allocated for 64 KiB", used)
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestMemoryIsBoundedByTheLengthOfTheRecord(t *testing.T) {
	const n = 1 << 20
	far := []byte(class + "X" + "\xf0\xff\x0f\x00" + strings.Repeat("x", n-16) + "r")
	far = binary.LittleEndian.AppendUint32(far, n-32) // all of the memo at once
	var refs strings.Builder
	for i := range n / 16 {
		fmt.Fprintf(&refs, "C\x08%08dQ", i)
	}
	for name, record := range map[string]string{
		"values":     class + strings.Repeat("N", n),
		"marks":      class + strings.Repeat("(", n),
		"memo":       class + "N" + strings.Repeat("\x94", n),
		"a far memo": string(far),
		"references": class + refs.String(),
	} {
		used := allocated(func() {
			if _, err := References([]byte(record)); !errors.Is(err, pickle.ErrShort) {
				t.Errorf("%s: %v", name, err)
			}
		})
		if used > 96*uint64(len(record)) {
			t.Errorf("%s: %d bytes allocated for %d", name, used, len(record))
		}
	}
}
