package segment

import (
	"encoding/binary"

	"s3storage/internal/fileformat"
	"s3storage/internal/zodb"
)

// referenceBuilder gathers the records of a reference block.
type referenceBuilder struct {
	raw   []byte
	first Key
	last  Key
	oid   zodb.Oid // the reference before
}

func (b *referenceBuilder) add(k Key, class uint32, refs []zodb.Oid, known bool) {
	if len(b.raw) == 0 {
		b.first = k
	}
	b.raw = appendKey(b.raw, b.last, k)
	b.last = k
	b.raw = binary.AppendUvarint(b.raw, uint64(class))
	if !known || len(refs) > maxReferences {
		b.raw = append(b.raw, 0)
		return
	}
	b.raw = binary.AppendUvarint(b.raw, uint64(len(refs))+1)
	for _, oid := range refs {
		b.raw = appendStep(b.raw, b.oid, oid)
		b.oid = oid
	}
}

// referenceItems goes over the records of a reference block.
type referenceItems struct {
	r     *fileformat.Reader
	first Key // that the directory says
	begun bool

	// Of the record that next has read last.
	key   Key
	class uint64
	refs  []zodb.Oid
	known bool

	oid  zodb.Oid   // the reference before
	free []zodb.Oid // room for references of several records
}

func (d *Directory) openReferences(b Block, stored []byte) (*referenceItems, error) {
	r, err := d.open(b, stored, nil)
	return &referenceItems{r: r, first: b.First}, err
}

func (i *referenceItems) more() bool { return len(i.r.Rest()) > 0 }

func (i *referenceItems) next() error {
	r := i.r
	i.key = readKey(r, i.key)
	if r.Err() == nil && !i.begun && i.key != i.first {
		return r.Corrupt("the first record is %s, by the directory it is %s", i.key, i.first)
	}
	i.begun = true
	i.class = r.Uvarint()
	n := r.Uvarint()
	i.known, i.refs = n > 0, nil
	if r.Err() != nil || n <= 1 {
		return r.Err()
	}
	n--
	if n > maxReferences || n > uint64(len(r.Rest())) {
		return r.Corrupt("%d references in %d bytes", n, len(r.Rest()))
	}
	if uint64(len(i.free)) < n {
		i.free = make([]zodb.Oid, max(n, 1024))
	}
	i.refs, i.free = i.free[:n:n], i.free[n:]
	for j := range i.refs {
		i.oid = readStep(r, i.oid)
		i.refs[j] = i.oid
	}
	return r.Err()
}

// className returns the name of the class of the record read last.
func (i *referenceItems) className(classes []string) (string, error) {
	if i.class >= uint64(len(classes)) {
		return "", i.r.Corrupt("class %d of %d", i.class, len(classes))
	}
	return classes[i.class], nil
}

// DecodeReferences calls fn for all records of a reference block that have
// data, in order. Refs are of no meaning unless they are known. They share
// memory that is not used again. classes are what DecodeClasses returned.
func (d *Directory) DecodeReferences(b Block, stored []byte, classes []string,
	fn func(tid zodb.Tid, k uint32, class string, refs []zodb.Oid, known bool) error) error {
	items, err := d.openReferences(b, stored)
	if err != nil {
		return err
	}
	for items.more() {
		if err := items.next(); err != nil {
			return err
		}
		class, err := items.className(classes)
		if err != nil {
			return err
		}
		if err := fn(items.key.Tid, items.key.K, class, items.refs, items.known); err != nil {
			return err
		}
	}
	return nil
}

// classTable numbers the names of classes, in the order in which they come.
type classTable struct {
	numbers map[string]uint32
	raw     []byte // the names
}

// number returns the number of a class, or 0 where it is unknown, its name is
// too long or the table full.
func (c *classTable) number(name string) uint32 {
	if n, ok := c.numbers[name]; ok || name == "" {
		return n
	}
	if len(name) > maxClassName || len(c.numbers) == maxClasses {
		return 0
	}
	if c.numbers == nil {
		c.numbers = make(map[string]uint32)
	}
	n := uint32(len(c.numbers)) + 1
	c.numbers[name] = n
	c.raw = appendBytes(c.raw, []byte(name))
	return n
}

func (c *classTable) encode() []byte {
	return append(binary.AppendUvarint(nil, uint64(len(c.numbers))), c.raw...)
}

// DecodeClasses returns the names of classes that records are numbered by. The
// first one is "", for those whose class is unknown.
func (d *Directory) DecodeClasses(stored []byte) ([]string, error) {
	r, err := d.open(d.classes, stored, nil)
	if err != nil {
		return nil, err
	}
	n := r.Uvarint()
	if n > maxClasses || n > uint64(len(r.Rest())) {
		return nil, r.Corrupt("%d classes in %d bytes", n, len(r.Rest()))
	}
	classes := make([]string, 1, n+1)
	for range n {
		classes = append(classes, string(readBytes(r, maxClassName)))
	}
	return classes, r.End()
}
