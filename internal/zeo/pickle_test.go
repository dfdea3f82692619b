package zeo

import (
	"bytes"
	"errors"
	"math/big"
	"strings"
	"testing"

	"s3storage/internal/pickle"
)

func TestPicklesOfEveryProtocolAreRead(t *testing.T) {
	var entries []struct{ Name, Pickle, Plain string }
	readFixtures(t, "pickles.json.gz", &entries)
	for _, e := range entries {
		t.Run(e.Name, func(t *testing.T) {
			v, err := decodePickle(unhex(t, e.Pickle))
			if err != nil {
				t.Fatal(err)
			}
			b, err := appendPickle([]byte{pickle.Proto, 3}, v)
			if err != nil {
				t.Fatal(err)
			}
			if got := append(b, pickle.Stop); !bytes.Equal(got, unhex(t, e.Plain)) {
				t.Errorf("read as %.200v", v)
			}
		})
	}
}

func TestAPrefixIsRead(t *testing.T) {
	for _, text := range []string{
		"\x80\x03cZopeUndo.Prefix\nPrefix\nq\x00)\x81q\x01}q\x02(X\x06\x00\x00\x00lengthq\x03K\x02X\x04\x00\x00\x00pathq\x04]q\x05(X\x00\x00\x00\x00q\x06X\x01\x00\x00\x00aq\x07eub.",
		"\x80\x03cZopeUndo.Prefix\nPrefix\nX\x02\x00\x00\x00/a\x85R.",
		"ccopy_reg\n_reconstructor\n(cZopeUndo.Prefix\nPrefix\nc__builtin__\nobject\nNtR(dVlength\nI2\nsVpath\n(lV\naVa\nasb.",
	} {
		v, err := decodePickle([]byte(text))
		if err != nil || v != Prefix("/a") {
			t.Errorf("%q: %#v, %v", text, v, err)
		}
		b, err := appendPickle([]byte{pickle.Proto, 3}, v)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodePickle(append(b, pickle.Stop)); again != v {
			t.Errorf("written and read again: %v, %v", again, err)
		}
	}
}

