package zeo

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"s3storage/internal/pickle"
)

// A global is a name that a pickle may mention because it stands for plain
// data. It never leaves the decoder.
type global byte

const (
	globalBinary      global = iota // zodbpickle.binary and the built-in bytes: []byte
	globalEncode                    // _codecs.encode: how old protocols write bytes
	globalReconstruct               // copyreg._reconstructor: how old protocols write instances
	globalPrefix                    // ZopeUndo's Prefix
	globalObject                    // the built-in object, for _reconstructor
	globalDict                      // the built-in dict: what a subclass may be reduced to
)

// globals are all the names that are known. Whatever else a pickle mentions
// makes it refused.
var globals = map[string]global{
	"zodbpickle.binary":       globalBinary,
	"builtins.bytes":          globalBinary,
	"builtins.bytearray":      globalBinary,
	"__builtin__.bytes":       globalBinary,
	"__builtin__.bytearray":   globalBinary,
	"_codecs.encode":          globalEncode,
	"copyreg._reconstructor":  globalReconstruct,
	"copy_reg._reconstructor": globalReconstruct,
	"ZopeUndo.Prefix.Prefix":  globalPrefix,
	"builtins.object":         globalObject,
	"__builtin__.object":      globalObject,
	"builtins.dict":           globalDict,
	"__builtin__.dict":        globalDict,
}

// A GlobalError reports a pickle that mentions a class or function which is not
// plain data.
type GlobalError struct{ Module, Name string }

func (e *GlobalError) Error() string {
	return fmt.Sprintf("the pickle mentions %.100q of module %.100q, which no message needs", e.Name, e.Module)
}

func (m *machine) object(op byte, arg []byte) error {
	if op == pickle.Global {
		module, name, _ := strings.Cut(string(arg), "\n")
		return m.mention(module, name)
	}
	vs, err := m.popN(2)
	if err != nil {
		return err
	}
	switch op {
	case pickle.StackGlobal:
		module, ok1 := vs[0].(string)
		name, ok2 := vs[1].(string)
		if !ok1 || !ok2 {
			return errLeftOver
		}
		return m.mention(module, name)
	case pickle.Build:
		return m.build(vs[0], settle(vs[1]))
	}
	g, ok1 := vs[0].(global)
	args, ok2 := vs[1].(Tuple)
	if !ok1 || !ok2 {
		return errLeftOver
	}
	v, err := construct(g, args)
	if err != nil {
		return err
	}
	return m.push(v)
}

func (m *machine) mention(module, name string) error {
	g, ok := globals[module+"."+name]
	if !ok {
		return &GlobalError{Module: module, Name: name}
	}
	return m.push(g)
}

// construct is what calling g with args gives.
func construct(g global, args Tuple) (any, error) {
	switch g {
	case globalBinary:
		if len(args) == 0 {
			return []byte{}, nil
		}
		switch v := args[0].(type) {
		case []byte:
			if len(args) == 1 {
				return v, nil
			}
		case string:
			if len(args) == 1 { // Python 2's str
				return []byte(v), nil
			}
			return encodeLatin1(args)
		}
	case globalEncode:
		return encodeLatin1(args)
	case globalReconstruct:
		if len(args) != 3 {
			break
		}
		switch args[0] {
		case globalBinary:
			if b, ok := args[2].([]byte); ok && args[1] == globalBinary {
				return b, nil
			}
		case globalPrefix:
			if args[1] == globalObject && args[2] == nil {
				return &building{kind: pickle.NewObj}, nil
			}
		}
	case globalPrefix:
		switch len(args) {
		case 0:
			return &building{kind: pickle.NewObj}, nil
		case 1:
			if s, ok := args[0].(string); ok {
				return Prefix(s), nil
			}
		}
	case globalDict:
		if len(args) == 1 {
			return dictOfPairs(itemsOf(args[0]))
		}
	}
	return nil, errLeftOver
}

// dictOfPairs is what calling dict with a sequence of pairs gives.
func dictOfPairs(pairs []any) (any, error) {
	d := Dict{}
	for _, v := range pairs {
		pair := itemsOf(v)
		if len(pair) != 2 {
			return nil, errLeftOver
		}
		d = append(d, Item{pair[0], pair[1]})
	}
	return d, nil
}

// encodeLatin1 is text.encode("latin-1").
func encodeLatin1(args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, errLeftOver
	}
	text, ok1 := args[0].(string)
	codec, ok2 := args[1].(string)
	if !ok1 || !ok2 || codec != "latin1" && codec != "latin-1" {
		return nil, errLeftOver
	}
	out := make([]byte, 0, utf8.RuneCountInString(text))
	for _, r := range text {
		if r > 0xff {
			return nil, pickle.ErrText
		}
		out = append(out, byte(r))
	}
	return out, nil
}

// build gives a Prefix its attributes.
func (m *machine) build(v, state any) error {
	n, ok1 := v.(*building)
	attrs, ok2 := state.(Dict)
	if !ok1 || !ok2 || n.kind != pickle.NewObj || n.shared {
		return errLeftOver
	}
	p, _ := attrs.Get("path")
	path, ok := p.(List)
	if !ok {
		return errLeftOver
	}
	elements := make([]string, len(path))
	for i, e := range path {
		if elements[i], ok = e.(string); !ok {
			return errLeftOver
		}
	}
	n.prefix = Prefix(strings.Join(elements, "/"))
	m.stack = append(m.stack, n)
	return nil
}
