package pydata

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"s3storage/internal/pickle"
)

const (
	longestName = 1000
	mostNames   = 1000 // that one walker keeps; a database has some hundred
)

// className returns the name of the class that v describes, in one of the forms
// of ZODB.serialize, or nothing. A name that was met before takes no memory.
func (w *walker) className(v clue) string {
	if v.kind != global && v.kind != described && (v.kind != pair || v.name == 0) {
		return ""
	}
	b, err := w.spell(make([]byte, 0, 256), v.at)
	if i := bytes.IndexByte(b, '\n'); v.name == 0 && i >= 0 {
		b[i] = '.'
	}
	if v.name > 0 && err == nil {
		b, err = w.spell(append(b, '.'), v.name)
	}
	if name, ok := w.names[string(b)]; ok && err == nil {
		return name
	}
	if err != nil || len(b) > longestName || !utf8.Valid(b) || bytes.ContainsFunc(b, unprintable) {
		return ""
	}
	if w.names == nil || len(w.names) >= mostNames {
		w.names = make(map[string]string)
	}
	name := string(b)
	w.names[name] = name
	return name
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// spell appends the text or the two lines that are the argument of the opcode
// at an offset, and no more of it than shows that it is too long.
func (w *walker) spell(b []byte, at int32) ([]byte, error) {
	scan := pickle.NewScanner(w.data, int(at))
	op, arg, err := scan.Next()
	switch op {
	case pickle.String:
		arg, err = pickle.Quoted(arg)
	case pickle.Unicode:
		var s string
		s, err = pickle.RawUnicode(arg)
		arg = []byte(s)
	}
	return append(b, arg[:min(len(arg), longestName+1)]...), err
}
