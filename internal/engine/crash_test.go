package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A mortal is a bucket as a process sees it that dies: it lets some writes
// through, and fails everything from the next one on.
type mortal struct {
	bucket.Bucket
	died chan struct{} // closed at death
	mu   struct {
		sync.Mutex
		left    int // writes
		written int
	}
}

var errDead = errors.New("the process has died")

func newMortal(b bucket.Bucket, writes int) *mortal {
	m := &mortal{Bucket: b, died: make(chan struct{})}
	m.mu.left = writes
	return m
}

// alive fails after death.
func (m *mortal) alive() error {
	select {
	case <-m.died:
		return errDead
	default:
		return nil
	}
}

// write does a write, or dies.
func (m *mortal) write(do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.alive(); err != nil {
		return err
	}
	if m.mu.left == 0 {
		m.killLocked()
		return errDead
	}
	m.mu.left--
	m.mu.written++
	return do()
}

func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.killLocked()
}

func (m *mortal) killLocked() {
	if m.alive() == nil {
		close(m.died)
	}
}

func (m *mortal) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return m.write(func() error { return m.Bucket.PutIfAbsent(ctx, name, data) })
}

func (m *mortal) Put(ctx context.Context, name string, data []byte) error {
	return m.write(func() error { return m.Bucket.Put(ctx, name, data) })
}

// PutStream counts as written when its bytes have come.
func (m *mortal) PutStream(ctx context.Context, name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return m.write(func() error { return m.Bucket.Put(ctx, name, data) })
}

func (m *mortal) Delete(ctx context.Context, name string) error {
	return m.write(func() error { return m.Bucket.Delete(ctx, name) })
}

func (m *mortal) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	if err := m.alive(); err != nil {
		return nil, err
	}
	return m.Bucket.Get(ctx, name, limit)
}

func (m *mortal) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	if err := m.alive(); err != nil {
		return nil, err
	}
	return m.Bucket.GetRange(ctx, name, offset, n)
}

func (m *mortal) List(ctx context.Context, prefix, after string, fn func(bucket.Info) error) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Bucket.List(ctx, prefix, after, fn)
}

// A life is an engine on a mortal bucket.
type life struct {
	*Engine
	b   *mortal
	ctx context.Context // ends at death
	end sync.WaitGroup  // of who waits for it
}

// live opens the database for a process that dies after so many writes.
func live(b bucket.Bucket, writes int, change ...func(*Options)) (*life, error) {
	l := &life{b: newMortal(b, writes)}
	ctx, cancel := context.WithCancel(context.Background())
	l.ctx = ctx
	l.end.Go(func() {
		<-l.b.died
		cancel()
	})
	now := time.Now()
	var err error
	opts := Options{
		Node: "node", Creator: "test", Logger: slog.New(slog.DiscardHandler),
		MaxInline: 500,
		Now:       func() time.Time { return now }, // tids are always the same
	}
	for _, c := range change {
		c(&opts)
	}
	l.Engine, err = Open(ctx, l.b, opts)
	if err != nil {
		return nil, err
	}
	l.end.Go(func() {
		<-ctx.Done()
		l.endWrites(errDead) // or a pack would wait
	})
	return l, nil
}

// die ends the life, if the bucket has not died before.
func (l *life) die() {
	l.b.kill()
	l.end.Wait()
	_ = l.Close(l.ctx) // what is under way is lost
}

// txn commits what change does.
func (l *life) txn(change func(zodb.Transaction) error) error {
	t, err := l.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, nil)
	if err != nil {
		return err
	}
	if err := change(t); err != nil {
		return err
	}
	ballot, err := t.Vote(l.ctx)
	if err != nil {
		t.Abort()
		return err
	}
	if len(ballot.Conflicts) > 0 {
		t.Abort()
		return fmt.Errorf("conflicts: %v", ballot.Conflicts)
	}
	done := make(chan error, 1)
	t.Finish(func(_ *zodb.Commit, err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-l.b.died: // the log tries on and on
		return errDead
	}
}

// store stores new states of objects over the current ones.
func (l *life) store(t zodb.Transaction, states map[zodb.Oid]string) error {
	for _, oid := range slices.Sorted(maps.Keys(states)) {
		if err := t.Store(oid, l.serial(oid), []byte(states[oid])); err != nil {
			return err
		}
	}
	return nil
}

