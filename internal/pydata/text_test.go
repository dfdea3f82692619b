package pydata

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"s3storage/internal/zodb"
)

var update = flag.Bool("update", false, "write the golden files anew")

var some = Limits{Bytes: 3000, Depth: 12, Text: 200}

func shown(t testing.TB, record []byte, limits Limits) string {
	t.Helper()
	var b bytes.Buffer
	if err := Text(&b, record, limits); err != nil {
		t.Errorf("%.100q: %v", record, err)
	}
	return b.String()
}

func TestRecordsOfPythonAreShownAsTheGoldenFileHasThem(t *testing.T) {
	var heads, texts []string
	for _, f := range fixtures(t) {
		if strings.HasPrefix(f.name, "random") || strings.HasPrefix(f.name, "compressed") {
			continue
		}
		text := shown(t, f.record, some)
		if n := len(texts); n > 0 && texts[n-1] == text {
			heads[n-1] += "; " + f.name
			continue
		}
		heads, texts = append(heads, f.name), append(texts, text)
	}
	var got bytes.Buffer
	for i, text := range texts {
		fmt.Fprintf(&got, "=== %s\n%s\n", heads[i], text)
	}
	const golden = "testdata/records.txt"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	g, w := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	if slices.Equal(g, w) {
		return
	}
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("line %d of %s, which -update writes anew: %q, want %q", i+1, golden, g[i], w[i])
		}
	}
	t.Fatalf("%d lines, want %d", len(g), len(w))
}

// wide are limits that cut nothing of what is tested with them.
var wide = Limits{Bytes: 1 << 20, Depth: 100, Text: 1000}

func TestValuesAreShownAsPythonWritesThem(t *testing.T) {
	for state, want := range map[string]string{
		"I01\n":                                    "True",
		"I-12\n":                                   "-12",
		"L123L\n":                                  "123",
		"Ix\n":                                     "<malformed: 'x'>",
		"I--1\n":                                   "<malformed: '--1'>",
		"J\xff\xff\xff\xff":                        "-1",
		"\x8a\x00":                                 "0",
		"\x8a\x01\xff":                             "-1",
		"\x8a\x02\xff\x00":                         "255",
		"F1.5\n":                                   "1.5",
		"F1e999\n":                                 "inf",
		"Fx\n":                                     "<malformed: 'x'>",
		"G\x3f\xb9\x99\x99\x99\x99\x99\x9a":        "0.1",
		"G\x43\x41\xc3\x79\x37\xe0\x80\x00":        "1e+16",
		"G\x43\x0c\x6b\xf5\x26\x34\x00\x00":        "1000000000000000.0",
		"G\x3f\x1a\x36\xe2\xeb\x1c\x43\x2d":        "0.0001",
		"G\x3e\xe4\xf8\xb5\x88\xe3\x68\xf1":        "1e-05",
		"G\x80\x00\x00\x00\x00\x00\x00\x00":        "-0.0",
		"G\xff\xf0\x00\x00\x00\x00\x00\x00":        "-inf",
		"G\x7f\xf8\x00\x00\x00\x00\x00\x00":        "nan",
		"X\x05\x00\x00\x00it's\\":                  `"it's\\"`,
		"X\x04\x00\x00\x00'\"\r\x00":               `'\'"\r\x00'`,
		"X\x04\x00\x00\x00\xc2\x9b\xff\xc3":        `'\x9b\xff\xc3'`,
		"X\x03\x00\x00\x00\xe2\x80\xae":            `'\u202e'`,
		"X\x04\x00\x00\x00\xf3\xa0\x80\x81":        `'\U000e0001'`,
		"U\x02\xc3\xa9":                            `'\xc3\xa9'`,
		"S'a\\x41\\n'\n":                           `'aA\n'`,
		"Sa\n":                                     `<malformed: 'a'>`,
		"Vcaf\\u00e9\n":                            `'café'`,
		"\x96\x01\x00\x00\x00\x00\x00\x00\x00\xff": `bytearray(b'\xff')`,
		"\x8f":                            "set()",
		"\x8f(K\x01\x90":                  "{1}",
		"(K\x01\x91":                      "frozenset({1})",
		"(K\x01K\x02d":                    "{1: 2}",
		"(K\x01K\x02K\x03d":               "{1: 2, <1 more>}",
		"(K\x01l":                         "[1]",
		"K\x01\x85":                       "(1,)",
		"cm\nC\x1b[1m\nK\x01\x85R":        `m.C\x1b[1m(1)`,
		"cm\nC\nNR":                       "m.C(*None)",
		"cm\nC\n)}K\x01K\x02s\x92":        "new m.C() keywords {1: 2}",
		"cm\nC\n)\x81K\x01aK\x02K\x03s}b": "new m.C() items [1] pairs {2: 3} state {}",
		"(K\x01im\nC\n":                   "m.C(1)",
		"K\x05Na":                         "5 items [None]",
		"]Nb":                             "[] state None",
		"NN\x93":                          "<malformed: 'a global of computed names'>",
		"\x82\x07":                        "<extension 7>",
		"cdatetime\ndate\nC\x04\x07\xea\x8b\x19\x85R":                                           "datetime.date(2026, 11, 25)",
		"cdatetime\ntime\nC\x06\x17\x3b\x01\x01\x00\x00\x85R":                                   "datetime.time(23, 59, 1, 65536)",
		"cdatetime\ndate\nC\x03\x07\xea\x8b\x85R":                                               `datetime.date(b'\x07\xea\x8b')`,
		"cdatetime\ndatetime\nU\x0a\x07\xea\x01\x02\x03\x04\x05\x00\x00\x06cpytz\nUTC\n)R\x86R": "datetime.datetime(2026, 1, 2, 3, 4, 5, 6, pytz.UTC())",
		"NQ":            "<ref of an unknown form: None>",
		"K\x01\x85Q":    "<ref of an unknown form: (1,)>",
		"PABCDEFG\n":    "<ref of an unknown form: 'ABCDEFG'>",
		"]q\x00h\x00Qa": "<#1> [<ref of an unknown form: <see #1>>]",
		"C\x0812345678]q\x05\x86Qq\x06h\x05h\x06a0": "<#1> <ref 0x3132333435363738 class <#2> [<see #1>]>",
	} {
		got := shown(t, []byte(class+state+"."), wide)
		if want = "class m.C\n" + want + "\n"; got != want {
			t.Errorf("%q: %q, want %q", state, got, want)
		}
	}
}

