package pickle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// scan returns the opcodes of b with their arguments, up to an error.
func scan(b string) (out []string, err error) {
	s := NewScanner([]byte(b), 0)
	for s.Rest() > 0 {
		op, arg, err := s.Next()
		if err != nil {
			return out, err
		}
		out = append(out, fmt.Sprintf("%d %c %q", s.Offset(), rune(op), arg))
	}
	return out, nil
}

func TestArgumentsAreReadAsTheirOpcodeWantsThem(t *testing.T) {
	got, err := scan("(K\x07M\x01\x02J\x01\x02\x03\x04G12345678U\x02abX\x03\x00\x00\x00abc" +
		"\x8e\x01\x00\x00\x00\x00\x00\x00\x00aVtext\ncm\nname\n\x8a\x00I\n.N")
	want := []string{`0 ( ""`, `1 K "\a"`, `3 M "\x01\x02"`, `6 J "\x01\x02\x03\x04"`, `11 G "12345678"`,
		`20 U "ab"`, `24 X "abc"`, "32 \u008e " + `"a"`, `42 V "text"`, `48 c "m\nname"`, "56 \u008a " + `""`,
		`58 I ""`, `60 . ""`, `61 N ""`}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%q, not\n%q", err, got, want)
	}
}

func TestArgumentsThatAreNotThereAreAnError(t *testing.T) {
	for _, b := range []string{
		"K", "M\x01", "J\x01\x02\x03", "G1234567", "U", "U\x03ab", "X\x03\x00\x00", "X\x03\x00\x00\x00ab",
		"T\xff\xff\xff\xffab", "\x8b\xff\xff\xff\xff", "\x8e\xff\xff\xff\xff\xff\xff\xff\xffab", "\x96\x01",
		"I1", "cm\nC", "cm", "i\n", "\x95\x01", "\x80",
	} {
		if got, err := scan(b); !errors.Is(err, ErrShort) {
			t.Errorf("%q: %q, %v", b, got, err)
		}
	}
}

// Python's pickletools knows 68 opcodes.
func TestAllOpcodesAreKnown(t *testing.T) {
	known := 0
	for op := range 256 {
		in := append([]byte{byte(op)}, strings.Repeat("\x00", 8)+"\n\n"...)
		s := NewScanner(in, 0)
		if _, _, err := s.Next(); err == nil {
			known++
		}
	}
	if known != 68 {
		t.Errorf("%d opcodes", known)
	}
}
