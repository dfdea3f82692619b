// Package engine is a ZODB storage on a bucket: it makes transactions of what
// clients store, has the log commit them, moves what is committed from the log
// into segments, and finds it again.
//
// # State
//
// What readers see is what the log has settled: a *base*, the segments and index
// tables that the log has adopted last (package base), and the *tail*, the
// transactions since, which are in memory with their data. A flush writes the
// tail out as a segment and a table; the log adopts a base with these, and the
// tail begins anew. When it is opened, a node reads a checkpoint, its base and the
// log from there on.
//
// What writers are judged by is more: also the transactions that are sequenced
// but not settled (design, section 5). Invariants:
//
//   - A transaction that passed its vote holds the locks of its objects until
//     it has its tid and its place in the log; then it is pending until it is
//     settled. So the newest serial of a locked object is the pending one, or
//     else that of the tail, or else that of the base.
//   - Tids are given out, and transactions appended to the log, under one
//     mutex: their order is the same.
//   - The tail changes, and observers are told, under one write lock, a
//     transaction at a time; readers look things up under the read lock. That
//     gives invariant I6. Bases do not change, so they are looked into without
//     any lock. A new one says the same as the old one and the tail together, less
//     what a pack has dropped.
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
// # Changes of the base
//
// Flushes, merges and packs make new files and a base that lists them, and put an
// entry into the log that has the base adopted. They come one at a time. Invariants:
//
//   - A pack is put into the log only if no transaction sequenced before it
//     refers to an object that it drops.
//   - Between the vote of a transaction that shares data with an older revision
//     and its settling, no pack drops that revision: it is pinned.
//   - A pack takes over what one before has written only if the base lists it. What a
//     base lists no more, no later one lists again.
//   - Files, payload objects and blobs that the newest base no longer needs are
//     deleted when a grace period is over, and never those of a snapshot's base.
//     Until then loads still find what packs dropped.
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
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// Options for Open. Node, Creator and Logger are required.
type Options struct {
	Log     txlog.Config
	Memory  uint64 // bytes of the cache in memory; 0 stands for 64 MiB
	Node    string // names this node to people
	Address string // where other nodes reach this one; empty where they do not
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

	// Unserved says that nobody commits or loads meanwhile, so that packs may keep all
	// processors busy. Else they leave one to clients.
	Unserved bool

	// PackPart is how many bytes of segments a pack has to have written anew before the
	// log is told, so that the next pack can go on from there if this one is ended.
	// Default 1 GiB; in a large database it is more.
	PackPart int64

	// CacheDir is a directory for what was read, in a directory of its own for
	// each database, of CacheSize bytes at most. Empty for none.
	CacheDir  string
	CacheSize int64

	// ReadDirectories has the directories of segments and tables read in the background
	// when the database is open, as far as they take half of Memory, so that no load has
	// to wait for one: it is for servers.
	ReadDirectories bool

	// A tail of that many bytes, or log objects, is written out as a segment.
	// Defaults 16 MiB, 1024.
	FlushBytes, FlushObjects int

	// MaxUnflushed is how many bytes of the log that are not in segments yet may be
	// in memory before votes wait, and then fail. Default 256 MiB, or 16 times
	// FlushBytes.
	MaxUnflushed int

	// SweepAfter is how long after the opening the first sweep comes. Default 10
	// minutes.
	SweepAfter time.Duration

	// At has OpenReadOnly show what the database was then. Default: what it is.
	At Moment

	// OnMisled is called when clients may have cached what is not true: another node
	// has taken the database back to what it was once, or this one has lagged so far
	// behind that it does not know what was committed meanwhile. Clients have to
	// connect anew. It may be nil.
	OnMisled func()

	// OpenBucket opens the bucket that a location names: that of the database
	// which this one is a branch of.
	OpenBucket func(ctx context.Context, location string) (bucket.Bucket, error)

	// OnRole is called when this node has come to lead, and when it leads no more. It
	// must not wait. It may be nil.
	OnRole func()

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
	reader *base.Reader
	opts   Options

	locks   *lockTable
	oids    oids
	uploads uploads
	packing chan struct{} // held by the pack, merge or restore that is under way
	janitor *janitor

	noRoom    atomic.Bool   // votes were refused because the tail is too large
	finishing chan struct{} // held by blobs that wait for the bucket

	changing chan struct{} // held by the one change of the base that is under way
	making   int           // of which reign that is; for the one that holds changing

	state struct { // what is settled
		sync.RWMutex
		view         *base.View
		adopting     map[txlog.BaseID]adoption // that the log may come to adopt
		adopted      txlog.Slot                // in which the log adopted the base that Open began with
		position     txlog.Position            // no transaction before it is in the tail; at or behind that of the base
		checkpointed uint64                    // number of the base that the newest checkpoint names
		viewBytes    int64                     // that it takes up
		tails        []*tail                   // the oldest first; the last one grows, one before it is being flushed
		retired      []*retired                // bases that were replaced lately, the oldest first
		packs        int                       // how many packs there were
		last         zodb.Tid
		oidMark      zodb.Oid
		observers    map[zodb.Observer]struct{}
		epoch        txlog.Epoch                   // of the log's end
		sealed       zodb.Tid                      // the last transaction of the epochs before
		expected     map[sequenced]expected        // that another node has put into its log for clients of this one; nil at the end
		followers    map[zodb.LogObserver]struct{} // told of what this node writes to the log
		changed      chan struct{}                 // closed at the next change, if anybody waits
	}

	seq struct { // what is sequenced
		sync.Mutex
		last      zodb.Tid
		packs     int
		pending   map[zodb.Oid]newest
		finishing map[zodb.Tid]*transaction
		late      map[zodb.Tid]*transaction // settled since the pack under way last looked; nil if there is none
		pins      map[pin]int               // revisions that voted transactions share data with
		reign     int                       // how often this node has come to lead
		epoch     txlog.Epoch               // that it leads, 0 for none
		readOnly  error                     // why there are no writes now, if so
	}

	stages stages
	stats  struct {
		loads, stores, commits, aborts, conflicts, active atomic.Int64
	}
}