// refsOf returns the references in a graph of values that keep an object of its
// own database.
func refsOf(v *Value, seen map[*Value]bool) (oids []zodb.Oid) {
	if v == nil || seen[v] {
		return nil
	}
	seen[v] = true
	for _, item := range v.Items {
		oids = append(oids, refsOf(item, seen)...)
	}
	for _, p := range v.Pairs {
		oids = append(append(oids, refsOf(p.Key, seen)...), refsOf(p.Value, seen)...)
	}
	if c := v.Call; c != nil {
		for _, part := range append([]*Value{c.Of, c.Args, c.Keywords}, c.States...) {
			oids = append(oids, refsOf(part, seen)...)
		}
	}
	if r := v.Ref; r != nil && !r.Weak && r.Database == nil && r.Unknown == nil {
		oids = append(append(oids, r.Oid), refsOf(r.Class, seen)...)
	}
	return oids
}

func TestTheValuesHaveTheReferencesThatZODBFinds(t *testing.T) {
	for _, f := range fixtures(t) {
		r, err := Decode(f.record)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if r.Class != f.class {
			t.Errorf("%s: %q, want %q", f.name, r.Class, f.class)
		}
		seen := map[*Value]bool{}
		got := distinct(append(refsOf(r.Description, seen), refsOf(r.State, seen)...))
		want := distinct(f.refs)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", f.name, got, want)
		}
	}
}

func TestWhatIsCutIsSaid(t *testing.T) {
	limits := Limits{Bytes: 60, Depth: 3, Text: 5}
	for state, want := range map[string]string{
		"X\x08\x00\x00\x00abcd\xc3\xa9fg":   "'abcdé' <2 bytes more>",
		"C\x06abcdef":                       "b'abcde' <1 bytes more>",
		"I1234567\n":                        "12345 <2 bytes more>",
		"]\x85\x85":                         "(([],),)",
		"N\x85\x85\x85\x85":                 "(((<tuple, too deep>,),),)",
		"(" + strings.Repeat("N", 50) + "t": "(\n" + strings.Repeat("  None,\n", 9),
	} {
		got := shown(t, []byte(class+state+"."), limits)
		if cut, found := strings.CutSuffix(got, "\n<cut after 60 bytes>\n"); found {
			got, want = cut, strings.TrimSuffix(want[:60-len("class m.C\n")], "\n")
		}
		if got = strings.TrimSuffix(got, "\n"); got != "class m.C\n"+want {
			t.Errorf("%q: %q, want %q", state, got, want)
		}
	}
}

func TestWhatCannotBeReadIsNotShown(t *testing.T) {
	for record, says := range map[string]string{
		"":                              "byte 0 of 0: pickle ends too early",
		class:                           "byte 8 of 8: pickle ends too early",
		class + "N.N":                   "1 bytes follow",
		class + "\x97.":                 "0x97 is not taken",
		class + "N\x86.":                "stack",
		class + "(o.":                   "stack",
		class + "h\x00.":                "memo",
		class + "NN.":                   "one value",
		class + "\x8b\xff\xff\xff\x7f.": "too early",
		".e":                            `starts with ".e"`,
	} {
		var b bytes.Buffer
		err := Text(&b, []byte(record), wide)
		if err == nil || !strings.Contains(err.Error(), says) || b.Len() > 0 {
			t.Errorf("%q: %v, want an error that says %q", record, err, says)
		}
	}
	if _, err := Decode(deflated(make([]byte, longestDecoded+1))); err == nil || !strings.Contains(err.Error(), "when inflated") {
		t.Error(err)
	}
}