func TestAPrefixMatchesPathElements(t *testing.T) {
	for path, want := range map[string]bool{
		"/a": true, "/a/b": true, "/a bob": true, "/ab": false, "/": false, "": false, "a": false,
	} {
		if got := Prefix("/a").Matches(path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}

// What a subclass of dict may be reduced to: ZODB's IteratorStorage has one.
func TestADictIsReadFromItsItems(t *testing.T) {
	got, err := decodePickle([]byte("\x80\x03cbuiltins\ndict\nX\x03\x00\x00\x00fooK\x01\x86NN\x86\x86\x85R."))
	if want := (Dict{{"foo", int64(1)}, {nil, nil}}); err != nil || !Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestGlobalsAreRefusedByName(t *testing.T) {
	for _, pickle := range []string{
		"cos\nsystem\n(S'true'\ntR.",
		"\x80\x04\x8c\x02os\x8c\x06system\x93.",
		"\x80\x03cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
		"\x80\x02cos\nsystem\n)\x81.",
	} {
		_, err := decodePickle([]byte(pickle))
		var global *GlobalError
		if !errors.As(err, &global) || global.Module != "os" || global.Name != "system" {
			t.Errorf("%q: %v", pickle, err)
		}
	}
}

func TestBadPicklesAreRefused(t *testing.T) {
	deep := strings.Repeat("]", 500) + strings.Repeat("a", 499) + "."
	bomb := "]q\x00K\x01a" // b = [b, b], again and again
	for range 60 {
		bomb += "q\x00h\x00\x86"
	}
	for name, pickle := range map[string]string{
		"nothing":                    "",
		"no STOP":                    "N",
		"two values":                 "NN.",
		"no value":                   ".",
		"a mark left":                "N(.",
		"bytes after STOP":           "N.N.",
		"protocol 6":                 "\x80\x06N.",
		"an unknown opcode":          "\xffN.",
		"a persistent id":            "Pabc\n.",
		"a binary persistent id":     "NQ.",
		"an extension code":          "\x82\x01.",
		"INST":                       "(ios\nsystem\n.",
		"OBJ":                        "(cos\nsystem\no.",
		"a set":                      "\x8f.",
		"an out-of-band buffer":      "\x97.",
		"a bare global":              "c__builtin__\nobject\n.",
		"a global within":            "(c__builtin__\nobject\nt.",
		"object()":                   "c__builtin__\nobject\n)R.",
		"dict of numbers":            "cbuiltins\ndict\n(K\x01K\x02t\x85R.",
		"dict of triples":            "cbuiltins\ndict\n(NNNt\x85\x85R.",
		"dict with a list as key":    "cbuiltins\ndict\n]N\x86\x85\x85R.",
		"dict of two arguments":      "cbuiltins\ndict\n))\x86R.",
		"bytes of a number":          "c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
		"encode as utf-8":            "c_codecs\nencode\n(Va\nVutf-8\ntR.",
		"encode beyond Latin-1":      "c_codecs\nencode\n(V\\u20ac\nVlatin1\ntR.",
		"a call of no global":        "N)R.",
		"a build of a list":          "]}b.",
		"the stack is empty":         "a.",
		"a tuple across a mark":      "N(N\x86t.",
		"no mark":                    "Nt.",
		"append to a tuple":          ")Na.",
		"set in a list":              "]NNs.",
		"a key without a value":      "}(Nu.",
		"a list as key":              "}]Ns.",
		"a dict as key":              "}}Ns.",
		"an unset memo":              "h\x00.",
		"a list within itself":       "]q\x00h\x00a.",
		"a dict within itself":       "}q\x00Nh\x00s.",
		"a list changed when shared": "]q\x000h\x00Na.",
		"a doubled list changed":     "]2Naa.",
		"levels":                     deep,
		"a bomb":                     bomb + ".",
		"bytes beyond the end":       "B\xff\xff\xff\xffabc.",
		"bytes beyond any end":       "\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.",
		"text beyond the end":        "X\x04\x00\x00\x00abc.",
		"text that is not UTF-8":     "X\x01\x00\x00\x00\xff.",
		"a number cut short":         "J\x01\x02",
		"a malformed number":         "I12x\n.",
		"a malformed long":           "LL\n.",
		"a malformed float":          "Fx\n.",
		"an integer too long":        "\x8b\xff\xff\x00\x00" + strings.Repeat("x", 65535) + ".",
		"an integer too long, text":  "L" + strings.Repeat("9", 5000) + "L\n.",
		"a negative length":          "T\xff\xff\xff\xff.",
		"a string without quotes":    "Sabc\n.",
		"a string cut short":         "S'abc\\'\n.",
		"a bad escape":               "S'\\q'\n.",
		"a bad unicode escape":       "V\\u12\n.",
	} {
		if v, err := decodePickle([]byte(pickle)); err == nil {
			t.Errorf("%s: %.100v", name, v)
		}
	}
}

func TestALongFlatPickleIsBounded(t *testing.T) {
	for _, pickle := range []string{
		"(" + strings.Repeat("N", maxValues+1) + "t.",
		"(" + strings.Repeat("}", maxValues+1) + "t.",
		strings.Repeat("(", maxValues+1),
		"N" + strings.Repeat("\x94", maxValues+1) + ".",
	} {
		if _, err := decodePickle([]byte(pickle)); !errors.Is(err, errValues) {
			t.Errorf("%v", err)
		}
	}
}

func TestSharedPartsMayBeReadOften(t *testing.T) {
	v, err := decodePickle([]byte("]q\x00K\x01a0(h\x00h\x00}K\x02h\x00st."))
	one := List{int64(1)}
	if err != nil || !Equal(v, Tuple{one, one, Dict{{int64(2), one}}}) {
		t.Errorf("%v, %v", v, err)
	}
}

func TestExtensionsArePickledDicts(t *testing.T) {
	for _, d := range []Dict{nil, {{"a", int64(1)}}, {{"a", "b"}, {"c", Tuple{nil, []byte("x")}}}} {
		b, err := PickleDict(d)
		if err != nil || (len(d) == 0) != (len(b) == 0) {
			t.Errorf("%v: %q, %v", d, b, err)
		}
		if got, err := UnpickleDict(b); err != nil || !Equal(got, d) {
			t.Errorf("%v came back as %v, %v", d, got, err)
		}
	}
	if _, err := UnpickleDict([]byte("].")); err == nil {
		t.Error("a list passed for a dict")
	}
}

func TestSomeValuesCannotBeSent(t *testing.T) {
	huge := new(big.Int).Lsh(big.NewInt(1), 8*maxIntBytes)
	for enc, values := range map[Encoding][]any{
		Z5: {struct{}{}, huge, Tuple{List{Dict{{"a", global(1)}}}}},
		M5: {struct{}{}, huge, new(big.Int).Lsh(big.NewInt(1), 64), Prefix("x")},
	} {
		for _, v := range values {
			if _, err := enc.AppendReply(nil, enc.IntID(1), v); err == nil {
				t.Errorf("%s sent %v", enc, v)
			}
		}
	}
}
