package index

import (
	"encoding/binary"
	"sort"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// A Directory says where the leaves of a table are. It is for any number of
// goroutines.
type Directory struct {
	db   [16]byte
	info Info

	// A leaf has all that comes from (first oid, 0) on, or from the tid in
	// middle if it begins within the object.
	first  []zodb.Oid
	middle []middle // in order
	size   []uint16
	offset []int64 // of every offsetEvery-th leaf
}

type middle struct {
	leaf int
	tid  zodb.Tid
}

const offsetEvery = 64

// ReadDirectory returns the directory of a table of that database, from the
// last info.Tail bytes of its file. It keeps none of them.
func ReadDirectory(db [16]byte, info Info, tail []byte) (*Directory, error) {
	d := &Directory{db: db, info: info}
	begin := info.Size - int64(info.Tail)
	if info.Tail < footerSize || begin < headerSize {
		return nil, info.ID.corrupt(0, "no table has %d bytes and a directory of %d", info.Size, info.Tail)
	}
	if int64(len(tail)) != int64(info.Tail) {
		return nil, info.ID.corrupt(begin, "%d bytes of directory expected, %d are there", info.Tail, len(tail))
	}
	body, sum := tail[:len(tail)-sumSize], binary.BigEndian.Uint32(tail[len(tail)-sumSize:])
	if directorySum(db, info.ID, body) != sum {
		return nil, info.ID.corrupt(begin, "the checksum of its directory does not match its %d bytes, or it belongs to another database than %x", info.Tail, db)
	}
	n := len(tail) - footerSize
	footer := fileformat.NewReader(info.ID.Name(), begin+int64(n), tail[n:])
	size, leaves := footer.Uint32(), footer.Uint32()
	found := info
	found.Entries = int64(footer.Uint64())
	found.First, found.Last = zodb.Tid(footer.Uint64()), zodb.Tid(footer.Uint64())
	found.MaxOid = zodb.Oid(footer.Uint64())
	if found != info {
		return nil, footer.Corrupt("%d entries, from transaction %s to %s, to object %s; %d, from %s to %s, to %s expected",
			found.Entries, found.First, found.Last, found.MaxOid, info.Entries, info.First, info.Last, info.MaxOid)
	}
	if int64(size) != int64(n) || int64(leaves) > int64(n)/minLeafLine {
		return nil, footer.Corrupt("%d leaves in a directory of %d bytes, which has %d", leaves, size, n)
	}
	r := fileformat.NewReader(info.ID.Name(), begin, tail[:n])
	if err := d.read(r, int(leaves)); err != nil {
		return nil, err
	}
	return d, nil
}

// minLeafLine is how many bytes of the directory a leaf takes at least.
const minLeafLine = 3

func (d *Directory) read(r *fileformat.Reader, leaves int) error {
	d.first = make([]zodb.Oid, leaves)
	d.size = make([]uint16, leaves)
	d.offset = make([]int64, 0, (leaves+offsetEvery-1)/offsetEvery)
	end := int64(headerSize)
	var oid zodb.Oid
	var tid zodb.Tid
	for i := range leaves {
		v := r.Uvarint()
		step, inside := zodb.Oid(v>>1), v&1 == 1
		oid += step
		if step > 0 {
			tid = zodb.NoTid
		}
		from := zodb.NoTid
		if inside {
			from = zodb.Tid(r.Uint64())
			d.middle = append(d.middle, middle{i, from})
		}
		size := uint16(r.Byte())<<8 | uint16(r.Byte())
		switch {
		case r.Err() != nil:
			return r.Err()
		case inside && (i == 0 || from == zodb.NoTid), oid > zodb.MaxOid, from > zodb.MaxTid, i > 0 && step == 0 && from <= tid:
			return r.Corrupt("leaf %d begins at object %s, transaction %s, which is out of order", i, oid, from)
		case size < leafHeaderSize+groupSize+1+sumSize || size > maxLeaf:
			return r.Corrupt("leaf %d has %d bytes", i, size)
		}
		tid = from
		if i%offsetEvery == 0 {
			d.offset = append(d.offset, end)
		}
		d.first[i], d.size[i] = oid, size
		end += int64(size)
	}
	if begin := d.info.Size - int64(d.info.Tail); end != begin {
		return r.Corrupt("its leaves end at %d, its directory begins at %d", end, begin)
	}
	return r.End()
}

// Weight returns about how many bytes of memory the directory takes.
func (d *Directory) Weight() int {
	return 200 + 8*cap(d.first) + 16*cap(d.middle) + 2*cap(d.size) + 8*cap(d.offset)
}

// Leaves returns how many leaves the table has.
func (d *Directory) Leaves() int { return len(d.first) }

// Leaf returns where leaf i lies, counted from 0.
func (d *Directory) Leaf(i int) Span {
	at := d.offset[i/offsetEvery]
	for _, size := range d.size[i/offsetEvery*offsetEvery : i] {
		at += int64(size)
	}
	return Span{at, uint32(d.size[i])}
}

// start returns what the entries of leaf i do not come before.
func (d *Directory) start(i int) (zodb.Oid, zodb.Tid) {
	j := sort.Search(len(d.middle), func(j int) bool { return d.middle[j].leaf >= i })
	if j < len(d.middle) && d.middle[j].leaf == i {
		return d.first[i], d.middle[j].tid
	}
	return d.first[i], zodb.NoTid
}

// Find returns the last leaf that begins at or before (oid, tid); if there is
// none, ok is false and i is 0. A leaf begins with its first entry, or, where that
// is the first of its object, with all that there might be of the object. So the
// answer of Before(oid, tid) is in the leaf that Find(oid, tid-1) returns, and in
// the one that follows where Before says more; if ok is false, there is nothing of
// the object.
func (d *Directory) Find(oid zodb.Oid, tid zodb.Tid) (i int, ok bool) {
	i = sort.Search(len(d.first), func(i int) bool {
		if d.first[i] != oid {
			return d.first[i] > oid
		}
		_, t := d.start(i)
		return t > tid
	})
	return max(i, 1) - 1, i > 0
}

// Open returns leaf i, from its bytes in the file, which it keeps. It checks
// all of them: what the leaf says then is what was written, or at least in order.
func (d *Directory) Open(i int, raw []byte) (*Leaf, error) {
	where := d.Leaf(i)
	if int64(len(raw)) != int64(where.Size) {
		return nil, d.info.ID.corrupt(where.Offset, "%d bytes of leaf %d expected, %d are there", where.Size, i, len(raw))
	}
	sum := len(raw) - sumSize
	if leafSum(d.info.ID, where.Offset, raw[:sum]) != binary.BigEndian.Uint32(raw[sum:]) {
		return nil, d.info.ID.corrupt(where.Offset, "the checksum of leaf %d does not match its %d bytes", i, len(raw))
	}
	l := &Leaf{raw: raw, sum: sum, width: int(raw[2]), low: zodb.Tid(binary.BigEndian.Uint64(raw[4:]))}
	entries := l.entries()
	l.groups = (entries + groupEntries - 1) / groupEntries
	if entries == 0 || l.width > maxTidWidth || raw[3] != 0 || leafHeaderSize+l.groups*groupSize > sum {
		return nil, d.info.ID.corrupt(where.Offset, "leaf %d has %d entries with tids of %d bytes", i, entries, l.width)
	}
	l.mask = 1<<(8*l.width) - 1 // all bits, if there are eight bytes
	last, at, wrong := l.check()
	if wrong != "" {
		return nil, d.info.ID.corrupt(where.Offset+int64(at), "leaf %d: %s", i, wrong)
	}
	firstOid, firstTid, _ := l.group(0)
	oid, tid := d.start(i)
	if firstOid != oid || tid != zodb.NoTid && firstTid != tid {
		return nil, d.info.ID.corrupt(where.Offset, "leaf %d begins with object %s, transaction %s, not with %s, %s", i, firstOid, firstTid, oid, tid)
	}
	if l.goesOn = i+1 < d.Leaves(); l.goesOn {
		l.following, tid = d.start(i + 1)
		if !last.before(l.following, tid) {
			return nil, d.info.ID.corrupt(where.Offset, "leaf %d ends with object %s, transaction %s, the next one begins before", i, last.Oid, last.Tid)
		}
	} else if last.Oid != d.info.MaxOid {
		return nil, d.info.ID.corrupt(where.Offset, "the last leaf ends with object %s, not with %s", last.Oid, d.info.MaxOid)
	}
	return l, nil
}
