package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"s3storage/internal/zodb"
)

// A byteSize is a number of bytes as people write it: 1000, 64MiB, 2GB.
type byteSize int64

var byteUnits = []struct {
	suffix string
	bytes  int64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}, {"b", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *byteSize) UnmarshalText(text []byte) error {
	number, factor := strings.ToLower(strings.TrimSpace(string(text))), int64(1)
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)/factor {
		return fmt.Errorf("%q is not a size: give a number of bytes such as 1000000, 64MiB or 2GB", text)
	}
	*s = byteSize(n * factor)
	return nil
}

// A grace is a time.Duration of zero or more.
type grace time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *grace) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration: give a number and a unit such as 0s, 30s or 5m", text)
	}
	*g = grace(v)
	return nil
}

// A duration is a time.Duration above zero.
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a duration: give a number and a unit such as 500ms, 30s or 5m", text)
	}
	*d = duration(v)
	return nil
}

// A tid names a transaction: 16 hexadecimal digits.
type tid zodb.Tid

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *tid) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil || len(text) != 16 || v == 0 || zodb.Tid(v) > zodb.MaxTid {
		return fmt.Errorf("%q is no transaction: give 16 hexadecimal digits", text)
	}
	*t = tid(v)
	return nil
}
