package pydata

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
)

// maxRecord bounds the bytes of a record, also after it was inflated. Offsets
// fit an int32.
const maxRecord = 1 << 30

// inflated returns the pickles of a record as the client's storage wrappers
// have left it. No pickle begins with a full stop, which is STOP; so wrappers
// mark with it what they have changed.
func inflated(record []byte, limit int) ([]byte, error) {
	if len(record) > limit {
		return nil, fmt.Errorf("it is longer than %d bytes", limit)
	}
	if len(record) < 2 || record[0] != '.' {
		return record, nil
	}
	if record[1] != 'z' {
		return nil, fmt.Errorf("it starts with %q: a storage wrapper of the client has encoded it in a way that is not known here", record[:2])
	}
	in := bytes.NewReader(record[2:])
	z, err := zlib.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("inflate it: %w", err)
	}
	var out bytes.Buffer // grows with what has come
	if _, err := io.Copy(&out, io.LimitReader(z, int64(limit)+1)); err != nil {
		return nil, fmt.Errorf("inflate it: %w", err)
	}
	if out.Len() > limit {
		return nil, fmt.Errorf("it is longer than %d bytes when inflated", limit)
	}
	if in.Len() > 0 {
		return nil, fmt.Errorf("%d bytes follow the compressed data", in.Len())
	}
	return out.Bytes(), nil
}
