package pydata

import (
	"errors"
	"fmt"

	"s3storage/internal/pickle"
	"s3storage/internal/zodb"
)

// binPersID takes the reference that a persistent id makes.
func (w *walker) binPersID(id clue) error {
	switch id.kind {
	case list: // weak, or of another database
		return nil
	case text, pair:
		scan := pickle.NewScanner(w.data, int(id.at))
		op, arg, err := scan.Next()
		if err != nil {
			return err
		}
		return w.refer(op, arg)
	}
	return errors.New("persistent id of a form that is not known")
}

// refer takes the oid that opcode and argument spell.
func (w *walker) refer(op byte, arg []byte) error {
	b, err := spelled(op, arg)
	if err != nil {
		return fmt.Errorf("persistent id: %w", err)
	}
	oid, err := zodb.OidFrom(b)
	if err != nil {
		return fmt.Errorf("persistent id %.100q: %w", string(b), err)
	}
	w.refs.add(oid)
	return nil
}

// spelled returns the bytes that a string stands for. In text they are the
// characters of that number.
func spelled(op byte, arg []byte) ([]byte, error) {
	var s string
	var err error
	switch op {
	case pickle.String:
		return pickle.Quoted(arg)
	case pickle.Unicode:
		s, err = pickle.RawUnicode(arg)
	case pickle.BinUnicode, pickle.ShortBinUnicode, pickle.BinUnicode8:
		s = string(arg)
	default:
		return arg, nil
	}
	if err != nil {
		return nil, err
	}
	return latin1(s)
}

// latin1 returns the bytes that text stands for.
func latin1(s string) ([]byte, error) {
	out := make([]byte, 0, 8)
	for _, r := range s { // U+FFFD where it is not UTF-8
		if r > 0xff {
			return nil, fmt.Errorf("%q of %.100q stands for no byte", r, s)
		}
		out = append(out, byte(r))
	}
	return out, nil
}
