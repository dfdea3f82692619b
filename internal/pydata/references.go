package pydata

import (
	"slices"

	"s3storage/internal/zodb"
)

// References returns the objects of Inspect's Summary, and fails where Inspect
// fails.
func References(record []byte) ([]zodb.Oid, error) {
	s, err := Inspect(record)
	return s.References, err
}

// references are distinct oids in the order of their arrival.
type references struct {
	oids []zodb.Oid
	seen map[zodb.Oid]bool // once there are more than few
}

const few = 32

func (r *references) add(oid zodb.Oid) {
	if r.seen == nil && len(r.oids) >= few {
		r.seen = make(map[zodb.Oid]bool, 4*few)
		for _, o := range r.oids {
			r.seen[o] = true
		}
	}
	if r.seen != nil && r.seen[oid] || r.seen == nil && slices.Contains(r.oids, oid) {
		return
	}
	if r.seen != nil {
		r.seen[oid] = true
	}
	r.oids = append(r.oids, oid)
}
