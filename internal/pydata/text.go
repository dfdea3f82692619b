package pydata

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Limits bound what Text writes. What they cut is said in its place.
type Limits struct {
	Bytes int // in all; the words that say so come on top
	Depth int // of values in values
	Text  int // bytes of one string, or digits of one number
}

// width is how long a line gets, before what is on it is spread over several.
const width = 78

// Text writes a record for people to read: its class, and its state much as
// Python would write it. Nothing in it makes a terminal do anything. A value
// that is a part of several others is written once, as <#1> VALUE, and then
// referred to as <see #1>. It fails where Decode does, and when w does.
func Text(w io.Writer, record []byte, limits Limits) error {
	r, err := Decode(record)
	if err != nil {
		return err
	}
	p := printer{limits: limits, ids: make(map[*Value]int)}
	p.record(r)
	if len(p.buf) > limits.Bytes {
		n := limits.Bytes
		for n > 0 && !utf8.RuneStart(p.buf[n]) {
			n--
		}
		p.buf = fmt.Appendf(p.buf[:n], "\n<cut after %d bytes>\n", n)
	}
	_, err = w.Write(p.buf)
	return err
}

// A printer has the text so far. What fits on the rest of a line is written flat,
// which is tried first; else each part is on a line of its own.
type printer struct {
	limits Limits
	buf    []byte
	line   int // where the last line begins
	indent int // of the last line, in steps
	depth  int
	ids    map[*Value]int // of the values that were written and are shared

	flat bool
	end  int  // where a flat value must have ended
	long bool // it has not, or cannot be flat
}

// over tells that there is no use in writing on.
func (p *printer) over() bool {
	p.long = p.long || p.flat && len(p.buf) > p.end
	return p.long || len(p.buf) > p.limits.Bytes
}

func (p *printer) put(s string) {
	if !p.over() {
		p.buf = append(p.buf, s...)
	}
}

func (p *printer) putf(format string, args ...any) {
	if !p.over() {
		p.buf = fmt.Appendf(p.buf, format, args...)
	}
}

func (p *printer) newline() {
	p.put("\n")
	p.line = len(p.buf)
	p.put(strings.Repeat("  ", p.indent))
}

func (p *printer) record(r *Record) {
	p.put("class " + cmp.Or(r.Class, "unknown"))
	p.newline()
	if d := r.Description; !d.isClassAlone() {
		p.put("described by ")
		p.value(d)
		p.newline()
	}
	p.value(r.State)
	p.put("\n")
}

// isClassAlone tells whether the first pickle of a record says no more than
// Class does.
func (v *Value) isClassAlone() bool {
	if v.Kind == Tuple && len(v.Items) == 2 && v.Items[1].Kind == None {
		v = v.Items[0]
	}
	return v.Kind == Global || v.Kind == Tuple && len(v.Items) == 2 && v.Items[0].isText() && v.Items[1].isText()
}

func (p *printer) value(v *Value) {
	if p.over() {
		return
	}
	if v.holdsOthers() {
		if id, ok := p.ids[v]; ok {
			p.putf("<see #%d>", id)
			return
		}
		if p.depth >= p.limits.Depth {
			p.putf("<%s, too deep>", v.Kind)
			return
		}
		if v.Shared() {
			if p.flat {
				p.long = true
				return
			}
			p.ids[v] = len(p.ids) + 1
			p.putf("<#%d> ", p.ids[v])
		}
	}
	p.depth++
	p.flatter(func() { p.body(v) })
	p.depth--
}

// flatter writes flat if that fits, else not.
func (p *printer) flatter(write func()) {
	if p.flat {
		write()
		return
	}
	start := len(p.buf)
	p.flat, p.end = true, max(p.line+width, start+width/3)
	write()
	fits := !p.over()
	p.flat, p.long = false, false
	if !fits {
		p.buf = p.buf[:start]
		write()
	}
}

func (p *printer) body(v *Value) {
	switch v.Kind {
	case None, Bool, Int, Float:
		p.escaped(v.Text, p.limits.Text)
	case Str, OldStr:
		p.quoted(v.Text, v.Kind == Str)
	case Bytes:
		p.put("b")
		p.quoted(v.Text, false)
	case ByteArray:
		p.put("bytearray(b")
		p.quoted(v.Text, false)
		p.put(")")
	case Tuple:
		end := ")"
		if p.flat && len(v.Items)+v.More == 1 {
			end = ",)"
		}
		p.items("(", v, end)
	case List:
		p.items("[", v, "]")
	case Dict:
		p.pairs(v)
	case Set:
		if len(v.Items)+v.More == 0 {
			p.put("set()")
			return
		}
		p.items("{", v, "}")
	case FrozenSet:
		p.items("frozenset({", v, "})")
	case Global:
		p.escaped(v.Text, p.limits.Text)
	case Object:
		p.object(v)
	case Reference:
		p.reference(v.Ref)
	case Extension:
		p.putf("<extension %s>", v.Text)
	case Malformed:
		p.put("<malformed: ")
		p.quoted(v.Text, false)
		p.put(">")
	case Cut:
		p.put("<not read>")
	}
}

// group writes n parts, and how many more there are, between brackets.
func (p *printer) group(open string, n, more int, end string, part func(i int)) {
	p.put(open)
	p.indent++
	for i := 0; i < n && !p.over(); i++ {
		p.separate(i)
		part(i)
	}
	if more > 0 {
		p.separate(n)
		p.putf("<%d more>", more)
	}
	p.indent--
	if !p.flat && n+more > 0 {
		p.put(",")
		p.newline()
	}
	p.put(end)
}

// separate goes to where part i of a group is written.
func (p *printer) separate(i int) {
	if i > 0 {
		p.put(",")
	}
	if !p.flat {
		p.newline()
	} else if i > 0 {
		p.put(" ")
	}
}

func (p *printer) items(open string, v *Value, end string) {
	p.group(open, len(v.Items), v.More, end, func(i int) { p.value(v.Items[i]) })
}

func (p *printer) pairs(v *Value) {
	p.group("{", len(v.Pairs), v.More, "}", func(i int) {
		if key := v.Pairs[i].Key; key != nil {
			p.value(key)
		} else {
			p.put("<lowest>")
		}
		p.put(": ")
		p.value(v.Pairs[i].Value)
	})
}
