// Package engine is a ZODB storage on a bucket: it makes transactions of what
// clients store, has the log commit them, and finds their records again.
//
// # State
//
// What readers see is what the log has settled: an index in memory of all
// revisions, which point to records in log objects and payload objects, and a
// list of all transactions. Both are rebuilt from the log when a node starts.
// Data itself stays in the bucket and is read through a cache.
//
// What writers are judged by is more: also the transactions that are sequenced
// but not settled (design, section 5). Invariants:
//
//   - A transaction that passed its vote holds the locks of its objects until
//     it has its tid and its place in the log; then it is pending until it is
//     settled. So the newest serial of a locked object is the pending one, or
//     else that of the index.
//   - Tids are given out, and transactions appended to the log, under one
//     mutex: their order is the same.
//   - The index changes, and observers are told, under one write lock, a
//     transaction at a time; readers look things up under the read lock. That
//     gives invariant I6.
//
// A conflict with a pending transaction is told to the client only when that
// one is settled: the client will ask for the state that won, and one that
// starts over must be able to see it.
//
// # Blobs
//
// The bytes of a blob go into an object of their own while they arrive. The vote
// waits until it stands, the log names it.
//
// # Pack and deletion
//
// A pack is an entry of the log that lists the revisions it drops. From then on
// they are no part of the database, which takes a while to be seen: it is applied
// in portions, while transactions go on. Loads still find what was dropped until
// the grace period is over, for clients that look at the past. What the log holds stays;
// payload objects and blobs that no revision refers to any more are deleted by a
// sweep. Invariants:
//
//   - A pack is put into the log only if no transaction sequenced before it
//     refers to an object that it drops.
//   - Between the vote of a transaction that shares data with an older revision
//     and its settling, no pack drops that revision: it is pinned.
//   - A sweep deletes only what it saw before an object of the log that this
//     node then wrote. A later leader begins to write only when it has read
//     that object, so it has no part in what is deleted; what this node is
//     writing it knows.
//
// # Losing the lead
//
// When another node has sealed the epoch, transactions that are not settled
// never will be, and fail. From then on the engine is read-only, and follows
// what others write to the log, a second behind. An engine that has nothing to
// write finds out within ten seconds.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Options for Open. Node, Creator and Logger are required.
type Options struct {
	Log     txlog.Config
	Memory  uint64 // bytes of data to keep in memory; 0 stands for 64 MiB
	Node    string // names this node to people
	Creator string // name and version of the program
	Logger  *slog.Logger

	// MaxInline is how many bytes of data a transaction may have to go into
	// a log object whole; larger ones go into payload objects first. Default
	// 4 MiB.
	MaxInline int

	// MaxRecords is how many objects a transaction may change, so that its log
	// object stays far below txlog.MaxObjectSize. Default 2,097,152.
	MaxRecords int

	// PackGrace is for how long what a pack dropped can still be read.
	PackGrace time.Duration

	// NoPackGC has packs keep objects that cannot be reached from the root.
	NoPackGC bool

	// CacheDir is a directory for pieces of blobs, in a directory of its own for
	// each database, of CacheSize bytes at most. Empty for none.
	CacheDir  string
	CacheSize int64

	// Now is the clock that tids come from. Default time.Now.
	Now func() time.Time
}

