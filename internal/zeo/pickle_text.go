package zeo

import "unicode/utf8"

// validText reports whether b is what Python pickles a str as: UTF-8, in which
// lone surrogates may stand.
func validText(b []byte) bool {
	for !utf8.Valid(b) {
		i := 0
		for {
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n <= 1 {
				break
			}
			i += n
		}
		if len(b)-i < 3 || b[i] != 0xed || b[i+1] < 0xa0 || b[i+1] > 0xbf || b[i+2] < 0x80 || b[i+2] > 0xbf {
			return false
		}
		b = b[i+3:]
	}
	return true
}
