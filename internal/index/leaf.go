package index

import (
	"encoding/binary"
	"iter"
	"sort"

	"s3storage/internal/zodb"
)

// A Leaf is a part of a table, as it was read. It is for any number of
// goroutines.
type Leaf struct {
	raw    []byte
	groups int
	width  int    // bytes of a tid
	mask   uint64 // of so many bytes
	low    zodb.Tid
	sum    int // where the entries end

	// The object that the next leaf begins with.
	following zodb.Oid
	goesOn    bool // there is a next leaf
}

// leafOverhead is about what a Leaf takes besides its bytes.
const leafOverhead = 120

// Weight returns about how many bytes of memory the leaf takes.
func (l *Leaf) Weight() int { return len(l.raw) + leafOverhead }

// group returns the first oid and tid of a group, and where its entries begin.
func (l *Leaf) group(i int) (zodb.Oid, zodb.Tid, int) {
	b := l.raw[leafHeaderSize+i*groupSize:][:groupSize]
	return zodb.Oid(binary.BigEndian.Uint64(b)), zodb.Tid(binary.BigEndian.Uint64(b[8:])), int(binary.BigEndian.Uint16(b[16:]))
}

// end returns where the entries of a group end.
func (l *Leaf) end(i int) int {
	if i+1 == l.groups {
		return l.sum
	}
	_, _, at := l.group(i + 1)
	return at
}

// entries returns how many entries the leaf has.
func (l *Leaf) entries() int { return int(binary.BigEndian.Uint16(l.raw)) }

// find returns the last group whose first entry comes before (oid, tid), -1 if
// there is none.
func (l *Leaf) find(oid zodb.Oid, tid zodb.Tid) int {
	return sort.Search(l.groups, func(i int) bool {
		o, t, _ := l.group(i)
		return o > oid || o == oid && t >= tid
	}) - 1
}

// Before returns the newest entry of the object in this leaf with a tid below
// tid; ok is false if there is none. next is the tid of the entry of the object
// that follows in this leaf, NoTid if none does. more is true if the object goes
// on in the leaf that follows, and the entry that comes next is there.
func (l *Leaf) Before(oid zodb.Oid, tid zodb.Tid) (e Entry, ok bool, next zodb.Tid, more bool) {
	i := l.find(oid, tid)
	following, seen := Entry{}, false
	if i >= 0 {
		for c := l.cursor(i); c.next(); {
			if seen = !c.before(oid, tid); seen {
				following = c.Entry
				break
			}
			e = c.Entry
		}
		ok = e.Oid == oid
	}
	if !seen && i+1 < l.groups {
		seen = true
		following.Oid, following.Tid, _ = l.group(i + 1)
	}
	if seen && following.Oid == oid {
		next = following.Tid
	}
	if !ok {
		e = Entry{}
	}
	return e, ok, next, !seen && l.goesOn && l.following == oid
}

// From goes over the entries of the leaf in order, from (oid, tid) on.
func (l *Leaf) From(oid zodb.Oid, tid zodb.Tid) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := max(0, l.find(oid, tid)); i < l.groups; i++ {
			for c := l.cursor(i); c.next(); {
				if !c.before(oid, tid) && !yield(c.Entry) {
					return
				}
			}
		}
	}
}

// A cursor goes over the entries of a group.
type cursor struct {
	Entry // where it is
	l     *Leaf
	at    int // of the next entry
	end   int
	predecessors
}

// cursor returns one before the first entry of the group.
func (l *Leaf) cursor(i int) (c cursor) {
	c.l, c.end = l, l.end(i)
	c.Oid, c.Tid, c.at = l.group(i)
	c.reset(c.Tid)
	return c
}

// next goes to the next entry. It is false at the end of the group, and before
// anything that no entry looks like.
func (c *cursor) next() bool {
	if c.at >= c.end {
		return false
	}
	raw := c.l.raw[:c.end]
	at := c.at
	tag := raw[at]
	at++
	step := zodb.Oid(tag & stepBits)
	if step == stepLong {
		v, n := binary.Uvarint(raw[at:])
		if n <= 0 || v > uint64(zodb.MaxOid) {
			return false
		}
		at += n
		step += zodb.Oid(v)
	}
	tidWidth, kWidth := 0, kWidths[tag>>kShift&3]
	if tag&sameTidBit == 0 {
		tidWidth = c.l.width
	}
	if tag&reservedBits != 0 || len(raw)-at < tidWidth+kWidth {
		return false
	}
	k := c.predecessors.next(step)
	r := c.rank
	if tag&sameTidBit == 0 {
		// More than eight bytes lie before.
		at += tidWidth
		c.tid[r] = c.l.low + zodb.Tid(binary.BigEndian.Uint64(raw[at-8:])&c.l.mask)
		k = 0
	}
	if kWidth > 0 {
		at += kWidth
		k = uint32(binary.BigEndian.Uint64(raw[at-8:]) & (1<<(8*kWidth) - 1))
	}
	c.k[r] = k
	c.Entry = Entry{Oid: c.Oid + step, Tid: c.tid[r], K: k, Deleted: tag&deletedBit != 0}
	c.at = at
	return true
}

// check looks at every entry, and returns the last. It says where it found
// something amiss.
func (l *Leaf) check() (last Entry, at int, wrong string) {
	behind := leafHeaderSize + l.groups*groupSize // what was looked at
	for i := range l.groups {
		_, _, at := l.group(i)
		if end := l.end(i); at != behind || at >= end || end > l.sum {
			return last, leafHeaderSize + i*groupSize, "a group lies where it does not belong"
		}
		if l.raw[at]&(stepBits|sameTidBit) != sameTidBit {
			return last, at, "a group does not begin with its first entry"
		}
		want := groupEntries
		if i+1 == l.groups {
			want = l.entries() - i*groupEntries
		}
		n := 0
		c := l.cursor(i)
		for ; c.next(); n++ {
			if (i > 0 || n > 0) && !last.before(c.Oid, c.Tid) || c.Oid > zodb.MaxOid || c.Tid == zodb.NoTid || c.Tid > zodb.MaxTid {
				return last, c.at, "the entries are not in order"
			}
			last = c.Entry
		}
		if c.at != c.end || n != want {
			return last, c.at, "a group is not as long as it should be"
		}
		behind = c.end
	}
	return last, 0, ""
}