// An Engine is a zodb.Storage in a bucket.
type Engine struct {
	bucket bucket.Bucket
	format *txlog.Format
	log    *txlog.Log
	cache  *cache.Cache
	disk   *cache.Disk // or nil
	opts   Options

	locks   *lockTable
	oids    oids
	uploads uploads
	packing chan struct{} // held by the pack that is under way
	janitor *janitor
	windows windows

	finishing chan struct{} // held by blobs that wait for the bucket

	state struct { // what is settled
		sync.RWMutex
		index     *index.Memory
		extras    map[txlog.Dropped]extra // what few revisions have
		retired   []*retirement           // what packs dropped lately, the oldest first
		drops     []*drop                 // packs that are being applied
		opened    bool                    // Open has read the log
		objects   []object                // that hold records
		blobs     map[blob.ID]int         // in how many revisions
		lists     []string                // objects that list what packs dropped
		txns      []settledTxn
		packed    zodb.Tid // up to which transactions are packed
		packs     int      // how many packs there were, less those being applied
		freed     bool     // a sweep has something to do
		last      zodb.Tid
		size      int64
		oidMark   zodb.Oid
		observers map[zodb.Observer]struct{}
		changed   chan struct{} // closed at the next change, if anybody waits
	}

	seq struct { // what is sequenced
		sync.Mutex
		last      zodb.Tid
		packs     int
		pending   map[zodb.Oid]newest
		finishing map[zodb.Tid]*transaction
		late      map[zodb.Tid]*transaction // settled since the pack under way last looked; nil if there is none
		pins      map[txlog.Dropped]int     // revisions that voted transactions share data with
		readOnly  error                     // why there are no writes any more, if so
	}

	stats struct {
		loads, stores, commits, aborts, conflicts, active atomic.Int64
	}
}

// A settledTxn remembers a transaction of the log.
type settledTxn struct {
	tid  zodb.Tid
	oids []zodb.Oid // of all its records, those that a pack dropped too

	status                       byte
	user, description, extension unique.Handle[string] // many are the same
}

// An object holds records.
type object struct {
	name  string
	refs  int   // revisions that lie there
	bytes int64 // of its records, for a payload object
}

// A retirement is what one pack dropped, while it can still be read.
type retirement struct {
	packs int // how many packs there were with it
	until time.Time
	index *index.Memory
}

// An extra is what few revisions have.
type extra struct {
	source zodb.Tid       // of the revision whose data it shares, or NoTid
	blob   *blob.Ref // or nil
}

var (
	_ zodb.Storage      = (*Engine)(nil)
	_ zodb.CachedLoader = (*Engine)(nil)
)

