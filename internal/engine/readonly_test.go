package engine

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// openPast opens a database for reading.
func openPast(t *testing.T, b bucket.Bucket, at Moment) *Engine {
	t.Helper()
	e, err := OpenReadOnly(t.Context(), b, Options{Logger: slog.New(slog.DiscardHandler), At: at})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeEngine(t, e) })
	return e
}

// forget has the files deleted that the present base of a database does not need.
func forget(t *testing.T, e *Engine) {
	t.Helper()
	if err := e.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.log.Trim(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// What each way to read an object finds in the past: object 1, that has the data of
// the serial, and object 2, that has the blob of another.
var readers = map[string]func(t *testing.T, e *Engine, serial, blobSerial zodb.Tid) (string, error){
	"load": func(t *testing.T, e *Engine, _, _ zodb.Tid) (string, error) {
		rev, _, err := e.LoadBefore(t.Context(), 1, zodb.MaxTid)
		return string(rev.Data), err
	},
	"loadSerial": func(t *testing.T, e *Engine, serial, _ zodb.Tid) (string, error) {
		data, err := e.LoadSerial(t.Context(), 1, serial)
		return string(data), err
	},
	"getTid": func(t *testing.T, e *Engine, serial, _ zodb.Tid) (string, error) {
		tid, err := e.GetTid(t.Context(), 1)
		if err == nil && tid != serial {
			err = fmt.Errorf("tid %s", tid)
		}
		return pastState, err
	},
	"history": func(t *testing.T, e *Engine, serial, _ zodb.Tid) (string, error) {
		entries, err := e.History(t.Context(), 1, 1)
		if err == nil && entries[0].Tid != serial {
			err = fmt.Errorf("tid %s", entries[0].Tid)
		}
		return pastState, err
	},
	"record_iternext": func(t *testing.T, e *Engine, _, _ zodb.Tid) (string, error) {
		o, _, err := e.NextObject(t.Context(), 1)
		return string(o.Data), err
	},
	"iteration": func(t *testing.T, e *Engine, serial, _ zodb.Tid) (string, error) {
		it := e.Iterate(serial, zodb.MaxTid)
		if _, err := it.Next(t.Context()); err != nil {
			return "", err
		}
		rec, err := it.Records().Next(t.Context())
		if err != nil {
			return "", err
		}
		if _, err := it.Next(t.Context()); err != io.EOF {
			return "", fmt.Errorf("behind the end of the past there is more, or %w", err)
		}
		return string(rec.Data), nil
	},
	"invalidations": func(t *testing.T, e *Engine, serial, _ zodb.Tid) (string, error) {
		last, oids, ok := e.Invalidations(t.Context(), serial-1)
		if !ok || last != serial || len(oids) != 1 {
			return "", fmt.Errorf("last %s, oids %v, %v", last, oids, ok)
		}
		return pastState, nil
	},
	"blob": func(t *testing.T, e *Engine, _, blobSerial zodb.Tid) (string, error) {
		content, err := loadBlob(t, e, 2, blobSerial)
		if err == nil && content != "content" {
			err = fmt.Errorf("content %q", content)
		}
		return pastState, err
	},
}

var pastState = record(large + "then")

func TestThePastStaysWhatItWasWhileAServerMergesAndPacks(t *testing.T) {
	for name, read := range readers {
		for _, flushed := range []bool{false, true} {
			for _, now := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, flushed %v, now %v", name, flushed, now), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := bucket.NewMemory()
						e := openEngine(t, b, func(o *Options) { o.MaxInline = 100 })
						t1 := commit(t, e, stored{0, 0, record("root", 1, 2)}, stored{1, 0, record("first")})
						blobSerial := storeBlob(t, e, 2, 0, record("blob"), "content")
						serial := commit(t, e, stored{1, t1, pastState})
						at := Moment{}
						if !now {
							at.Tid = serial
						}
						if flushed {
							if err := e.Flush(t.Context()); err != nil {
								t.Fatal(err)
							}
						}
						if !now {
							commit(t, e, stored{3, 0, record("later")})
						}
						past := openPast(t, b, at)
						objects := past.Info().Objects

						// The server's files become others, and those before are deleted.
						commit(t, e, stored{0, t1, record("root", 1, 2, 3)}, stored{1, serial, record("later")}, stored{4, 0, record("later")})
						if err := e.Pack(t.Context(), serial); err != nil {
							t.Fatal(err)
						}
						forget(t, e)
						if got, err := read(t, past, serial, blobSerial); err != nil || got != pastState {
							t.Errorf("%q, %v", got, err)
						}
						if got := past.Info().Objects; got != objects || past.LastTransaction() != serial {
							t.Errorf("%d objects, instead of %d; last %s", got, objects, past.LastTransaction())
						}
						if err := e.Pack(t.Context(), zodb.MaxTid); err != nil {
							t.Fatal(err)
						}
						forget(t, e)
						if _, err := openPast(t, b, Moment{}).LoadSerial(t.Context(), 1, serial); !isKeyError(err) {
							t.Errorf("it was not packed: %v", err)
						}
					})
				})
			}
		}
	}
}

func TestThePastSaysWhyItIsGone(t *testing.T) {
	for _, test := range []struct {
		want string
		do   func(t *testing.T, e *Engine, before zodb.Tid) error
	}{
		{"packed", func(t *testing.T, e *Engine, _ zodb.Tid) error { return e.Pack(t.Context(), zodb.MaxTid) }},
		{"taken back", func(t *testing.T, e *Engine, before zodb.Tid) error {
			snapshot, err := e.Restore(t.Context(), Moment{Tid: before})
			if err != nil {
				return err
			}
			return errors.Join(e.DeleteSnapshot(t.Context(), snapshot), e.Pack(t.Context(), before))
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := bucket.NewMemory()
			e := openEngine(t, b)
			t0 := commit(t, e, stored{0, 0, record("root", 1)}, stored{1, 0, record("zero")})
			t1 := commit(t, e, stored{1, t0, record("one")})
			t2 := commit(t, e, stored{1, t1, record("two")})
			if err := e.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			past := openPast(t, b, Moment{Tid: t2})
			commit(t, e, stored{1, t2, record("three")})
			if err := test.do(t, e, t1); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			forget(t, e)
			if _, _, err := past.LoadBefore(t.Context(), 1, zodb.MaxTid); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "snapshot") {
				t.Errorf("%s: %v", test.want, err)
			}
		})
	}
}

func TestWhatIsDamagedInThePastIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the retries wait
		b := bucket.NewMemory()
		e := openEngine(t, b)
		commit(t, e, stored{0, 0, record("root")})
		closeEngine(t, e)
		past := openPast(t, b, Moment{})
		for _, name := range listed(t, b, "segment/") {
			if err := b.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if _, _, err := past.LoadBefore(t.Context(), 0, zodb.MaxTid); !errors.Is(err, zodb.ErrCorrupt) || !strings.Contains(err.Error(), name) {
				t.Error(err)
			}
		}
	})
}
