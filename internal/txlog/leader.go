package txlog

import (
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// Config sets how a leader writes. The zero value stands for the defaults.
type Config struct {
	// MaxObject is the number of bytes of entries beyond which no more are
	// put into one object. Default 8 MiB.
	MaxObject int

	// MaxFlight is how many objects may be under way. Default 16.
	MaxFlight int
}

func (c Config) withDefaults() Config {
	if c.MaxObject == 0 {
		c.MaxObject = 8 << 20
	}
	if c.MaxFlight == 0 {
		c.MaxFlight = 16
	}
	return c
}

const (
	// A new put joins those under way once the newest of them has been so
	// long, measured in the usual time of a put: with many clients committing,
	// each waits little, and few puts are made.
	pacePerPut = 6
	// Below this, a put that is alone is faster than several that compete.
	leastPace = 2 * time.Millisecond
	mostPace  = 50 * time.Millisecond

	// A put is hedged when it takes this much longer than usual.
	leastHedge = 50 * time.Millisecond
	mostHedge  = 5 * time.Second
	firstHedge = time.Second // before anything is known

	// A leader without anything to write looks so often whether it has been
	// taken over: in a month that is a quarter of a million reads.
	watchEvery = 10 * time.Second
)

// A Leader decides what the leader of an epoch does next: when to make an
// object of the entries that wait, when to put it again, when to read back,
// and what has become of each. It does no I/O, knows no time but what it is
// told, and is for one goroutine at a time; a [Log] drives it.
//
// Invariants:
//
//   - The slots from settled to before next are in flight, in order. Each has one
//     object whose bytes are fixed before its first put.
//   - An object is settled when it and all before it stand. Only then is
//     anybody told.
//   - An object stands when a put of it succeeded, or when a put found the
//     slot taken and reading back gave the object's own put id. Any other
//     outcome but one is unknown, and the same bytes are put again. The one:
//     reading back gave another put id. Then this epoch is sealed in that
//     slot. The objects before it stand, or will be found to; it and those
//     after it are not part of the log and never will be.
type Leader struct {
	cfg      Config
	database DatabaseID

	next       Position // where the next object goes
	settled    Position // behind the newest settled object
	mark       zodb.Oid // the oid mark of the next object
	markRaised bool     // beyond that of the last one

	checkpoint uint64 // number of the newest, 0 for none
	logStart   Slot   // what is below is not needed any more

	queue  []Entry
	flight []*flying
	done   []Settled // not yet fetched
	lost   *Lost

	// The usual time of a put and its deviation, as in RFC 6298.
	usual, deviation time.Duration
	newest           time.Time // when the newest object was first put

	watched  time.Time // when it was last known that nobody has taken over
	watching bool
}

// A flying object has been put, but it is not known yet whether it is settled.
type flying struct {
	object *Object
	data   []byte

	stands   bool
	taken    bool // the slot is: read back instead of putting
	reading  bool
	puts     int // under way
	failures int
	again    time.Time // when to put again, if no put is under way
	first    time.Time // the first put
	started  time.Time // the last put
	hedged   bool
}

// Lost says where and to whom the leadership was lost.
type Lost struct {
	Slot Slot
	By   Node // by its seal
}

// ActionKind says what an action is.
type ActionKind int

// The kinds of actions.
const (
	ActionPut   ActionKind = iota // put-if-absent of Data; report with PutDone
	ActionRead                    // read the put id there; report with ReadDone
	ActionWatch                   // look whether there is anything; report with WatchDone
)

// An Action is something to be done for the leader. Actions may be done at the
// same time and in any order.
type Action struct {
	Kind ActionKind
	Slot Slot
	Name string // of the object
	Data []byte // for ActionPut
}

// NewLeader returns the leader of the epoch that p, the position after the
// seal, is in.
func NewLeader(cfg Config, db DatabaseID, p Position) *Leader {
	return &Leader{cfg: cfg.withDefaults(), database: db, next: p, settled: p, mark: p.OidMark, logStart: 1}
}

// Checkpointed has further objects say that c is the newest checkpoint.
func (l *Leader) Checkpointed(c *Checkpoint) {
	l.checkpoint, l.logStart = c.Number, c.Position.Slot
}

// Append queues an entry. The tids of transactions must ascend.
func (l *Leader) Append(e Entry) {
	l.queue = append(l.queue, e)
}

// RaiseOidMark has the next object carry an oid high-water mark of at least
// mark. If nothing else waits, an object is made for it.
func (l *Leader) RaiseOidMark(mark zodb.Oid) {
	if mark > l.mark {
		l.mark, l.markRaised = mark, true
	}
}

// Idle tells whether nothing waits or is under way.
func (l *Leader) Idle() bool { return len(l.queue) == 0 && !l.markRaised && len(l.flight) == 0 }

// Next returns what to do now, and when to ask again (zero for not before
// something else happens).
func (l *Leader) Next(now time.Time) (actions []Action, wake time.Time) {
	ask := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	for _, f := range l.flight {
		if f.stands || l.lost != nil && f.object.Slot >= l.lost.Slot {
			continue
		}
		switch {
		case f.reading:
		case f.taken:
			f.reading = true
			actions = append(actions, Action{Kind: ActionRead, Slot: f.object.Slot, Name: f.object.Name()})
		case f.puts == 0:
			if now.Before(f.again) {
				ask(f.again)
			} else {
				actions = append(actions, f.put(now))
				ask(now.Add(l.hedgeAfter()))
			}
		case !f.hedged:
			if at := f.started.Add(l.hedgeAfter()); now.Before(at) {
				ask(at)
			} else {
				f.hedged = true
				actions = append(actions, f.put(now))
			}
		}
	}
	for l.lost == nil && (len(l.queue) > 0 || l.markRaised) && len(l.flight) < l.cfg.MaxFlight {
		if at := l.newest.Add(l.pace()); len(l.flight) > 0 && now.Before(at) {
			ask(at)
			break
		}
		l.newest = now
		actions = append(actions, l.launch(now).put(now))
		ask(now.Add(l.hedgeAfter()))
	}
	if l.lost == nil && l.Idle() && !l.watching {
		switch at := l.watched.Add(watchEvery); {
		case l.watched.IsZero():
			l.watched = now
			ask(now.Add(watchEvery))
		case now.Before(at):
			ask(at)
		default:
			l.watching = true
			actions = append(actions, Action{Kind: ActionWatch, Slot: l.next.Slot, Name: Name(l.next.Epoch, l.next.Slot)})
		}
	}
	return actions, wake
}

// launch makes an object of what waits.
func (l *Leader) launch(now time.Time) *flying {
	n, size, bases := 0, 0, 0
	for n < len(l.queue) && (n == 0 || size+l.queue[n].size() <= l.cfg.MaxObject) {
		if l.queue[n].Base != nil {
			if bases++; bases > 1 {
				break // so that a slot tells which base was adopted there
			}
		}
		size += l.queue[n].size()
		n++
	}
	o := &Object{
		Header: Header{
			Database:   l.database,
			Epoch:      l.next.Epoch,
			Slot:       l.next.Slot,
			Put:        NewPutID(),
			Prev:       l.next.Prev,
			LogStart:   l.logStart,
			Checkpoint: l.checkpoint,
			Settled:    l.settled.Slot - 1,
			OidMark:    l.mark,
			LastTid:    l.next.LastTid,
		},
		Entries: l.queue[:n:n],
	}
	for _, e := range o.Entries {
		if e.Txn != nil {
			o.LastTid = e.Txn.Tid
		}
	}
	l.queue = l.queue[n:]
	l.markRaised = false
	f := &flying{object: o, data: o.encode(), first: now}
	l.next.Slot++
	l.next.Prev, l.next.OidMark, l.next.LastTid = o.Hash, o.OidMark, o.LastTid
	l.flight = append(l.flight, f)
	return f
}

func (f *flying) put(now time.Time) Action {
	f.puts++
	f.started = now
	return Action{Kind: ActionPut, Slot: f.object.Slot, Name: f.object.Name(), Data: f.data}
}

// find returns the object in flight in a slot, or nil if its fate is known
// already: results may come late.
func (l *Leader) find(s Slot) *flying {
	if len(l.flight) == 0 || s < l.flight[0].object.Slot {
		return nil
	}
	if i := int(s - l.flight[0].object.Slot); i < len(l.flight) {
		return l.flight[i]
	}
	return nil
}

// PutOutcome is what became of a put.
type PutOutcome int

// The outcomes of a put.
const (
	PutUnknown PutOutcome = iota // anything else: it may have happened or not, or may yet
	PutStands                    // it succeeded
	PutTaken                     // there is an object in the slot
)

// PutDone reports the end of an ActionPut.
func (l *Leader) PutDone(now time.Time, s Slot, outcome PutOutcome) {
	f := l.find(s)
	if f == nil {
		return
	}
	f.puts--
	switch {
	case f.stands:
	case outcome == PutStands:
		l.watched = now
		if f.failures == 0 && !f.hedged {
			l.observe(now.Sub(f.started))
		}
		f.stands = true
	case outcome == PutTaken:
		f.taken = true
	default:
		f.fail(now)
	}
	l.settle(now)
}

// ReadDone reports the end of an ActionRead: the put id that was found, or ok
// false where there was no object or it could not be read. by is the node of
// the seal if that is what it was.
func (l *Leader) ReadDone(now time.Time, s Slot, found PutID, ok bool, by Node) {
	f := l.find(s)
	if f == nil {
		return
	}
	f.reading = false
	switch {
	case f.stands:
	case !ok:
		f.taken = false
		f.fail(now)
	case found == f.object.Put:
		f.stands = true
	case l.lost == nil || s < l.lost.Slot:
		l.lost = &Lost{Slot: s, By: by}
	}
	l.settle(now)
}

// WatchDone reports the end of an ActionWatch: whether there is an object in
// the slot and, if it is a seal, by whom.
func (l *Leader) WatchDone(now time.Time, s Slot, there bool, by Node) {
	l.watching = false
	l.watched = now
	// If the slot has been put meanwhile, the put will tell.
	if there && s == l.next.Slot && l.lost == nil {
		l.lost = &Lost{Slot: s, By: by}
	}
}

func (f *flying) fail(now time.Time) {
	f.failures++
	f.hedged = false
	f.again = now.Add(bucket.Backoff(f.failures))
}

// settle moves what is known to be part of the log from flight to done.
func (l *Leader) settle(now time.Time) {
	for len(l.flight) > 0 && l.flight[0].stands {
		f := l.flight[0]
		o := f.object
		l.settled.Slot++
		l.settled.Prev, l.settled.OidMark, l.settled.LastTid = o.Hash, o.OidMark, o.LastTid
		l.done = append(l.done, Settled{Object: o, End: l.settled, Data: f.data, Put: f.first, Stood: now})
		l.flight = l.flight[1:]
	}
}

// End returns the position behind the newest settled object. When leadership
// was lost, the seal stands there.
func (l *Leader) End() Position { return l.settled }

// Settled is an object that has become part of the log.
type Settled struct {
	Object *Object
	End    Position // behind it
	Data   []byte   // the object's bytes, if this node has written it; not to be changed

	// When it was first put, and when it was known to stand, and all before it. Zero if
	// another node has written it.
	Put, Stood time.Time
}

// Settled returns the objects that became part of the log since it was last
// called, in order.
func (l *Leader) Settled() []Settled {
	done := l.done
	l.done = nil
	return done
}

// Lost tells whether leadership was lost and it is known of every object what
// became of it. The entries that it returns are not part of the log and never
// will be; they are returned once.
func (l *Leader) Lost() (*Lost, []Entry) {
	if l.lost == nil || len(l.flight) > 0 && l.flight[0].object.Slot < l.lost.Slot {
		return nil, nil
	}
	var failed []Entry
	for _, f := range l.flight {
		failed = append(failed, f.object.Entries...)
	}
	failed = append(failed, l.queue...)
	l.flight, l.queue, l.markRaised = nil, nil, false
	return l.lost, failed
}

// observe learns how long a put takes.
func (l *Leader) observe(d time.Duration) {
	if l.usual == 0 {
		l.usual, l.deviation = d, d/2
		return
	}
	l.deviation += ((l.usual - d).Abs() - l.deviation) / 4
	l.usual += (d - l.usual) / 8
}

func (l *Leader) pace() time.Duration {
	return min(max(l.usual/pacePerPut, leastPace), mostPace)
}

// usually returns what puts take at most, but for few; 0 before anything is known.
func (l *Leader) usually() time.Duration { return l.usual + 4*l.deviation }

func (l *Leader) hedgeAfter() time.Duration {
	if l.usual == 0 {
		return firstHedge
	}
	return min(max(l.usually(), leastHedge), mostHedge)
}