// Open opens the database in a bucket for writing, or makes one in an empty
// bucket, and takes the lead: another server on the same bucket can write no
// more.
func Open(ctx context.Context, b bucket.Bucket, opts Options) (*Engine, error) {
	if opts.Memory == 0 {
		opts.Memory = 64 << 20
	}
	if opts.MaxInline == 0 {
		opts.MaxInline = 4 << 20
	}
	if opts.MaxRecords == 0 {
		opts.MaxRecords = 1 << 21
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	f, err := txlog.ReadFormat(ctx, b)
	if errors.Is(err, txlog.ErrNoDatabase) {
		f, err = txlog.Create(ctx, b, opts.Creator, opts.Now())
	}
	if err != nil {
		return nil, err
	}
	e := &Engine{bucket: b, format: f, opts: opts, locks: newLockTable(), packing: make(chan struct{}, 1), janitor: newJanitor(),
		finishing: make(chan struct{}, maxFinishing)}
	if e.cache, err = cache.New(opts.Memory); err != nil {
		return nil, err
	}
	if opts.CacheDir != "" {
		dir := filepath.Join(opts.CacheDir, f.Database.String())
		if e.disk, err = cache.OpenDisk(dir, opts.CacheSize, f.Database, opts.Logger); err != nil {
			opts.Logger.Warn("there will be no cache on local disk", "err", err)
		}
	}
	e.state.index = index.NewMemory()
	e.state.extras = make(map[txlog.Dropped]extra)
	e.state.blobs = make(map[blob.ID]int)
	e.state.observers = make(map[zodb.Observer]struct{})
	e.uploads.mu.names = make(map[string]struct{})
	e.seq.pins = make(map[txlog.Dropped]int)
	e.seq.pending = make(map[zodb.Oid]newest)
	e.seq.finishing = make(map[zodb.Tid]*transaction)
	start := opts.Now()
	e.log, err = txlog.Open(ctx, b, f, (*logObserver)(e), txlog.Options{Config: opts.Log, Node: opts.Node, Logger: opts.Logger})
	if err != nil {
		return nil, errors.Join(err, e.disk.Close())
	}
	e.seq.last, e.seq.packs = e.state.last, e.state.packs
	e.oids.next = max(1, e.state.oidMark) // 0 is the root's
	opts.Logger.Info("opened database", "bucket", b.Properties().Location, "database", f.Database,
		"objects", e.state.index.Live(), "transactions", len(e.state.txns), "last", e.state.last,
		"took", opts.Now().Sub(start).Round(time.Millisecond))
	e.state.Lock()
	e.state.opened = true
	e.state.freed = false // old packs had their sweeps
	e.state.Unlock()
	e.janitor.do(func() { e.clean(e.janitor.ctx) })
	return e, nil
}

// Close waits, for as long as ctx lets it, until transactions that were
// finished are in the log, and ends all writing.
func (e *Engine) Close(ctx context.Context) error {
	e.endWrites(fmt.Errorf("%w: %w", zodb.ErrReadOnly, zodb.ErrClosed))
	err := e.log.Flush(ctx)
	e.log.Close()
	e.janitor.stop()
	err = errors.Join(err, e.disk.Close())
	if err != nil {
		return fmt.Errorf("closing %s: %w", e.bucket.Properties().Location, err)
	}
	return nil
}

// endWrites refuses writes from now on and says why, unless they are already.
func (e *Engine) endWrites(why error) {
	e.seq.Lock()
	if e.seq.readOnly == nil {
		e.seq.readOnly = why
	}
	e.seq.Unlock()
	e.state.Lock()
	e.announceLocked()
	e.state.Unlock()
}

// ReadOnly implements zodb.Storage.
func (e *Engine) ReadOnly() error {
	e.seq.Lock()
	defer e.seq.Unlock()
	return e.seq.readOnly
}

// Info implements zodb.Storage.
func (e *Engine) Info() zodb.Info {
	e.state.RLock()
	defer e.state.RUnlock()
	return e.infoLocked()
}

func (e *Engine) infoLocked() zodb.Info {
	return zodb.Info{Name: e.bucket.Properties().Location, Objects: e.state.index.Live(), Size: e.state.size}
}

// Stats implements zodb.Storage.
func (e *Engine) Stats() zodb.Stats {
	return zodb.Stats{
		Loads:      e.stats.loads.Load(),
		Stores:     e.stats.stores.Load(),
		Commits:    e.stats.commits.Load(),
		Aborts:     e.stats.aborts.Load(),
		Conflicts:  e.stats.conflicts.Load(),
		ActiveTxns: e.stats.active.Load(),
		Waiting:    e.locks.waiters(),
	}
}

// LastTransaction implements zodb.Storage.
func (e *Engine) LastTransaction() zodb.Tid {
	e.state.RLock()
	defer e.state.RUnlock()
	return e.state.last
}

// Subscribe implements zodb.Storage.
func (e *Engine) Subscribe(obs zodb.Observer) zodb.Tid {
	e.state.Lock()
	defer e.state.Unlock()
	e.state.observers[obs] = struct{}{}
	return e.state.last
}

// Unsubscribe implements zodb.Storage.
func (e *Engine) Unsubscribe(obs zodb.Observer) {
	e.state.Lock()
	defer e.state.Unlock()
	delete(e.state.observers, obs)
}

// announceLocked wakes those who wait for a change of the state.
func (e *Engine) announceLocked() {
	if e.state.changed != nil {
		close(e.state.changed)
		e.state.changed = nil
	}
}

// await waits until reached, which is called with the state locked, returns
// true. It fails when there are no writes any more: what is reached then may be
// another leader's doing.
func (e *Engine) await(ctx context.Context, reached func() bool) error {
	for {
		e.state.Lock()
		ok := reached()
		if !ok && e.state.changed == nil {
			e.state.changed = make(chan struct{})
		}
		changed := e.state.changed
		e.state.Unlock()
		// In this order: the log is followed only after writes have ended.
		if err := e.ReadOnly(); err != nil || ok {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
