package main

import (
	"strings"
	"testing"

	"s3storage/internal/engine"
)

func TestWhoDeletesASnapshotIsToldWhatIsLost(t *testing.T) {
	for name, want := range map[string]string{
		"branch-0123456789abcdef":           "the branch that was made with it loses its data",
		"before-restore-20261125T100000Z-2": "cannot be taken back",
		"before-upgrade":                    "a branch that was made of it, if there is one",
	} {
		if got := lostWith(name); !strings.Contains(got, want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	help := (&snapshotDeleteCmd{}).Help()
	for _, prefix := range []string{engine.ForBranch, engine.BeforeRestore} {
		if !strings.Contains(help, prefix+"...") {
			t.Errorf("the help does not name %s", prefix)
		}
	}
}
