package txlog

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

func sampleFormat() *Format {
	return &Format{Database: DatabaseID{1}, Created: time.Unix(1e9, 0).UTC(), Creator: "test",
		LogLocation: "s3://fast/log", Parent: "database 0102 in /srv/data"}
}

func TestFormatIsReadAsItWasWritten(t *testing.T) {
	branch := sampleFormat()
	branch.LogLocation = ""
	for _, f := range []*Format{sampleFormat(), branch, {Created: time.Unix(0, 0).UTC()}} {
		got, err := DecodeFormat(f.encode())
		if err != nil || *got != *f {
			t.Errorf("got %+v, %v\nwant %+v", got, err, f)
		}
	}
}

func TestFieldsOfAFormatThatAreUnknownOrNotInOrderAreRefused(t *testing.T) {
	start := (&Format{Creator: "x"}).encode()
	start = start[:41]
	for name, c := range map[string]struct {
		fields []string
		want   error
	}{
		"unknown":       {[]string{"colour", "red"}, zodb.ErrNewerFormat},
		"twice":         {[]string{"log", "a", "log", "b"}, zodb.ErrCorrupt},
		"out of order":  {[]string{"parent", "a", "log", "b"}, zodb.ErrCorrupt},
		"empty":         {[]string{"log", ""}, zodb.ErrCorrupt},
		"without value": {[]string{"log", "a", "parent"}, zodb.ErrCorrupt},
	} {
		b := append(bytes.Clone(start), 0, 0, 0, byte((len(c.fields)+1)/2))
		for _, s := range c.fields {
			b = fileformat.AppendBytes(b, []byte(s))
		}
		if _, err := DecodeFormat(fileformat.AppendSum(b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADatabaseIsCreatedOnlyWithAllThatBelongsToIt(t *testing.T) {
	b := bucket.NewMemory()
	f := sampleFormat()
	failure := errors.New("no")
	if err := CreateFilled(t.Context(), b, f, nothing, func() error { return failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	if _, err := ReadFormat(t.Context(), b); !errors.Is(err, ErrNoDatabase) {
		t.Error(err)
	}
	c := &Checkpoint{Number: 1, Database: f.Database, Position: Start()}
	err := CreateFilled(t.Context(), b, f, nothing, func() error { return b.Put(t.Context(), c.Name(), c.Encode()) })
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFormat(t.Context(), b); err != nil || *got != *f {
		t.Errorf("%+v, %v", got, err)
	}
	if err := CreateFilled(t.Context(), b, f, nothing, func() error { return nil }); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Error(err)
	}
}

func TestOneOfTwoWhoCreateDifferentDatabasesAtATimeIsRefused(t *testing.T) {
	b := bucket.NewMemory()
	one, other := sampleFormat(), sampleFormat()
	other.Database = DatabaseID{2}
	err := CreateFilled(t.Context(), b, one, nothing, func() error {
		return CreateFilled(t.Context(), b, other, nothing, func() error { return nil })
	})
	if !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
}

func TestCreateRefusesABucketWithOtherThingsInIt(t *testing.T) {
	b := bucket.NewMemory()
	if err := b.Put(t.Context(), "holiday.jpg", []byte("x")); err != nil {
		t.Fatal(err)
	}
	_, err := Create(t.Context(), b, Format{Creator: "test", Created: time.Now()})
	if err == nil || !strings.Contains(err.Error(), "holiday.jpg") {
		t.Error(err)
	}
	if _, err := ReadFormat(t.Context(), b); !errors.Is(err, ErrNoDatabase) {
		t.Error(err)
	}
}

func TestCreateByTwoGivesOneDatabase(t *testing.T) {
	b := bucket.NewMemory()
	got := make(chan *Format, 2)
	for range 2 {
		go func() {
			f, err := Create(context.Background(), b, Format{Creator: "test", Created: time.Now()})
			if err != nil {
				t.Error(err)
			}
			got <- f
		}()
	}
	if one, other := <-got, <-got; one == nil || other == nil || one.Database != other.Database {
		t.Errorf("%v and %v", one, other)
	}
}

func TestForeignFormatObjectIsRefused(t *testing.T) {
	for _, content := range []string{"", "{}", "something quite different, and longer than any header would be"} {
		b := bucket.NewMemory()
		if err := b.Put(t.Context(), FormatName, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFormat(t.Context(), b); !errors.Is(err, zodb.ErrCorrupt) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func FuzzFormat(f *testing.F) {
	f.Add(sampleFormat().encode())
	f.Add((&Format{}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		reseal(b)
		format, err := DecodeFormat(b)
		if err == nil && !bytes.Equal(format.encode(), b) {
			t.Errorf("decoded and encoded:\n%x\n%x", b, format.encode())
		}
	})
}

// nothing was begun.
func nothing(string) bool { return false }

func TestWhatAnEarlierTryLeftIsNotInTheWay(t *testing.T) {
	b := bucket.NewMemory()
	for _, name := range []string{CheckpointName(1), CheckpointName(2)} {
		if err := b.Put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
		begun := func(name string) bool { return name == CheckpointName(1) }
		f := sampleFormat()
		id := DatabaseID{7}
		err := CreateFilled(t.Context(), b, f, begun, func() error { f.Database = id; return nil })
		if name == CheckpointName(2) {
			if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), name) {
				t.Error(err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFormat(t.Context(), b); err != nil || got.Database != id {
			t.Errorf("%+v, %v", got, err)
		}
		if err := b.Delete(t.Context(), FormatName); err != nil {
			t.Fatal(err)
		}
	}
}