var (
	_ zodb.Storage      = (*Engine)(nil)
	_ zodb.CachedLoader = (*Engine)(nil)
)

// Open opens the database in a bucket for writing, or makes one in an empty
// bucket, and takes the lead: another server on the same bucket can write no
// more.
func Open(ctx context.Context, b bucket.Bucket, opts Options) (*Engine, error) {
	opts.setDefaults()
	f, err := formatOf(ctx, b, &opts)
	if err != nil {
		return nil, err
	}
	return open(ctx, b, f, opts, txlog.Open)
}

// Follow opens the database in a bucket, or makes one in an empty bucket, and
// follows what other nodes commit. It takes no writes until Lead.
func Follow(ctx context.Context, b bucket.Bucket, opts Options) (*Engine, error) {
	opts.setDefaults()
	f, err := formatOf(ctx, b, &opts)
	if err != nil {
		return nil, err
	}
	return open(ctx, b, f, opts, txlog.Follow)
}

// formatOf returns the format of the database in a bucket, which is made if there is
// none.
func formatOf(ctx context.Context, b bucket.Bucket, opts *Options) (*txlog.Format, error) {
	f, err := txlog.ReadFormat(ctx, b)
	if errors.Is(err, txlog.ErrNoDatabase) {
		f, err = txlog.Create(ctx, b, txlog.Format{Creator: opts.Creator, Created: opts.Now()})
	}
	return f, err
}

// OpenExisting does what Open does, but makes no database.
func OpenExisting(ctx context.Context, b bucket.Bucket, opts Options) (*Engine, error) {
	opts.setDefaults()
	f, err := txlog.ReadFormat(ctx, b)
	if err != nil {
		return nil, err
	}
	return open(ctx, b, f, opts, txlog.Open)
}

