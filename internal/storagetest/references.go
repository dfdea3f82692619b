package storagetest

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"s3storage/internal/zodb"
)

// A record made by Record is two pickles, as ZODB has it: the class, then the
// state, which is the tuple of the text and the persistent references.
const (
	recordHead = "\x80\x03cstoragetest\nThing\nq\x01.\x80\x03("
	recordTail = "t."
	refHead    = "C\x08"
	refTail    = "cstoragetest\nThing\n\x86Q"
)

// Record returns a record of ZODB with a text of up to 255 bytes, which refers
// to the objects.
func Record(text string, refs ...zodb.Oid) []byte {
	b := append([]byte(recordHead), 'C', byte(len(text)))
	b = append(b, text...)
	for _, oid := range refs {
		b = append(append(append(b, refHead...), oid.Bytes()...), refTail...)
	}
	return append(b, recordTail...)
}

// References returns the objects that a record made by Record refers to.
func References(data []byte) ([]zodb.Oid, error) {
	b, ok := bytes.CutPrefix(data, []byte(recordHead))
	if !ok || len(b) < 2 || len(b) < 2+int(b[1]) {
		return nil, fmt.Errorf("%q is no record made by storagetest.Record", data)
	}
	var oids []zodb.Oid
	for b = b[2+int(b[1]):]; string(b) != recordTail; {
		if b, ok = bytes.CutPrefix(b, []byte(refHead)); !ok || len(b) < 8 {
			return nil, fmt.Errorf("%q is no record made by storagetest.Record", data)
		}
		oids = append(oids, zodb.Oid(binary.BigEndian.Uint64(b)))
		if b, ok = bytes.CutPrefix(b[8:], []byte(refTail)); !ok {
			return nil, fmt.Errorf("%q is no record made by storagetest.Record", data)
		}
	}
	return oids, nil
}
