package pydata

import "s3storage/internal/zodb"

// reference reads a persistent id in one of the forms that the package comment
// lists.
func reference(id *Value) *Ref {
	r, ok := new(Ref), false
	switch id.Kind {
	case Tuple:
		if len(id.Items) > 0 && id.More == 0 {
			r.Oid, ok = oid(id.Items[0])
		}
		if ok && len(id.Items) > 1 {
			r.Class = id.Items[1]
		}
	case List:
		ok = r.extended(id.Items)
	default:
		r.Oid, ok = oid(id)
	}
	if !ok {
		return &Ref{Unknown: id.part()}
	}
	if r.Class != nil {
		r.Class.part()
	}
	return r
}

// extended reads the items of a list.
func (r *Ref) extended(items []*Value) (ok bool) {
	if len(items) == 1 {
		r.Weak = true
		r.Oid, ok = oid(items[0])
		return ok
	}
	if len(items) != 2 || !items[0].isText() || items[1].Kind != Tuple {
		return false
	}
	args := items[1].Items
	switch form := items[0].Text; {
	case form == "w" && (len(args) == 1 || len(args) == 2):
		r.Weak = true
		r.Oid, ok = oid(args[0])
		if len(args) == 2 {
			r.Database = args[1]
		}
	case form == "n" && len(args) == 2, form == "m" && len(args) == 3:
		r.Database = args[0]
		r.Oid, ok = oid(args[1])
		if len(args) == 3 {
			r.Class = args[2]
		}
	}
	return ok && (r.Database == nil || r.Database.isText())
}

func (v *Value) isText() bool { return v.Kind == Str || v.Kind == OldStr }

func oid(v *Value) (zodb.Oid, bool) {
	b, err := []byte(nil), error(nil)
	switch v.Kind {
	case Str:
		b, err = latin1(v.Text)
	case OldStr, Bytes:
		b = []byte(v.Text)
	}
	if err != nil || len(b) != 8 {
		return 0, false
	}
	id, err := zodb.OidFrom(b)
	return id, err == nil
}

// encoded returns the bytes that a call of of makes, if it is how Python 3 writes
// them in protocols 0 to 2. They are made once of each text.
func (d *decoder) encoded(of, args *Value) *Value {
	if of.Kind != Global || of.Text != "_codecs.encode" || args.Kind != Tuple ||
		len(args.Items) != 2 || args.Items[0].Kind != Str {
		return nil
	}
	text := args.Items[0]
	if v, ok := d.bytes[text]; ok {
		return v
	}
	b, err := latin1(text.Text)
	if err != nil {
		return nil
	}
	if d.bytes == nil {
		d.bytes = make(map[*Value]*Value)
	}
	v := &Value{Kind: Bytes, Text: string(b)}
	d.bytes[text] = v
	return v
}
