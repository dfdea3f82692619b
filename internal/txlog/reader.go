package txlog

import (
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A reader takes apart the bytes of a file of this package.
type reader struct{ *fileformat.Reader }

func (r reader) header() (h Header) {
	h.Database = r.ID()
	h.Epoch = Epoch(r.Uint64())
	h.Slot = Slot(r.Uint64())
	h.Put = r.ID()
	copy(h.Prev[:], r.Bytes(32))
	h.LogStart = Slot(r.Uint64())
	h.Checkpoint = r.Uint64()
	h.Settled = Slot(r.Uint64())
	h.OidMark = zodb.Oid(r.Uint64())
	h.LastTid = zodb.Tid(r.Uint64())
	return h
}
