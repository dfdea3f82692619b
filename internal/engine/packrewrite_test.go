package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/check"
	"s3storage/internal/segment"
	"s3storage/internal/zodb"
)

// filesOf returns the names of what rewrites of the present base became.
func filesOf(e *Engine) (all []string) {
	for _, s := range e.state.view.Rewritten() {
		all = append(all, s.ID.Name())
	}
	return all
}

// wantGone complains of files that are still there.
func wantGone(t *testing.T, b bucket.Bucket, files []string) {
	t.Helper()
	if len(files) == 0 {
		t.Error("there are no files that could be gone")
	}
	there := listed(t, b, segment.Prefix)
	for _, name := range files {
		if slices.Contains(there, name) {
			t.Errorf("%s is still there", name)
		}
	}
}

// rewriteOne does what a pack does with one segment, of which it drops something.
func rewriteOne(t *testing.T, e *Engine, p *packPlan, i int, gone ...segment.Key) (file string) {
	t.Helper()
	r := &rewriting{v: p.v, first: i, end: i + 1, size: 1, gone: gone}
	r.what = r.hash()
	var err error
	r.result, err = e.writeSegment(t.Context(), 1, 0, func(w *segment.Writer) error { return r.fill(t.Context(), w) })
	if err != nil {
		t.Fatal(err)
	}
	file = r.result.ID.Name()
	defer e.uploads.remove(file)
	part := &packPart{finished: make(chan *rewriting, 1)}
	part.finished <- r
	if err := e.adoptPart(t.Context(), e.reign(), p, part); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAMergeLetsGoOfWhatAnEndedPackHasMadeOfItsFiles(t *testing.T) {
	const large = 500
	from, _, whole := scattered(t, func(pair int) int {
		if pair == 0 {
			return large
		}
		return 1
	})
	synctest.Test(t, func(t *testing.T) {
		b := copyOf(t, from)
		e := openEngine(t, b)
		p := planOf(t, e, whole)
		of := func(i int, k uint32) string {
			return rewriteOne(t, e, p, i, segment.Key{Tid: p.v.Segments[i].First, K: k})
		}
		kept, gone := of(2, large), of(4, 1) // those before are the root and the blob
		if err := e.merge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if files := filesOf(e); !slices.Equal(files, []string{kept}) || len(e.state.view.Segments) >= len(p.v.Segments) {
			t.Fatalf("%v are listed, not %s; there are %d segments, %d before", files, kept, len(e.state.view.Segments), len(p.v.Segments))
		}
		checkClean(t, e)
		wantNoDamage(t, b)
		wantGone(t, b, []string{gone})
		if err := e.Pack(t.Context(), whole); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(e.state.view.Segments, func(s base.Segment) bool { return s.ID.Name() == kept }) {
			t.Errorf("%s was not used", kept)
		}
		checkClean(t, e)
		wantNoDamage(t, b)
	})
}

// A snapshot keeps the base, but not what a pack had written by then; so a restore
// must not bring it back.
func TestARestoreLetsGoOfWhatAnEndedPackHasWritten(t *testing.T) {
	from, _, whole := scattered(t, few)
	synctest.Test(t, func(t *testing.T) {
		b := copyOf(t, from)
		e := openEngine(t, b, inParts)
		packPartly(t, e, b, whole, 3)
		if err := e.Snapshot(t.Context(), "between"); err != nil {
			t.Fatal(err)
		}
		files := filesOf(e)
		if _, err := e.Restore(t.Context(), Moment{Snapshot: "between"}); err != nil {
			t.Fatal(err)
		}
		if n := len(e.state.view.Rewrites); n > 0 {
			t.Errorf("%d rewrites came back", n)
		}
		checkClean(t, e)
		wantNoDamage(t, b)
		wantGone(t, b, files)
		if err := e.Pack(t.Context(), whole); err != nil {
			t.Fatal(err)
		}
		wantNoDamage(t, b)
	})
}

func TestABranchHasNoPartInAPackOfItsParentThatWasEnded(t *testing.T) {
	from, _, whole := scattered(t, few)
	synctest.Test(t, func(t *testing.T) {
		b := copyOf(t, from)
		e := openEngine(t, b, inParts)
		packPartly(t, e, b, whole, 3)
		find := func(o *Options) {
			o.OpenBucket = func(context.Context, string) (bucket.Bucket, error) { return b, nil }
		}
		to := &watched{Bucket: bucket.NewMemory()}
		if _, err := e.Branch(t.Context(), Now, to, "parent"); err != nil {
			t.Fatal(err)
		}
		branch := openEngine(t, to, find, inParts)
		want := view(t, branch)
		if n := len(branch.state.view.Rewrites); n > 0 {
			t.Errorf("the branch has %d rewrites", n)
		}
		if err := e.Pack(t.Context(), whole); err != nil {
			t.Fatal(err)
		}
		checkClean(t, e)
		if got := view(t, branch); got != want {
			t.Errorf("after a pack of the parent there is\n%s\ninstead of\n%s", got, want)
		}
		// A pack of the branch goes on like any other: its rewrites are of files
		// elsewhere.
		packPartly(t, branch, to, whole, 3)
		to.written()
		if err := branch.Pack(t.Context(), whole); err != nil {
			t.Fatal(err)
		}
		if n := to.written(); n > scatteredPairs+1-3 { // with the root
			t.Errorf("%d segments were written anew", n)
		}
		if got, want := view(t, branch), view(t, e); got != want {
			t.Errorf("after its pack the branch has\n%s\nits parent\n%s", got, want)
		}
	})
}

func TestAPackWithoutPartsToTellMakesNoMorePuts(t *testing.T) {
	from, _, whole := scattered(t, few)
	synctest.Test(t, func(t *testing.T) {
		e := openEngine(t, copyOf(t, from))
		before := e.state.view.Number
		if err := e.Pack(t.Context(), whole); err != nil {
			t.Fatal(err)
		}
		if n := e.state.view.Number - before; n != 1 {
			t.Errorf("%d bases were adopted", n)
		}
	})
}

func TestAPackWritesAnewWhatIsMissingOfOneBefore(t *testing.T) {
	from, _, whole := scattered(t, few)
	for name, spoil := range map[string]func(b bucket.Bucket, file string) error{
		"gone":      func(b bucket.Bucket, file string) error { return b.Delete(t.Context(), file) },
		"cut short": func(b bucket.Bucket, file string) error { return b.Put(t.Context(), file, []byte("short")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := copyOf(t, from)
				e := openEngine(t, b, inParts)
				packPartly(t, e, b, whole, 3)
				file := filesOf(e)[0]
				if err := spoil(b, file); err != nil {
					t.Fatal(err)
				}
				if r := fullCheck(t, b); !reports(r.Damage, file) {
					t.Errorf("the check did not find that %s is %s", file, name)
				}
				if err := e.Pack(t.Context(), whole); err != nil {
					t.Fatal(err)
				}
				checkClean(t, e)
				wantNoDamage(t, b)
			})
		})
	}
}

