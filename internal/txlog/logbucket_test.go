package txlog

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"s3storage/internal/bucket"
)

var splitTemplate = Format{Creator: "test", Created: time.Unix(1e9, 0), LogLocation: "the log's"}

// opener opens one bucket, whatever its location is.
func opener(b bucket.Bucket) func(context.Context, string) (bucket.Bucket, error) {
	return func(context.Context, string) (bucket.Bucket, error) { return b, nil }
}

func createWithLog(t *testing.T, main, log bucket.Bucket) *Format {
	t.Helper()
	if err := CreateWithLog(t.Context(), main, log, splitTemplate); err != nil {
		t.Fatal(err)
	}
	b, err := WithLog(t.Context(), main, opener(log))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ReadFormat(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, b bucket.Bucket, name string) {
	t.Helper()
	if err := b.Put(t.Context(), name, []byte(name)); err != nil {
		t.Fatal(err)
	}
}

func TestTheFormatLeadsToTheBucketOfTheLog(t *testing.T) {
	main, log := bucket.NewMemory(), bucket.NewMemory()
	f := createWithLog(t, main, log)
	if f.LogLocation != splitTemplate.LogLocation {
		t.Errorf("%+v", f)
	}
	b, err := WithLog(t.Context(), main, opener(log))
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, Name(1, 1))
	if _, err := log.Get(t.Context(), Name(1, 1), 100); err != nil {
		t.Error(err)
	}
	// Whoever has only the main bucket opens no database without its log.
	if _, err := ReadFormat(t.Context(), main); err == nil || errors.Is(err, ErrNoDatabase) {
		t.Error(err)
	}
	if _, err := Create(t.Context(), main, Format{Creator: "test"}); err == nil {
		t.Error("it was opened without its log")
	}
}

// A dying bucket does only so many writes, and no more.
type dying struct {
	bucket.Bucket
	writes *int
}

var errDied = errors.New("died")

func (d dying) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if strings.HasPrefix(name, bucket.ProbePrefix) {
		return d.Bucket.PutIfAbsent(ctx, name, data)
	}
	if *d.writes--; *d.writes < 0 {
		return errors.Join(errDied, bucket.ErrDenied)
	}
	return d.Bucket.PutIfAbsent(ctx, name, data)
}

func TestACreationThatWasBrokenOffGoesOn(t *testing.T) {
	for writes := range 4 {
		main, log := bucket.NewMemory(), bucket.NewMemory()
		left := writes
		err := CreateWithLog(t.Context(), dying{main, &left}, dying{log, &left}, splitTemplate)
		if broken := writes < 3; errors.Is(err, errDied) != broken || !broken && err != nil {
			t.Fatalf("after %d writes: %v", writes, err)
		}
		_, err = readFormat(t.Context(), main, FormatName)
		if there := writes == 3; there != (err == nil) {
			t.Errorf("after %d writes: %v", writes, err)
		}
		begun, _ := readFormat(t.Context(), main, ClaimName)
		f := createWithLog(t, main, log)
		if begun != nil && *f != *begun {
			t.Errorf("after %d writes: %+v, begun was %+v", writes, f, begun)
		}
	}
}

func TestACreationThatWasBrokenOffGoesOnWithNoOtherLog(t *testing.T) {
	main, left := bucket.NewMemory(), 1
	err := CreateWithLog(t.Context(), dying{main, &left}, dying{bucket.NewMemory(), &left}, splitTemplate)
	if !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	other := splitTemplate
	other.LogLocation = "elsewhere"
	err = CreateWithLog(t.Context(), main, bucket.NewMemory(), other)
	if err == nil || !strings.Contains(err.Error(), splitTemplate.LogLocation) {
		t.Error(err)
	}
	if _, err := Create(t.Context(), main, Format{Creator: "test"}); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
}

