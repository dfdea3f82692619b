package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"s3storage/internal/engine"
	"s3storage/internal/zodb"
)

// momentHelp says how a moment is written.
const momentHelp = `A moment is a time in UTC (2026-11-25, "2026-11-25 10:00", 2026-11-25T10:00:00Z,
also with a zone), a tid of 16 hexadecimal digits, or the name of a snapshot.`

// A momentArg is a state of a database as people name it.
type momentArg struct {
	text string
	engine.Moment
}

var timeLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *momentArg) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	m.text = s
	if s == "" {
		return fmt.Errorf("no moment; %s", momentHelp)
	}
	if raw, err := hex.DecodeString(s); err == nil && len(raw) == 8 {
		tid, err := zodb.TidFrom(raw)
		m.Moment = engine.Moment{Tid: tid}
		return err
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			m.Moment = engine.Moment{Tid: zodb.TidAt(t)}
			return nil
		}
	}
	if s[0] >= '0' && s[0] <= '9' {
		return fmt.Errorf("%q is no time; %s", s, momentHelp)
	}
	m.Moment = engine.Moment{Snapshot: s}
	return nil
}