// While a base lists it, and as long as it is there after that.
func TestCheckReadsWhatAnEndedPackHasWritten(t *testing.T) {
	from, _, whole := scattered(t, few)
	synctest.Test(t, func(t *testing.T) {
		b := copyOf(t, from)
		e := openEngine(t, b, inParts, keep)
		packPartly(t, e, b, whole, 3)
		file := filesOf(e)[0]
		good, err := b.Get(t.Context(), file, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, listed := range []bool{true, false} {
			for _, quick := range []bool{true, false} {
				bad := bytes.Clone(good)
				bad[len(bad)-1] ^= 1 // in the footer
				if !quick {
					bad[len(bad)-1] ^= 1
					bad[len(bad)/3] ^= 1
				}
				if err := b.Put(t.Context(), file, bad); err != nil {
					t.Fatal(err)
				}
				r, err := check.Run(t.Context(), b, check.Options{Full: !quick || !listed})
				if err != nil || !reports(r.Damage, file) {
					t.Errorf("listed %v, quick %v: %+v, %v", listed, quick, r, err)
				}
			}
			if err := b.Put(t.Context(), file, good); err != nil {
				t.Fatal(err)
			}
			wantNoDamage(t, b)
			if _, err := e.Restore(t.Context(), Now); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Of what two packs have made of one segment the newer one stays.
func TestAPackThatMakesSomethingElseReplacesWhatOneBeforeHasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bucket.NewMemory()
		e := openEngine(t, b)
		tid := commit(t, e, stored{0, 0, record("root")}, stored{1, 0, record("one")}, stored{2, 0, record("two")})
		p := planOf(t, e, tid)
		first := rewriteOne(t, e, p, 0, segment.Key{Tid: tid, K: 1})
		second := rewriteOne(t, e, p, 0, segment.Key{Tid: tid, K: 2})
		if files := filesOf(e); !slices.Equal(files, []string{second}) {
			t.Errorf("%v are listed, not %s", files, second)
		}
		checkClean(t, e)
		wantNoDamage(t, b)
		wantGone(t, b, []string{first})
	})
}

// Of three neighbours that all lose something, one was rewritten before.
func TestAPackUsesWhatWasWrittenBeforeIfTheSameIsDropped(t *testing.T) {
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprint(same), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bucket.NewMemory()
				e := openEngine(t, b)
				commit(t, e, stored{0, 0, record("root", 1, 2, 3, 4, 5, 6)})
				var changes []stored
				for oid := zodb.Oid(1); oid < 7; oid += 2 {
					tid := commit(t, e, stored{oid, 0, record("one")}, stored{oid + 1, 0, record("another")})
					changes = append(changes, stored{oid, tid, record("one again")})
					if err := e.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				tid := changes[1].serial
				p := planOf(t, e, commit(t, e, changes...))
				gone := segment.Key{Tid: tid, K: 0}
				if !same {
					gone.K = 1
				}
				before := rewriteOne(t, e, p, 1, gone)
				if err := e.Pack(t.Context(), zodb.MaxTid); err != nil {
					t.Fatal(err)
				}
				if used := slices.Contains(names(e.state.view.Base), before); used != same {
					t.Errorf("it was used: %v", used)
				}
				for oid, want := range map[zodb.Oid]string{3: record("one again"), 4: record("another")} {
					if rev := load(t, e, oid); string(rev.Data) != want {
						t.Errorf("%s is %q", oid, rev.Data)
					}
				}
				checkClean(t, e)
				wantNoDamage(t, b)
			})
		})
	}
}

// Whoever has led meanwhile may have let go of what a pack takes over, and knows nothing
// of what it writes.
func TestAPackTellsTheLogOfNoPartWhenAnotherServerHasLedMeanwhile(t *testing.T) {
	from, _, whole := scattered(t, few)
	synctest.Test(t, func(t *testing.T) {
		b := copyOf(t, from)
		first := openEngine(t, b)
		p, reign := planOf(t, first, whole), first.reign()
		second := openEngine(t, b)
		closeEngine(t, second)
		if err := first.Lead(t.Context()); err != nil {
			t.Fatal(err)
		}
		part := &packPart{ready: []*rewriting{{v: p.v, end: 1}}}
		if err := first.adoptPart(t.Context(), reign, p, part); !errors.Is(err, zodb.ErrNotCommitted) {
			t.Error(err)
		}
		if n := len(first.state.view.Rewrites); n > 0 {
			t.Errorf("there are %d rewrites", n)
		}
	})
}
