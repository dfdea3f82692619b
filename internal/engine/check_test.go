package engine

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/check"
	"s3storage/internal/index"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

func fullCheck(t *testing.T, b bucket.Bucket) *check.Report {
	t.Helper()
	r, err := check.Run(t.Context(), b, check.Options{Full: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantNoDamage(t *testing.T, b bucket.Bucket) {
	t.Helper()
	for _, f := range fullCheck(t, b).Damage.List {
		t.Errorf("damage: %s", f)
	}
}

// lived returns a bucket with one object of each kind at least.
func lived(t *testing.T) *bucket.Memory {
	t.Helper()
	b := bucket.NewMemory()
	l, err := live(b, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	l.run(t, func(int) {})
	if err := l.commitTail(); err != nil {
		t.Fatal(err)
	}
	l.die()
	return b
}

// commitTail commits a payload object and a blob that stay in the tail.
func (l *life) commitTail() error {
	if err := l.commitBlob(3, "a blob in the tail"); err != nil {
		return err
	}
	return l.commit(map[zodb.Oid]string{1: record(large, 3), 6: record(large)})
}

// reports tells whether one of the findings names the object.
func reports(f check.Findings, object string) bool {
	for _, one := range f.List {
		if strings.Contains(one.String(), object) {
			return true
		}
	}
	return false
}

func TestCheckFindsEveryDamagedByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the retries wait
		b := lived(t)
		if r := fullCheck(t, b); r.Damage.Count+r.Warnings.Count > 0 || r.Records == 0 {
			t.Fatalf("of a sound bucket: %+v", r)
		}
		for _, prefix := range []string{txlog.Prefix, txlog.PayloadPrefix, txlog.CheckpointPrefix, blob.Prefix, base.Prefix, segment.Prefix, index.Prefix} {
			if len(listed(t, b, prefix)) == 0 {
				t.Errorf("the bucket has no %s", prefix)
			}
		}
		for _, name := range listed(t, b, "") {
			whole, err := b.Get(t.Context(), name, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			missed := 0
			for i := range whole {
				damaged := bytes.Clone(whole)
				damaged[i] ^= 1 << (i % 8)
				if err := b.Put(t.Context(), name, damaged); err != nil {
					t.Fatal(err)
				}
				r := fullCheck(t, b)
				found := r.Damage
				if name == txlog.HeadName {
					found = r.Warnings // it is a hint
				}
				if !reports(found, name) {
					missed++
					t.Errorf("%s: a flipped bit of byte %d was not found: %+v", name, i, r)
				}
				if missed > 2 {
					break
				}
			}
			if err := b.Put(t.Context(), name, whole); err != nil {
				t.Fatal(err)
			}
		}
		wantNoDamage(t, b)
	})
}

func TestCheckFindsEveryObjectThatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lived(t)
		f, err := txlog.ReadFormat(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		// Of the log, those from the base's position on have to be there.
		inLog := make(map[string]bool)
		last := ""
		_, err = txlog.Walk(t.Context(), b, f, func(*txlog.Checkpoint) error { return nil }, func(o *txlog.Object, _ txlog.Position) error {
			last = o.Name()
			inLog[last] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		delete(inLog, last) // without it the log ends earlier
		needed := 0
		for _, name := range listed(t, b, "") {
			whole, err := b.Get(t.Context(), name, 1<<20)
			if err == nil {
				err = b.Delete(t.Context(), name)
			}
			if err != nil {
				t.Fatal(err)
			}
			r := fullCheck(t, b)
			switch {
			case name == txlog.HeadName:
				if !reports(r.Warnings, name) {
					t.Errorf("%s is missing: %+v", name, r)
				}
			case strings.HasPrefix(name, txlog.Prefix) && !inLog[name]:
			case strings.HasPrefix(name, base.Prefix) && r.Damage.Count == 0:
				// one that a newer one has replaced
			case !reports(r.Damage, name):
				t.Errorf("%s is missing: %+v", name, r)
			default:
				needed++
			}
			if err := b.Put(t.Context(), name, whole); err != nil {
				t.Fatal(err)
			}
		}
		if needed < 10 {
			t.Errorf("only %d objects were needed", needed)
		}
	})
}

func TestCheckComparesTheBytesOfBlobsWithTheirNumberInTheBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lived(t)
		e := openEngine(t, b)
		let, err := e.hold(t.Context())
		if err == nil {
			err = e.flushHeld(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		wrong := e.successor()
		wrong.BlobBytes++
		_, err = e.adopt(t.Context(), wrong, txlog.BaseMerge, nil, nil)
		let()
		if err != nil {
			t.Fatal(err)
		}
		closeEngine(t, e)
		if r := fullCheck(t, b); !reports(r.Warnings, base.Name(wrong.ID)) || r.Damage.Count > 0 {
			t.Errorf("%+v", r)
		}
	})
}