// Each would be without bounds if parts were written wherever they are used, or
// all values kept, or copied.
func TestHostilePicklesTakeBoundedMemory(t *testing.T) {
	const n = 1 << 18
	long := "X\x00\x00\x04\x00" + strings.Repeat("x", n)
	var lists, args strings.Builder
	lists.WriteString("]q\x00")
	args.WriteString(")q\x00")
	for i := range 100 {
		fmt.Fprintf(&lists, "0](h%[1]ch%[1]ceq%[2]c", i, i+1)
		fmt.Fprintf(&args, "0cm\nf\nh%[1]cRcm\nf\nh%[1]cR\x86q%[2]c", i, i+1)
	}
	for name, c := range map[string]struct{ state, says string }{
		"doubled lists":            {lists.String(), "[\n  <#1> ["},
		"doubled arguments":        {args.String(), "<see #"},
		"a tuple too deep to read": {"N" + strings.Repeat("\x85", 2*n), "not read"},
		"a deep tuple":             {"N" + strings.Repeat("\x85", n), "too deep"},
		"deep calls":               {"N" + strings.Repeat(")R", n/2), "too deep"},
		"deep states":              {strings.Repeat("cm\nC\n)\x81", n/4) + strings.Repeat("b", n/4-1), "too deep"},
		"many values":              {"(" + strings.Repeat("N", n) + "l", "<131073 more>"},
		"many pairs":               {"}(" + strings.Repeat("K\x01N", n) + "u", "<196609 more>"},
		"many of the same":         {"]]q\x00(" + strings.Repeat("h\x00", n) + "ea", "more>"},
		"many doubled":             {"](N" + strings.Repeat("2", n) + "e", "more>"},
		"many states":              {"cm\nC\n)\x81" + strings.Repeat("Nb", n), "more>"},
		"much after that":          {"](" + strings.Repeat("N", n) + "eq\x00cm\nC\n)\x81h\x00b\x86", "  <1 more>"},
		"a long integer":           {"\x8b\x00\x00\x04\x00" + strings.Repeat("\x80", n), "-0x7f7f"},
		"a decimal integer":        {"L-" + strings.Repeat("7", n) + "\n", "-7777"},
		"long names":               {long + "q\x00](" + strings.Repeat("h\x00h\x00\x93", 3000) + "e\x86", "bytes more"},
		"bytes as text": {"X\x00\x00\x04\x00" + strings.Repeat("\xc2\x80", n/2) + "X\x06\x00\x00\x00latin1\x86q\x00](" +
			strings.Repeat("c_codecs\nencode\nh\x00R", 3000) + "e\x86", `b'\x80\x80`},
	} {
		var b bytes.Buffer
		used := allocated(func() {
			if err := Text(&b, []byte(class+c.state+"."), some); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		if b.Len() > some.Bytes+50 {
			t.Errorf("%s: %d bytes shown", name, b.Len())
		}
		if used > 150<<20 {
			t.Errorf("%s: %d MiB allocated for %d bytes", name, used>>20, len(c.state))
		}
		if !strings.Contains(shown(t, []byte(class+c.state+"."), Limits{Bytes: 64 << 20, Depth: 12, Text: 200}), c.says) {
			t.Errorf("%s: nothing says %q", name, c.says)
		}
	}
	if _, err := Decode([]byte(class + strings.Repeat("N", 2*mostHeld))); !errors.Is(err, errHeld) {
		t.Error(err)
	}
}

func FuzzText(f *testing.F) {
	for i, x := range fixtures(f) {
		if i%5 == 0 && len(x.record) < 4096 {
			f.Add(x.record, uint16(500), uint8(9), uint8(50))
		}
	}
	f.Fuzz(func(t *testing.T, record []byte, most uint16, depth, text uint8) {
		limits := Limits{Bytes: int(most), Depth: int(depth), Text: int(text)}
		var b bytes.Buffer
		err := Text(&b, record, limits)
		if _, bad := Inspect(record); bad == nil && err != nil {
			t.Errorf("its references can be read, but %v", err)
		}
		if b.Len() > limits.Bytes+40 {
			t.Errorf("%d bytes, limit %d", b.Len(), limits.Bytes)
		}
		if !utf8.Valid(b.Bytes()) || bytes.ContainsFunc(b.Bytes(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%q is not safe", b.Bytes())
		}
	})
}