func TestTwoDatabasesDoNotShareALog(t *testing.T) {
	log := bucket.NewMemory()
	f := createWithLog(t, bucket.NewMemory(), log)
	main := bucket.NewMemory()
	err := CreateWithLog(t.Context(), main, log, splitTemplate)
	if err == nil || !strings.Contains(err.Error(), f.Database.String()) || !strings.Contains(err.Error(), "choose another") {
		t.Error(err)
	}
	if err := main.List(t.Context(), "", "", func(i bucket.Info) error { return errors.New(i.Name) }); err != nil {
		t.Errorf("the refusal left something: %v", err)
	}
	if _, err := Create(t.Context(), log, Format{Creator: "test"}); !errors.Is(err, ErrTaken) {
		t.Errorf("the bucket of a log became a database: %v", err)
	}
}

func TestOfManyWhoWantOneLogOneGetsIt(t *testing.T) {
	const n = 4
	log := bucket.NewMemory()
	mains := make([]bucket.Bucket, n)
	errs := make(chan error, n)
	for i := range mains {
		mains[i] = bucket.NewMemory()
		go func() { errs <- CreateWithLog(t.Context(), mains[i], log, splitTemplate) }()
	}
	made := 0
	for range mains {
		if <-errs == nil {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d databases have one log", made)
	}
}

func TestCreationByTwoGivesOneDatabaseWithItsLog(t *testing.T) {
	main, log := bucket.NewMemory(), bucket.NewMemory()
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- CreateWithLog(t.Context(), main, log, splitTemplate) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	createWithLog(t, main, log) // also when it is there
}

func TestABucketForTheLogWithOtherThingsInItIsRefused(t *testing.T) {
	for _, name := range []string{"holiday.jpg", FormatName, Name(1, 1)} {
		main, log := bucket.NewMemory(), bucket.NewMemory()
		put(t, log, name)
		err := CreateWithLog(t.Context(), main, log, splitTemplate)
		if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), name) {
			t.Error(err)
		}
	}
}

func TestBothBucketsAreProbed(t *testing.T) {
	for i, want := range []string{"main", "log"} {
		buckets := []bucket.Bucket{bucket.NewMemory(), bucket.NewMemory()}
		buckets[i] = careless{buckets[i]}
		err := CreateWithLog(t.Context(), buckets[0], buckets[1], splitTemplate)
		if !errors.Is(err, bucket.ErrNoConditionalPut) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A careless bucket puts over what exists.
type careless struct{ bucket.Bucket }

func (c careless) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return c.Put(ctx, name, data)
}

func TestALogThatIsNotTheDatabasesIsRefusedWithAReason(t *testing.T) {
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		open func(t *testing.T) (bucket.Bucket, error)
		want []string
	}{
		"unreachable": {func(*testing.T) (bucket.Bucket, error) { return nil, gone }, []string{"gone", "see that"}},
		"empty":       {func(*testing.T) (bucket.Bucket, error) { return bucket.NewMemory(), nil }, []string{"claim is missing", "put back"}},
		"another's": {func(t *testing.T) (bucket.Bucket, error) {
			log := bucket.NewMemory()
			createWithLog(t, bucket.NewMemory(), log)
			return log, nil
		}, []string{"another database", "put the right bucket back"}},
		"unreadable": {func(t *testing.T) (bucket.Bucket, error) {
			log := bucket.NewMemory()
			put(t, log, ClaimName)
			return log, nil
		}, []string{"claim", "damaged"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			main := bucket.NewMemory()
			f := createWithLog(t, main, bucket.NewMemory())
			_, err := WithLog(t.Context(), main, func(context.Context, string) (bucket.Bucket, error) { return c.open(t) })
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, w := range append(c.want, f.Database.String(), f.LogLocation) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
		})
	}
}

func TestABucketWithoutALogOfItsOwnIsOpenedAsItIs(t *testing.T) {
	none := func(context.Context, string) (bucket.Bucket, error) {
		return nil, errors.New("nothing is to be opened")
	}
	plain, damaged := bucket.NewMemory(), bucket.NewMemory()
	if _, err := Create(t.Context(), plain, Format{Creator: "test"}); err != nil {
		t.Fatal(err)
	}
	put(t, damaged, FormatName)
	for _, b := range []bucket.Bucket{bucket.NewMemory(), plain, damaged} {
		if got, err := WithLog(t.Context(), b, none); err != nil || got != b {
			t.Errorf("%v, %v", got, err)
		}
	}
}
