package zodb

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What persistent.TimeStamp of the Python package persistent 6.9 gives.
func TestTidIsWhatPythonsTimeStampMakesOfATime(t *testing.T) {
	for _, c := range []struct {
		t   time.Time
		tid Tid
	}{
		{time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), 0x023c2b0000000000},
		{time.Date(2000, 2, 29, 23, 59, 59, 999999000, time.UTC), 0x0332b37fffffffb8},
		{time.Date(2026, 11, 22, 21, 4, 26, 82562000, time.UTC), 0x040d31d06f491cf1},
		{time.Date(1901, 1, 1, 0, 0, 1, 500000000, time.UTC), 0x00082c8006666666},
		{time.Date(2999, 12, 31, 12, 30, 30, 250000000, time.UTC), 0x231f334e81111111},
	} {
		// The last unit, of 14 ns, is a matter of rounding.
		if got := TidAt(c.t); got < c.tid-1 || got > c.tid+1 {
			t.Errorf("%s: %s, not %s", c.t, got, c.tid)
		}
		if got := c.tid.Time(); !got.Equal(c.t) {
			t.Errorf("%s: %s, not %s", c.tid, got, c.t)
		}
	}
}

func TestTidsAscendWithTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const last = 32503680000 * int64(1e6) // the year 3000, in microseconds
		a := rapid.Int64Range(0, last).Draw(t, "a")
		b := rapid.Int64Range(a, min(a+1e8, last)).Draw(t, "b")
		ta, tb := TidAt(time.UnixMicro(a)), TidAt(time.UnixMicro(b))
		if ta > tb || a < b && ta == tb {
			t.Fatalf("%s for %d, %s for %d", ta, a, tb, b)
		}
		if got := ta.Time().UnixMicro(); got != a {
			t.Fatalf("%d became %d", a, got)
		}
	})
}

func TestIDsAreEightBytes(t *testing.T) {
	if o, err := OidFrom(Oid(0x0102).Bytes()); err != nil || o != 0x0102 {
		t.Error(o, err)
	}
	if o, err := TidFrom(Tid(0x0102).Bytes()); err != nil || o != 0x0102 {
		t.Error(o, err)
	}
	for _, b := range []string{"", "1234567", "123456789"} {
		if _, err := OidFrom([]byte(b)); !errors.Is(err, ErrIDLength) {
			t.Errorf("%q: %v", b, err)
		}
		if _, err := TidFrom([]byte(b)); !errors.Is(err, ErrIDLength) {
			t.Errorf("%q: %v", b, err)
		}
	}
}