// openLog opens a log: txlog.Open or txlog.Follow.
type openLog func(context.Context, bucket.Bucket, *txlog.Format, txlog.Observer, txlog.Options) (*txlog.Log, error)

func open(ctx context.Context, b bucket.Bucket, f *txlog.Format, opts Options, openLog openLog) (*Engine, error) {
	e, err := newEngine(b, f, opts)
	if err != nil {
		return nil, err
	}
	start := opts.Now()
	e.log, err = openLog(ctx, b, f, (*logObserver)(e), txlog.Options{
		Config: opts.Log, Node: txlog.Node{Name: opts.Node, Address: opts.Address}, Logger: opts.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, e.disk.Close())
	}
	info := e.Info()
	opts.Logger.Info("opened database", "bucket", b.Properties().Location, "database", f.Database,
		"objects", info.Objects, "bytes", info.Size, "last", e.state.last,
		"took", opts.Now().Sub(start).Round(time.Millisecond))
	e.janitor.do(func() { e.clean(e.janitor.ctx) })
	e.janitor.do(func() { e.compact(e.janitor.ctx) })
	e.readAhead()
	return e, nil
}

func (o *Options) setDefaults() {
	if o.Memory == 0 {
		o.Memory = 64 << 20
	}
	if o.MaxInline == 0 {
		o.MaxInline = 4 << 20
	}
	if o.MaxRecords == 0 {
		o.MaxRecords = 1 << 21
	}
	if o.FlushBytes == 0 {
		o.FlushBytes = 16 << 20
	}
	if o.FlushObjects == 0 {
		o.FlushObjects = 1024
	}
	if o.MaxUnflushed == 0 {
		o.MaxUnflushed = max(256<<20, 16*o.FlushBytes)
	}
	if o.PackPart == 0 {
		o.PackPart = 1 << 30
	}
	if o.SweepAfter == 0 {
		o.SweepAfter = 10 * time.Minute
	}
	if o.OnRole == nil {
		o.OnRole = func() {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// newEngine returns an engine without a log.
func newEngine(b bucket.Bucket, f *txlog.Format, opts Options) (*Engine, error) {
	e := &Engine{
		bucket: b, format: f, opts: opts, locks: newLockTable(), janitor: newJanitor(),
		packing: make(chan struct{}, 1), changing: make(chan struct{}, 1), finishing: make(chan struct{}, maxFinishing),
	}
	var err error
	if e.cache, err = cache.New(opts.Memory); err != nil {
		return nil, err
	}
	if opts.CacheDir != "" {
		dir := filepath.Join(opts.CacheDir, f.Database.String())
		if e.disk, err = cache.OpenDisk(dir, opts.CacheSize, f.Database, opts.Logger); err != nil {
			opts.Logger.Warn("there will be no cache on local disk", "err", err)
		}
	}
	e.reader = &base.Reader{Bucket: b, Database: f.Database, Memory: e.cache, Disk: e.disk, Open: opts.OpenBucket}
	e.state.adopting = make(map[txlog.BaseID]adoption)
	e.state.observers = make(map[zodb.Observer]struct{})
	e.state.expected = make(map[sequenced]expected)
	e.state.followers = make(map[zodb.LogObserver]struct{})
	e.uploads.mu.names = make(map[string]struct{})
	e.uploads.mu.announced = make(map[string]int)
	e.seq.pins = make(map[pin]int)
	e.seq.pending = make(map[zodb.Oid]newest)
	e.seq.finishing = make(map[zodb.Tid]*transaction)
	e.seq.readOnly = errFollows
	return e, nil
}

// Close waits, for as long as ctx lets it, until transactions that were
// finished are in the log, and ends all writing.
func (e *Engine) Close(ctx context.Context) error {
	if e.log == nil {
		e.janitor.end()
		e.janitor.wg.Wait()
		return e.disk.Close()
	}
	e.endWrites(fmt.Errorf("%w: %w", zodb.ErrReadOnly, zodb.ErrClosed))
	err := e.log.Flush(ctx)
	e.janitor.end()
	if err == nil && e.leads() == nil {
		giveUp := context.AfterFunc(ctx, e.stopped)
		e.lastFlush(ctx)
		giveUp()
	}
	e.log.Close()
	e.stopped()
	e.leaveUnknown()
	e.janitor.wg.Wait()
	err = errors.Join(err, e.disk.Close())
	if err != nil {
		return fmt.Errorf("closing %s: %w", e.bucket.Properties().Location, err)
	}
	return nil
}

// stopped tells whoever waits for the log to adopt a base that it will not.
func (e *Engine) stopped() {
	e.seq.Lock()
	e.seq.readOnly = fmt.Errorf("%w: the server was stopped", zodb.ErrReadOnly)
	e.seq.Unlock()
	e.state.Lock()
	e.failExpectedLocked(math.MaxUint64, zodb.ErrOutcomeUnknown)
	e.state.expected = nil
	e.announceLocked()
	e.state.Unlock()
}

// leaveUnknown answers those whose transactions the log was given, and did not
// settle before it was closed.
func (e *Engine) leaveUnknown() {
	e.seq.Lock()
	left := e.seq.finishing
	e.seq.finishing = make(map[zodb.Tid]*transaction)
	e.seq.Unlock()
	for tid, t := range left {
		t.done(nil, fmt.Errorf("%w: the server was stopped; whether transaction %s was committed will be known when the database is opened again",
			zodb.ErrClosed, tid))
	}
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

// leadsLocked returns why this node may not write, unless it may, or is being
// closed, when it ends what it has begun. The caller holds seq.
func (e *Engine) leadsLocked() error {
	if err := e.seq.readOnly; err != nil && (e.seq.epoch == 0 || !errors.Is(err, zodb.ErrClosed)) {
		return err
	}
	return nil
}

func (e *Engine) leads() error {
	e.seq.Lock()
	defer e.seq.Unlock()
	return e.leadsLocked()
}

// Info implements zodb.Storage.
func (e *Engine) Info() zodb.Info {
	e.state.RLock()
	defer e.state.RUnlock()
	return e.infoLocked()
}

func (e *Engine) infoLocked() zodb.Info {
	info := zodb.Info{Name: e.bucket.Properties().Location, Objects: e.state.view.Live, Size: e.state.viewBytes}
	for _, t := range e.state.tails {
		info.Objects += t.live
		info.Size += t.bytes() + t.blobBytes
	}
	return info
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
// true. It fails when there are no writes any more, or when another node has led
// since it was called: what is reached then may be another leader's doing.
func (e *Engine) await(ctx context.Context, reached func() bool) error {
	return e.awaitInReign(ctx, e.reign(), func() error { return e.seq.readOnly }, reached)
}

// awaitLead does it for what was begun in that reign, also while the engine is
// being closed.
func (e *Engine) awaitLead(ctx context.Context, reign int, reached func() bool) error {
	return e.awaitInReign(ctx, reign, e.leadsLocked, reached)
}

// awaitInReign waits until reached returns true, another node has led since the reign,
// or refused, which is called with seq locked, returns an error.
func (e *Engine) awaitInReign(ctx context.Context, reign int, refused func() error, reached func() bool) error {
	return e.awaitWhile(ctx, func() error {
		e.seq.Lock()
		defer e.seq.Unlock()
		if err := e.sameReignLocked(reign); err != nil {
			return err
		}
		return refused()
	}, reached)
}

func (e *Engine) awaitWhile(ctx context.Context, refused func() error, reached func() bool) error {
	for {
		e.state.Lock()
		ok := reached()
		if !ok && e.state.changed == nil {
			e.state.changed = make(chan struct{})
		}
		changed := e.state.changed
		e.state.Unlock()
		// In this order: the log is followed only after writes have ended.
		if err := refused(); err != nil || ok {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
