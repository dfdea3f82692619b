package main

import (
	"strings"
	"testing"

	"s3storage/internal/check"
	"s3storage/internal/zodb"
)

func TestOidsAndTidsAreTakenAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]zodb.Oid{"31": 31, "0x1f": 31, "000000000000001f": 31, "0": 0} {
		var o oidArg
		if err := o.UnmarshalText([]byte(text)); err != nil || zodb.Oid(o) != want {
			t.Errorf("%s: %v, %v", text, o, err)
		}
	}
	tid, err := zodb.TidFrom([]byte("\x03\xf0\x00\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{tid.String(), "0x" + tid.String(), tid.Time().Format("2006-01-02T15:04:05Z07:00")} {
		var got tidArg
		if err := got.UnmarshalText([]byte(text)); err != nil || zodb.Tid(got) != tid {
			t.Errorf("%s: %s, %v", text, zodb.Tid(got), err)
		}
	}
	for _, text := range []string{"", "x", "-1", "0xfffffffffffffffff", "ffffffffffffffff", "1g"} {
		var o oidArg
		var id tidArg
		if o.UnmarshalText([]byte(text)) == nil || id.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestWhatClientsWroteDoesNothingToATerminal(t *testing.T) {
	if got := safe([]byte("a\x1b[2J\nü\xff")); got != `"a\x1b[2J\nü\xff"` {
		t.Error(got)
	}
}

func TestReportSaysWhatIsDamagedAndWhatToDo(t *testing.T) {
	r := &check.Report{Objects: 3, Bytes: 400}
	r.Damage.Count = 2
	r.Damage.List = []check.Finding{{Object: "segment/aa", What: "it is missing", Cost: "much cannot be read"}}
	r.Warnings.Count = 1
	r.Warnings.List = []check.Finding{{What: "head is damaged"}}
	r.Strays = []check.Strays{{Prefix: "blob/", Objects: 1, Bytes: 10}}
	var out strings.Builder
	printReport(&out, r)
	want := `DAMAGE: segment/aa: it is missing; much cannot be read
DAMAGE: and 1 more
warning: head is damaged
nothing needs 1 objects below blob/, 10 bytes; a server deletes them, unless it is about to commit them
the bucket holds 3 objects, 400 bytes
2 DAMAGED
Objects never change: put back those that are named from a copy of the bucket, or
from their earlier versions, under the same names, and check again.
`
	if out.String() != want {
		t.Errorf("%s\ninstead of\n%s", out.String(), want)
	}
}
