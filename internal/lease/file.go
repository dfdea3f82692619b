package lease

import (
	"encoding/binary"
	"time"

	"s3storage/internal/fileformat"
)

// ObjectName is the name of the object that the lease in a bucket is kept in.
// It is written over each time, and nothing but the lease relies on it.
const ObjectName = "lease"

// A record is what that object holds:
//
//	 0  16  the start of every file; magic word "s3zles\r\n", version 1, number 0
//	16  16  id of the database
//	32  16  term: random, new each time the lease is taken; 0: free
//	48  16  challenge: random; 0: none
//	64   8  since when it is held, in ns since 1970, by the holder's clock
//	72      length in four bytes, and bytes: the holder's name
//	        likewise: its address, the challenger's name, its address
//	    32  SHA-256 of all before
type record struct {
	Database   [16]byte
	Term       [16]byte
	Challenge  [16]byte
	Holder     Holder
	Challenger Holder // its Since is not kept
}

const (
	recordMagic   = "s3zles\r\n"
	recordVersion = 1
	recordLeast   = 72
	maxText       = 255 // bytes of a name or an address
	maxRecord     = 2048
)

func (r *record) encode() []byte {
	b := fileformat.AppendStart(nil, recordMagic, recordVersion, 0)
	b = append(b, r.Database[:]...)
	b = append(b, r.Term[:]...)
	b = append(b, r.Challenge[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Holder.Since.UnixNano()))
	for _, s := range []string{r.Holder.Node, r.Holder.Address, r.Challenger.Node, r.Challenger.Address} {
		b = fileformat.AppendBytes(b, []byte(s))
	}
	return fileformat.AppendSum(b)
}

func decodeRecord(b []byte) (*record, error) {
	f, zero, _, err := fileformat.Open(ObjectName, b, recordMagic, recordVersion, recordLeast)
	if err != nil {
		return nil, err
	}
	if zero != 0 {
		return nil, f.Corrupt("reserved bytes are not zero")
	}
	r := &record{Database: f.ID(), Term: f.ID(), Challenge: f.ID()}
	r.Holder.Since = time.Unix(0, int64(f.Uint64())).UTC()
	for _, s := range []*string{&r.Holder.Node, &r.Holder.Address, &r.Challenger.Node, &r.Challenger.Address} {
		n := f.Uint32()
		if n > maxText {
			return nil, f.Corrupt("a text of %d bytes, at most %d are allowed", n, maxText)
		}
		*s = string(f.Bytes(n))
	}
	return r, f.End()
}
