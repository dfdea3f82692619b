package pickle

import (
	"errors"
	"strconv"
	"unicode/utf8"
)

// ErrText reports text that is not written as its opcode wants it.
var ErrText = errors.New("malformed text")

// RawUnicode reads the argument of UNICODE: Latin-1 with \uXXXX and \UXXXXXXXX.
func RawUnicode(b []byte) (string, error) {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		width := 0
		if b[i] == '\\' && i+1 < len(b) {
			switch b[i+1] {
			case 'u':
				width = 4
			case 'U':
				width = 8
			}
		}
		if width == 0 {
			out = utf8.AppendRune(out, rune(b[i]))
			if b[i] == '\\' && i+1 < len(b) { // what follows it begins no escape
				i++
				out = utf8.AppendRune(out, rune(b[i]))
			}
			continue
		}
		if i+2+width > len(b) {
			return "", ErrText
		}
		r, err := strconv.ParseUint(string(b[i+2:i+2+width]), 16, 32)
		if err != nil || r > utf8.MaxRune {
			return "", ErrText
		}
		if r >= 0xd800 && r < 0xe000 { // a lone surrogate
			out = append(out, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
		} else {
			out = utf8.AppendRune(out, rune(r))
		}
		i += 1 + width
	}
	return string(out), nil
}

// Quoted reads the argument of STRING, a Python string literal.
func Quoted(b []byte) ([]byte, error) {
	if len(b) < 2 || b[0] != b[len(b)-1] || b[0] != '\'' && b[0] != '"' {
		return nil, ErrText
	}
	b = b[1 : len(b)-1]
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		if i++; i == len(b) {
			return nil, ErrText
		}
		switch c := b[i]; c {
		case '\\', '\'', '"':
			out = append(out, c)
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'x':
			if i+3 > len(b) {
				return nil, ErrText
			}
			n, err := strconv.ParseUint(string(b[i+1:i+3]), 16, 8)
			if err != nil {
				return nil, ErrText
			}
			out = append(out, byte(n))
			i += 2
		default:
			return nil, ErrText
		}
	}
	return out, nil
}