func (l *life) commit(states map[zodb.Oid]string) error {
	return l.txn(func(t zodb.Transaction) error { return l.store(t, states) })
}

// serial is that of an object now, NoTid if there is none.
func (l *life) serial(oid zodb.Oid) zodb.Tid {
	tid, _ := l.GetTid(l.ctx, oid)
	return tid
}

func (l *life) storeBlob(t zodb.Transaction, oid zodb.Oid, content string) error {
	b, err := l.NewBlob(l.ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(b, content); err != nil {
		b.Abort()
		return err
	}
	return t.StoreBlob(oid, l.serial(oid), []byte(record("blob of "+content[:5])), b)
}

func (l *life) commitBlob(oid zodb.Oid, content string) error {
	return l.txn(func(t zodb.Transaction) error { return l.storeBlob(t, oid, content) })
}

// undo takes back what was committed so many transactions ago.
func (l *life) undo(ago int) error {
	log, err := l.UndoLog(l.ctx, ago, 1, nil)
	if err != nil {
		return err
	}
	if len(log) == 0 {
		return errors.New("nothing to undo")
	}
	return l.txn(func(t zodb.Transaction) error { return t.Undo(log[0].Tid) })
}

// What a life does, step by step. Object 0 is the root.
var (
	large = strings.Repeat("large", 50) // two of it go into a payload object

	lifeSteps = []struct {
		name string
		do   func(l *life) error
	}{
		{"objects", func(l *life) error {
			return l.commit(map[zodb.Oid]string{0: record("root", 1, 2, 3, 4), 1: record("a"), 2: record("b")})
		}},
		{"a blob", func(l *life) error { return l.commitBlob(3, "first content") }},
		{"a payload object", func(l *life) error {
			return l.commit(map[zodb.Oid]string{1: record(large, 2), 4: record(large), 5: record(large)})
		}},
		{"another blob", func(l *life) error { return l.commitBlob(3, "second content") }},
		{"undo of a blob", func(l *life) error { return l.undo(0) }},
		{"an aborted transaction", func(l *life) error {
			t, err := l.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, nil)
			if err != nil {
				return err
			}
			defer t.Abort()
			if err := l.storeBlob(t, 3, "aborted content"); err != nil {
				return err
			}
			if err := l.store(t, map[zodb.Oid]string{1: record(large), 2: record(large), 4: record(large)}); err != nil {
				return err
			}
			_, err = t.Vote(l.ctx)
			return err
		}},
		{"deletion", func(l *life) error {
			return l.txn(func(t zodb.Transaction) error { return t.Delete(4, l.serial(4)) })
		}},
		{"undo of deletion", func(l *life) error { return l.undo(0) }},
		{"garbage", func(l *life) error { return l.commit(map[zodb.Oid]string{0: record("root", 1, 3)}) }},
		{"pack", func(l *life) error { return l.Pack(l.ctx, zodb.MaxTid) }},
		{"sweep", func(l *life) error { return l.sweep(l.ctx) }},
		{"flush", func(l *life) error { return l.Flush(l.ctx) }},
		{"creation", func(l *life) error {
			return l.commit(map[zodb.Oid]string{0: record("root", 1, 3, 6), 6: record("new")})
		}},
		{"undo of creation", func(l *life) error { return l.undo(0) }},
		{"undo of undo", func(l *life) error { return l.undo(0) }},
		{"a third blob", func(l *life) error { return l.commitBlob(3, "third content") }},
		{"pack to before", func(l *life) error {
			log, err := l.UndoLog(l.ctx, 1, 1, nil)
			if err != nil {
				return err
			}
			return l.Pack(l.ctx, log[0].Tid)
		}},
		{"pack again", func(l *life) error { return l.Pack(l.ctx, zodb.MaxTid) }},
		{"oids", func(l *life) error { _, err := l.NewOids(l.ctx, 2000); return err }},
		{"the end", func(l *life) error { return l.commit(map[zodb.Oid]string{1: record("last", 3)}) }},
	}
)

// run does the steps and returns how many were done before death.
func (l *life) run(t *testing.T, after func(step int)) int {
	t.Helper()
	for i, s := range lifeSteps {
		if err := s.do(l); err != nil {
			if l.b.alive() == nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			return i
		}
		synctest.Wait() // for what goes on in the background
		if l.b.alive() != nil {
			return i + 1
		}
		after(i + 1)
	}
	return len(lifeSteps)
}

