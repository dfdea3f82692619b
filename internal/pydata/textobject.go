package pydata

import (
	"encoding/binary"
	"strconv"
)

// object writes what was called and with which arguments, and after it what was
// done to the object.
func (p *printer) object(v *Value) {
	c := v.Call
	if c.New {
		p.put("new ")
	}
	p.value(c.Of)
	if c.Args != nil {
		p.flatter(func() { p.args(c) })
	}
	if c.Keywords != nil {
		p.put(" keywords ")
		p.value(c.Keywords)
	}
	if len(v.Items) > 0 {
		p.flatter(func() { p.items(" items [", &Value{Items: v.Items}, "]") })
	}
	if len(v.Pairs) > 0 {
		p.put(" pairs ")
		p.flatter(func() { p.pairs(&Value{Pairs: v.Pairs}) })
	}
	for _, state := range c.States {
		p.put(" state ")
		p.value(state)
	}
	if v.More > 0 {
		p.putf(" <%d more>", v.More)
	}
}

func (p *printer) args(c *Call) {
	a := c.Args
	if a.Kind != Tuple || a.Shared() && a.holdsOthers() {
		p.put("(*")
		p.value(a)
		p.put(")")
		return
	}
	numbers := calendar(c.Of, a)
	if len(numbers) == 0 {
		p.items("(", a, ")")
		return
	}
	rest := a.Items[1:] // the time zone
	p.group("(", len(numbers)+len(rest), a.More, ")", func(i int) {
		if i < len(numbers) {
			p.put(strconv.Itoa(numbers[i]))
		} else {
			p.value(rest[i-len(numbers)])
		}
	})
}

// calendar returns the numbers that the first argument of the classes of module
// datetime has in its bytes, or nothing: year, month, day, and hour, minute,
// second, microsecond. The highest bit of the month or hour is the fold.
func calendar(of, args *Value) (numbers []int) {
	if of.Kind != Global || len(args.Items) == 0 {
		return nil
	}
	first := args.Items[0]
	if !first.isText() && first.Kind != Bytes {
		return nil
	}
	b := []byte(first.Text)
	if first.Kind == Str { // from Python 2
		var err error
		if b, err = latin1(first.Text); err != nil {
			return nil
		}
	}
	date, time := 0, 0 // how many bytes
	switch of.Text {
	case "datetime.date":
		date = 4
	case "datetime.time":
		time = 6
	case "datetime.datetime":
		date, time = 4, 6
	}
	if date+time == 0 || len(b) != date+time {
		return nil
	}
	if date > 0 {
		numbers = append(numbers, int(binary.BigEndian.Uint16(b)), int(b[2]&0x7f), int(b[3]))
	}
	if b = b[date:]; time > 0 {
		numbers = append(numbers, int(b[0]), int(b[1]), int(b[2]), int(b[3])<<16|int(b[4])<<8|int(b[5]))
	}
	return numbers
}

func (p *printer) reference(r *Ref) {
	if r.Unknown != nil {
		p.put("<ref of an unknown form: ")
		p.value(r.Unknown)
		p.put(">")
		return
	}
	p.put("<")
	if r.Weak {
		p.put("weak ")
	}
	p.putf("ref %#x", uint64(r.Oid))
	if r.Database != nil {
		p.put(" of database ")
		p.value(r.Database)
	}
	if c := r.Class; c != nil {
		p.put(" class ")
		if c.Kind == Tuple && c.isClassAlone() {
			c = namedGlobal(c.Items[0], c.Items[1])
		}
		p.value(c)
	}
	p.put(">")
}
