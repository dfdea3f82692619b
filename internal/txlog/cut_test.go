package txlog

import (
	"slices"
	"strings"
	"testing"

	"s3storage/internal/bucket"
)

func TestALogThatHasLostAnObjectIsCutThere(t *testing.T) {
	b := bucket.NewMemory()
	l, _ := openLog(t, b, "first")
	for _, tid := range count(1, 20) {
		appendMany(l, tid, tid)
		flush(t, l)
	}
	l.Close()
	var names []string
	if err := b.List(t.Context(), Prefix, "", func(i bucket.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	lost := names[len(names)-8]
	if err := b.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	f, err := ReadFormat(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Walk(t.Context(), b, f, func(*Checkpoint) error { return nil }, func(*Object, Position) error { return nil }); err == nil || !strings.Contains(err.Error(), lost) {
		t.Fatalf("the log is read as if nothing were lost: %v", err)
	}
	cut, err := Cut(t.Context(), b, f)
	if err != nil || !slices.Equal(cut, names[len(names)-7:]) {
		t.Errorf("cut %v, %v", cut, err)
	}
	again, r := openLog(t, b, "second")
	if got := r.tids(); !slices.Equal(got, count(1, 12)) {
		t.Errorf("what is left: %v", got)
	}
	appendMany(again, 30, 30)
	flush(t, again)
	if cut, err := Cut(t.Context(), b, f); len(cut) > 0 || err != nil {
		t.Errorf("of a log that has lost nothing %v was cut, %v", cut, err)
	}
}