// view describes all that can be seen of a database.
func view(t *testing.T, e *Engine) string {
	t.Helper()
	var out strings.Builder
	for it := e.Iterate(0, zodb.MaxTid); ; {
		info, err := it.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %c\n", info.Tid, info.Meta.Status)
		for records := it.Records(); ; {
			rec, err := records.Next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := loadBlob(t, e, rec.Oid, rec.Tid)
			if err != nil && !isKeyError(err) {
				t.Errorf("the blob of %s at %s: %v", rec.Oid, rec.Tid, err)
			}
			fmt.Fprintf(&out, "  %s %q %s %q\n", rec.Oid, rec.Data, rec.DataTxn, content)
		}
	}
	for oid := range zodb.Oid(8) {
		rev, ok, err := e.LoadBefore(t.Context(), oid, zodb.MaxTid)
		if err != nil && !isKeyError(err) {
			t.Error(err)
		}
		fmt.Fprintf(&out, "%s %v %s %q\n", oid, ok, rev.Serial, rev.Data)
	}
	return out.String()
}

// checkClean complains of objects in the bucket that nothing needs, or that are
// missing.
func checkClean(t *testing.T, e *Engine) {
	t.Helper()
	synctest.Wait() // for what is deleted in the background
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	keep, err := e.keep(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	needed := slices.Sorted(maps.Keys(keep))
	there := slices.DeleteFunc(listed(t, e.bucket, ""), func(name string) bool {
		return strings.HasPrefix(name, txlog.Prefix) || strings.HasPrefix(name, txlog.CheckpointPrefix) || strings.HasPrefix(name, bucket.ProbePrefix) || name == txlog.FormatName || name == txlog.HeadName
	})
	if !slices.Equal(there, needed) {
		t.Errorf("in the bucket: %v\nneeded: %v", there, needed)
	}
}

func TestACrashAtAnyWriteLosesNothingAndLeavesNothingHalfDone(t *testing.T) {
	const immortal = 1 << 30
	var views []string // after so many steps
	writes := 0
	synctest.Test(t, func(t *testing.T) {
		l, err := live(bucket.NewMemory(), immortal)
		if err != nil {
			t.Fatal(err)
		}
		views = append(views, view(t, l.Engine))
		if done := l.run(t, func(int) { views = append(views, view(t, l.Engine)) }); done != len(lifeSteps) {
			t.Fatalf("only %d steps were done", done)
		}
		writes = l.b.mu.written
		checkClean(t, l.Engine)
		l.die()
	})
	t.Logf("%d writes", writes)

	for n := range writes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := bucket.NewMemory()
				done := 0
				if l, err := live(b, n); err == nil {
					done = l.run(t, func(int) {})
					l.die()
				}
				// The next one may die as well, while it takes the lead or at its
				// first steps of its own.
				if l, err := live(b, n%4); err == nil {
					_ = l.sweep(l.ctx)
					l.die()
				}
				l, err := live(b, immortal)
				if err != nil {
					t.Fatal(err)
				}
				wantNoDamage(t, b)
				got := view(t, l.Engine)
				if want := views[done : min(done+1, len(lifeSteps))+1]; !slices.Contains(want, got) {
					t.Errorf("%d steps were done, then %q began; there is\n%s\ninstead of\n%s",
						done, lifeSteps[min(done, len(lifeSteps)-1)].name, got, strings.Join(want, "or\n"))
				}
				checkClean(t, l.Engine)
				wantNoDamage(t, b)

				// And it goes on.
				if err := l.commit(map[zodb.Oid]string{0: record("root", 1, 3, 7)}); err != nil {
					t.Fatal(err)
				}
				if err := l.commitBlob(7, "last content"); err != nil {
					t.Fatal(err)
				}
				if err := l.Pack(t.Context(), zodb.MaxTid); err != nil {
					t.Fatal(err)
				}
				checkClean(t, l.Engine)
				got = view(t, l.Engine)
				l.die()
				if l, err = live(b, immortal); err != nil {
					t.Fatal(err)
				}
				if again := view(t, l.Engine); again != got {
					t.Errorf("after another start there is\n%s\ninstead of\n%s", again, got)
				}
				l.die()
			})
		})
	}
}
