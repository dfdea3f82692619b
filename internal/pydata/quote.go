package pydata

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// quoted writes a string as Python's repr does: of characters, or of bytes.
func (p *printer) quoted(s string, characters bool) {
	quote := byte('\'')
	if head := s[:min(len(s), p.limits.Text)]; strings.Contains(head, "'") && !strings.Contains(head, `"`) {
		quote = '"'
	}
	p.put(string(quote))
	n := p.escape(s, p.limits.Text, quote, characters)
	p.put(string(quote))
	if n < len(s) {
		p.putf(" <%d bytes more>", len(s)-n)
	}
}

// escaped writes what is no string but may have anything in it, such as a name.
func (p *printer) escaped(s string, limit int) {
	if n := p.escape(s, limit, 0, true); n < len(s) {
		p.putf(" <%d bytes more>", len(s)-n)
	}
}

// escape writes up to limit bytes of s without what is not printable, or is the
// quote, and returns how many.
func (p *printer) escape(s string, limit int, quote byte, characters bool) int {
	i := 0
	for i < len(s) && i < limit && !p.over() {
		c, size := rune(s[i]), 1
		if c >= utf8.RuneSelf && characters {
			c, size = character(s[i:])
		}
		i += size
		switch {
		case quote != 0 && (c == rune(quote) || c == '\\'):
			p.buf = append(p.buf, '\\', byte(c))
		case c == '\n':
			p.put(`\n`)
		case c == '\r':
			p.put(`\r`)
		case c == '\t':
			p.put(`\t`)
		case c < utf8.RuneSelf && c >= ' ' && c != 0x7f,
			c >= utf8.RuneSelf && size > 1 && unicode.IsPrint(c):
			p.buf = utf8.AppendRune(p.buf, c)
		case c > 0xffff:
			p.putf(`\U%08x`, c)
		case c > 0xff:
			p.putf(`\u%04x`, c)
		default:
			p.putf(`\x%02x`, c)
		}
	}
	return i
}

// character reads one, or a surrogate, or a byte that is neither.
func character(s string) (rune, int) {
	c, size := utf8.DecodeRuneInString(s)
	if size > 1 {
		return c, size
	}
	if len(s) >= 3 && s[0] == 0xed && s[1] >= 0xa0 && s[1] <= 0xbf && s[2]&0xc0 == 0x80 {
		return 0xd000 | rune(s[1]&0x3f)<<6 | rune(s[2]&0x3f), 3
	}
	return rune(s[0]), 1
}
