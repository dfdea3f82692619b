package pydata

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"s3storage/internal/pickle"
)

func TestTheClassIsTheOneThatZODBFinds(t *testing.T) {
	classes := map[string]int{}
	for _, f := range fixtures(t) {
		s, err := Inspect(f.record)
		if err != nil || s.Class != f.class || !slices.Equal(s.References, distinct(f.refs)) {
			t.Errorf("%s: %q, %v, want %q", f.name, s.Class, err, f.class)
		}
		classes[s.Class]++
	}
	if len(classes) < 10 || classes[""] < 4 {
		t.Errorf("only %v", classes)
	}
}

func TestAClassThatCannotBeToldIsEmpty(t *testing.T) {
	long := strings.Repeat("n", 990)
	for name, c := range map[string]struct{ pickle, want string }{
		"a global":                   {"cm.sub\nC\n.", "m.sub.C"},
		"an instance":                {"\x80\x02cm\nC\n)\x81}b.", "m.C"},
		"an instance with keywords":  {"\x80\x04cm\nC\n)}\x92.", "m.C"},
		"an old instance":            {"(cm\nC\no.", "m.C"},
		"an instance of protocol 1":  {"ccopy_reg\n_reconstructor\n(cm\nC\nc__builtin__\nobject\nNtR.", "m.C"},
		"a name of a nested class":   {"\x80\x04\x8c\x01m\x8c\x03A.B\x93.", "m.A.B"},
		"a name beyond ASCII":        {"\x80\x04\x8c\x01m\x8c\x03C\xc3\xa9\x93.", "m.Cé"},
		"from the memo":              {"\x8c\x01m\x94\x8c\x01C\x9400h\x00h\x01\x93\x940h\x02)\x86.", "m.C"},
		"a class of bytes":           {"C\x01mC\x01C\x86N\x86.", "m.C"},
		"a name of 1000 bytes":       {"cm\n" + long + "12345678\n.", "m." + long + "12345678"},
		"a name of 1001 bytes":       {"cm\n" + long + "123456789\n.", ""},
		"a long module":              {"X\x00\x00\x01\x00" + strings.Repeat("m", 1<<16) + "U\x01C\x86.", ""},
		"a name for terminals":       {"cm\n\x1b[31mC\n.", ""},
		"a name with a line":         {"\x8c\x01m\x8c\x03A\nB\x93.", ""},
		"a name that is not UTF-8":   {"cm\nC\xff\n.", ""},
		"malformed text":             {"S'\\q'\nS'C'\n\x86.", ""},
		"None":                       {"N.", ""},
		"a text":                     {"U\x01m.", ""},
		"three names":                {"U\x01mU\x01CU\x01D\x87.", ""},
		"a name and None":            {"U\x01mN\x86.", ""},
		"a tuple of nothing":         {").", ""},
		"a call":                     {"cm\nC\n)R.", ""},
		"a global of computed names": {"NN\x93.", ""},
		"a reference":                {"C\x0812345678Q.", ""},
	} {
		s, err := Inspect([]byte(c.pickle + "N."))
		if err != nil || s.Class != c.want {
			t.Errorf("%s: %.100q, %v, want %.100q", name, s.Class, err, c.want)
		}
	}
}

func TestNamesThatWereMetTakeNoMemoryAndFewAreKept(t *testing.T) {
	var w walker
	name := func(record []byte) string {
		w.data, w.scan = record, pickle.NewScanner(record, 0)
		v, err := w.pickle()
		if err != nil {
			t.Fatal(err)
		}
		return w.className(v)
	}
	for i := range 3 * mostNames {
		name(fmt.Appendf(nil, "cm\nC%d\n.", i))
		if len(w.names) > mostNames {
			t.Fatal(len(w.names))
		}
	}
	record := []byte("cm\nC\n.")
	name(record)
	if n := testing.AllocsPerRun(100, func() { name(record) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzInspect(f *testing.F) {
	for i, x := range fixtures(f) {
		if i%5 == 0 && len(x.record) < 4096 {
			f.Add(x.record)
		}
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		s, err := Inspect(record)
		if err != nil {
			return
		}
		refs := s.References
		if len(distinct(refs)) != len(refs) || len(refs) > len(record) && record[0] != '.' {
			t.Errorf("%v", refs)
		}
		if _, err := References(append(slices.Clone(record), 'N')); err == nil {
			t.Error("more bytes at the end passed")
		}
		for n := range min(len(record), 1000) {
			if _, err := References(record[:len(record)-1-n]); err == nil {
				t.Errorf("without the last %d bytes it is a record, too", n+1)
			}
		}
		if record[0] != '.' {
			again, err := Inspect(deflated(record))
			if err != nil || again.Class != s.Class || !slices.Equal(again.References, refs) {
				t.Errorf("%v became %v, %v", s, again, err)
			}
		}
	})
}

func BenchmarkInspect(b *testing.B) {
	for _, name := range []string{"some", "nothing", "OOBTree", "strings"} {
		for _, f := range fixtures(b) {
			if f.name != name+", zodbpickle 3" {
				continue
			}
			b.Run(name, func(b *testing.B) {
				b.SetBytes(int64(len(f.record)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Inspect(f.record); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
