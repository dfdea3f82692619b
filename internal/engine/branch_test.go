package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"s3storage/internal/bucket"
	"s3storage/internal/check"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A sibling is another bucket as the process sees it that dies. Probes of it do not
// count.
type sibling struct {
	bucket.Bucket
	m *mortal

	last int // if not negative, how many writes there are after the first checkpoint
}

func (s *sibling) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if strings.HasPrefix(name, bucket.ProbePrefix) {
		return s.Bucket.PutIfAbsent(ctx, name, data)
	}
	return s.m.write(func() error {
		if s.last >= 0 && name == txlog.CheckpointName(1) {
			s.m.mu.left = s.last
		}
		return s.Bucket.PutIfAbsent(ctx, name, data)
	})
}

func (s *sibling) Put(ctx context.Context, name string, data []byte) error {
	return s.m.write(func() error { return s.Bucket.Put(ctx, name, data) })
}

func (s *sibling) Delete(ctx context.Context, name string) error {
	if strings.HasPrefix(name, bucket.ProbePrefix) {
		return s.Bucket.Delete(ctx, name)
	}
	return s.m.write(func() error { return s.Bucket.Delete(ctx, name) })
}

// snapshots returns the names of the snapshots of a database.
func snapshots(e *Engine) (names []string) {
	for _, s := range e.Survey().Base.Snapshots {
		names = append(names, s.Name)
	}
	return names
}

func TestABranchThatCannotBeMadeLeavesNothingBehind(t *testing.T) {
	parent := openEngine(t, bucket.NewMemory())
	t1 := commit(t, parent, stored{0, 0, record("root")})
	t2 := commit(t, parent, stored{0, t1, record("root again")})
	if err := parent.Pack(t.Context(), t2); err != nil {
		t.Fatal(err)
	}
	full := bucket.NewMemory()
	if err := full.Put(t.Context(), "holiday.jpg", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what string
		to   bucket.Bucket
		at   Moment
		want string
	}{
		{"into a bucket that is not empty", full, Now, "holiday.jpg"},
		{"of what was packed", bucket.NewMemory(), Moment{Tid: t1}, "packed"},
		{"of a snapshot that is not there", bucket.NewMemory(), Moment{Snapshot: "none"}, "none"},
	} {
		before := listed(t, test.to, "")
		if _, err := parent.Branch(t.Context(), test.at, test.to, "parent"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.what, err)
		}
		if got := snapshots(parent); len(got) > 0 {
			t.Errorf("%s: there are snapshots: %v", test.what, got)
		}
		left := slices.DeleteFunc(listed(t, test.to, ""), func(name string) bool { return strings.HasPrefix(name, bucket.ProbePrefix) })
		if !slices.Equal(left, before) {
			t.Errorf("%s: there is %v", test.what, left)
		}
	}
}

// A hasty bucket gets another database just before a branch is one.
type hasty struct{ bucket.Bucket }

func (h *hasty) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if name == txlog.FormatName {
		other := bucket.NewMemory()
		if _, err := txlog.Create(ctx, other, txlog.Format{Creator: "somebody else"}); err != nil {
			return err
		}
		theirs, err := other.Get(ctx, name, 1<<20)
		if err != nil {
			return err
		}
		if err := h.Bucket.PutIfAbsent(ctx, name, theirs); err != nil {
			return err
		}
	}
	return h.Bucket.PutIfAbsent(ctx, name, data)
}

func TestABranchThatComesTooLateLeavesNoSnapshot(t *testing.T) {
	parent := openEngine(t, bucket.NewMemory())
	commit(t, parent, stored{0, 0, record("root")})
	if _, err := parent.Branch(t.Context(), Now, &hasty{bucket.NewMemory()}, "parent"); !errors.Is(err, txlog.ErrTaken) {
		t.Error(err)
	}
	if got := snapshots(parent); len(got) > 0 {
		t.Error(got)
	}
}

// An unready bucket takes no format.
type unready struct{ bucket.Bucket }

func (u *unready) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if name == txlog.FormatName {
		return bucket.ErrDenied
	}
	return u.Bucket.PutIfAbsent(ctx, name, data)
}

func TestABranchThatWasBrokenOffGoesOnAsWhatItWasBegun(t *testing.T) {
	buckets := map[string]*bucket.Memory{"parent": bucket.NewMemory(), "child": bucket.NewMemory()}
	open := func(o *Options) {
		o.OpenBucket = func(_ context.Context, location string) (bucket.Bucket, error) { return buckets[location], nil }
	}
	parent := openEngine(t, buckets["parent"])
	t1 := commit(t, parent, stored{0, 0, record("root")})
	_, err := parent.Branch(t.Context(), Now, &unready{buckets["child"]}, "parent")
	made := snapshots(parent)
	if !errors.Is(err, bucket.ErrDenied) || len(made) != 1 || !strings.Contains(err.Error(), made[0]) {
		t.Fatalf("%v, snapshots %v", err, made)
	}
	commit(t, parent, stored{0, t1, record("root again")})
	if _, err := parent.Branch(t.Context(), Now, buckets["child"], "parent"); err == nil ||
		!strings.Contains(err.Error(), t1.String()) || !strings.Contains(err.Error(), made[0]) {
		t.Errorf("of another state: %v", err)
	}
	other := openEngine(t, bucket.NewMemory())
	commit(t, other, stored{0, 0, record("root")})
	if _, err := other.Branch(t.Context(), Now, buckets["child"], "other"); err == nil || len(snapshots(other)) > 0 {
		t.Errorf("of another database: %v, snapshots %v", err, snapshots(other))
	}
	snapshot, err := parent.Branch(t.Context(), Moment{Tid: t1}, buckets["child"], "parent")
	if err != nil || snapshot != made[0] || !slices.Equal(snapshots(parent), made) {
		t.Fatalf("%s, %v, snapshots %v", snapshot, err, snapshots(parent))
	}
	if got := load(t, openEngine(t, buckets["child"], open), 0); got.Serial != t1 || string(got.Data) != record("root") {
		t.Errorf("%s %q", got.Serial, got.Data)
	}
}

