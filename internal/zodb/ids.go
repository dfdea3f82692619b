package zodb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"time"
)

// An Oid names one object of a database for ever. On the wire and in files it
// is eight bytes, big-endian, as ZODB's p64 writes them.
type Oid uint64

// A Tid names one transaction and orders all of them. It is a time stamp in
// ZODB's form (persistent.TimeStamp): the high 32 bits count minutes in a
// calendar of 31-day months, the low 32 bits the fraction of the minute in
// units of 60/2^32 s. The tid of the transaction that wrote one revision of an
// object is that revision's serial.
type Tid uint64

const (
	// NoTid is the serial of an object that does not exist yet, and the last
	// tid of an empty database.
	NoTid Tid = 0

	// MaxTid lies after every transaction: ZODB.utils.maxtid.
	MaxTid Tid = math.MaxInt64

	// MaxOid bounds the oids that a client may store. The highest bit stays
	// free so that "the next oid" can always be computed.
	MaxOid Oid = math.MaxInt64
)

// ErrIDLength is returned for a byte string that cannot be an oid or a tid.
var ErrIDLength = errors.New("an oid or tid is a string of 8 bytes")

// OidFrom reads an oid of eight bytes.
func OidFrom(b []byte) (Oid, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w, got %d", ErrIDLength, len(b))
	}
	return Oid(binary.BigEndian.Uint64(b)), nil
}

// TidFrom reads a tid of eight bytes.
func TidFrom(b []byte) (Tid, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w, got %d", ErrIDLength, len(b))
	}
	return Tid(binary.BigEndian.Uint64(b)), nil
}

// Bytes returns the eight bytes of the oid.
func (o Oid) Bytes() []byte { return binary.BigEndian.AppendUint64(nil, uint64(o)) }

// String returns the oid as 16 hexadecimal digits.
func (o Oid) String() string { return fmt.Sprintf("%016x", uint64(o)) }

// Bytes returns the eight bytes of the tid.
func (t Tid) Bytes() []byte { return binary.BigEndian.AppendUint64(nil, uint64(t)) }

// String returns the tid as 16 hexadecimal digits.
func (t Tid) String() string { return fmt.Sprintf("%016x", uint64(t)) }

const tidUnitsPerMinute = 1 << 32

// TidAt returns the tid that stands for the time t, rounded down.
func TidAt(t time.Time) Tid {
	t = t.UTC()
	minutes := uint64(t.Year()-1900)*12 + uint64(t.Month()) - 1
	minutes = minutes*31 + uint64(t.Day()) - 1
	minutes = minutes*24 + uint64(t.Hour())
	minutes = minutes*60 + uint64(t.Minute())
	ns := uint64(t.Second())*uint64(time.Second) + uint64(t.Nanosecond())
	hi, lo := bits.Mul64(ns, tidUnitsPerMinute)
	frac, _ := bits.Div64(hi, lo, uint64(time.Minute)) // below 2^32, as ns is below a minute
	return Tid(minutes<<32 | frac)
}

// Time returns the time that the tid stands for, to the microsecond. A tid
// that no calendar time corresponds to still gives some time: the calendar
// overflows as time.Date does.
func (t Tid) Time() time.Time {
	m := uint64(t) >> 32
	minute, m := m%60, m/60
	hour, m := m%24, m/24
	day, m := m%31, m/31
	month, year := m%12, m/12
	micros := math.Round(float64(uint32(t)) * 60e6 / tidUnitsPerMinute)
	return time.Date(int(year)+1900, time.Month(month)+1, int(day)+1, int(hour), int(minute), 0, 0, time.UTC).
		Add(time.Duration(micros) * time.Microsecond)
}
