package pickle

import "testing"

// What Python's raw-unicode-escape makes of it.
func TestEscapesOfUNICODEAreReadAsPythonDoes(t *testing.T) {
	for in, want := range map[string]string{
		"plain":            "plain",
		"caf\xe9":          "café",
		`\u20ac\U0001f600`: "€\U0001f600",
		`\\u0041`:          `\\u0041`,
		`\\\u0041`:         `\\A`,
		`\x41`:             `\x41`,
		`\ud800`:           "\xed\xa0\x80",
		`end\`:             `end\`,
	} {
		if got, err := RawUnicode([]byte(in)); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`\u12`, `\u12x4`, `\U00110000`} {
		if got, err := RawUnicode([]byte(in)); err != ErrText {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}