// A snapshot, a restore and a branch that are interrupted at any write are there or
// not, both databases are sound, and the branch can be made again.
func TestACrashInASnapshotARestoreOrABranchLeavesNothingHalfDone(t *testing.T) {
	var tids []zodb.Tid
	steps := func(l *life, to bucket.Bucket) (done int, err error) {
		tids = nil
		for i := range 3 {
			if err := l.commit(map[zodb.Oid]string{0: record("root", 1, 2), 1: record(fmt.Sprint("state ", i))}); err != nil {
				return done, err
			}
			tids = append(tids, l.LastTransaction())
			if i == 0 {
				if err := l.commitBlob(2, "content"); err != nil {
					return done, err
				}
			}
			done++
		}
		if err := l.Snapshot(l.ctx, "s"); err != nil {
			return done, err
		}
		done++
		if _, err := l.Restore(l.ctx, Moment{Tid: tids[1]}); err != nil {
			return done, err
		}
		done++
		if _, err := l.Branch(l.ctx, Now, to, "parent"); err != nil {
			return done, err
		}
		return done + 1, nil
	}
	ofBranches := func(e *Engine) []string {
		return slices.DeleteFunc(snapshots(e), func(name string) bool { return !strings.HasPrefix(name, ForBranch) })
	}
	const immortal = 1 << 30
	// crash has a process die after n writes, or that many after it has begun a branch.
	crash := func(n, last int) (done, written int) {
		synctest.Test(t, func(t *testing.T) {
			b, to := bucket.NewMemory(), bucket.NewMemory()
			if l, err := live(b, n); err == nil {
				done, err = steps(l, &sibling{to, l.b, last})
				if err != nil && l.b.alive() == nil {
					t.Fatalf("step %d: %v", done, err)
				}
				l.die()
				written = l.b.mu.written
			}
			l, err := live(b, immortal)
			if err != nil {
				t.Fatalf("after %d writes: %v", written, err)
			}
			defer l.die()
			if done > 0 {
				got := load(t, l.Engine, 1)
				want := map[int][]string{1: {"state 0", "state 1"}, 2: {"state 1", "state 2"}, 3: {"state 2"},
					4: {"state 2", "state 1"}, 5: {"state 1"}, 6: {"state 1"}}[done]
				if !slices.ContainsFunc(want, func(w string) bool { return string(got.Data) == record(w) }) {
					t.Errorf("after %d writes and %d steps: %q", written, done, got.Data)
				}
				// The branch is there, or it is made now.
				_, err := l.Branch(l.ctx, Now, to, "parent")
				if there := done == 6; there != errors.Is(err, txlog.ErrTaken) || !there && err != nil {
					t.Fatalf("a branch after %d writes and %d steps: %v", written, done, err)
				}
				if made := ofBranches(l.Engine); len(made) != 1 {
					t.Errorf("after %d writes: the snapshots for branches are %v", written, made)
				}
				checkBranch(t, l, b, to, string(got.Data))
			}
			checkClean(t, l.Engine)
			if err := l.commit(map[zodb.Oid]string{1: record("last")}); err != nil {
				t.Errorf("after %d writes: %v", written, err)
			}
			wantNoDamage(t, b)
		})
		return done, written
	}
	_, writes := crash(immortal, -1)
	for n := range writes {
		crash(n, -1)
	}
	begun := 0
	for done := 0; done < 6 && !t.Failed(); begun++ {
		done, _ = crash(immortal, begun)
	}
	if writes < 30 || begun < 4 {
		t.Errorf("only %d writes, and %d after a branch was begun", writes, begun)
	}
}

// checkBranch checks a branch in full, then again when its parent has forgotten what
// only the branch needs. want is what object 1 is in it.
func checkBranch(t *testing.T, parent *life, b, to bucket.Bucket, want string) {
	t.Helper()
	open := func(context.Context, string) (bucket.Bucket, error) { return b, nil }
	sound := func() {
		t.Helper()
		r, err := check.Run(t.Context(), to, check.Options{Full: true, Open: open})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Damage.List {
			t.Errorf("damage of the branch: %s", f)
		}
		if len(r.Strays) > 0 {
			t.Errorf("nothing needs %v of the branch", r.Strays)
		}
	}
	sound()
	if err := parent.commit(map[zodb.Oid]string{0: record("root", 1), 1: record("parent's")}); err != nil {
		t.Fatal(err)
	}
	if err := parent.Pack(t.Context(), zodb.MaxTid); err != nil {
		t.Fatal(err)
	}
	checkClean(t, parent.Engine)
	child, err := live(to, 1<<30, func(o *Options) { o.OpenBucket = open })
	if err != nil {
		t.Fatal(err)
	}
	defer child.die()
	if got := load(t, child.Engine, 1); string(got.Data) != want {
		t.Errorf("the branch has %q instead of %q", got.Data, want)
	}
	if serial := child.serial(2); serial != zodb.NoTid {
		if content, err := loadBlob(t, child.Engine, 2, serial); err != nil || content != "content" {
			t.Errorf("the branch's blob is %q, %v", content, err)
		}
	}
	if err := child.commit(map[zodb.Oid]string{1: record("child's")}); err != nil {
		t.Error(err)
	}
	synctest.Wait() // for what is deleted in the background
	if err := child.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	sound()
}
