package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"s3storage/internal/base"
	"s3storage/internal/blob"
	"s3storage/internal/bucket"
	"s3storage/internal/segment"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// files checks the files of a base, each once.
func (c *check) files(ctx context.Context, v *base.View) error {
	if v.Number > 0 {
		c.needed[base.Name(v.ID)] = struct{}{}
	}
	for i := range v.Segments {
		s := &v.Segments[i]
		cost := span(s.First, s.End()) + " cannot be read"
		if c.file(s.ID.Name(), s.Size, s.Origin, cost) {
			if err := c.found(c.segment(ctx, v, i), s.ID.Name(), cost); err != nil {
				return err
			}
		}
	}
	for i := range v.Tables {
		t := &v.Tables[i]
		cost := "what " + span(t.First, t.End()) + " changed cannot be found"
		if c.file(t.ID.Name(), t.Size, t.Origin, cost) {
			check := v.OpenTable
			if c.opts.Full {
				check = v.CheckTable
			}
			if err := c.found(check(ctx, i), t.ID.Name(), cost); err != nil {
				return err
			}
		}
	}
	return nil
}

// rewritten checks what a pack that has not ended has made of segments.
func (c *check) rewritten(ctx context.Context) error {
	v, err := c.viewRewritten(ctx, c.view.Base)
	if err != nil {
		return err
	}
	for i := range v.Segments {
		s := &v.Segments[i]
		cost := "nothing is lost, but the next pack would use it; when it is gone, that pack writes it anew"
		if c.file(s.ID.Name(), s.Size, s.Origin, cost) {
			if err := c.found(c.segment(ctx, v, i), s.ID.Name(), cost); err != nil {
				return err
			}
		}
	}
	return nil
}

// viewRewritten returns a view that has nothing but what rewrites of a base became.
func (c *check) viewRewritten(ctx context.Context, b *base.Base) (*base.View, error) {
	return c.reader.View(ctx, &base.Base{ID: b.ID, Segments: b.Rewritten()})
}

// segment checks one segment.
func (c *check) segment(ctx context.Context, v *base.View, i int) error {
	if c.opts.Full {
		return v.CheckSegment(ctx, i)
	}
	return v.OpenSegment(ctx, i)
}

// file tells whether a file is to be read: it was not yet, and is there.
func (c *check) file(name string, size int64, origin uint32, cost string) bool {
	if _, again := c.needed[name]; again {
		return false
	}
	c.needed[name] = struct{}{}
	if origin != 0 {
		return true // it is in another bucket
	}
	there, ok := c.listed[name]
	switch {
	case !ok:
		c.report.Damage.add(name, "it is missing", cost)
	case there != size:
		c.report.Damage.add(name, fmt.Sprintf("it has %d bytes, not %d", there, size), cost)
	}
	return ok && there == size
}

// snapshots checks the bases of snapshots.
func (c *check) snapshots(ctx context.Context) error {
	for _, s := range c.view.Snapshots {
		c.needed[base.Name(s.Base)] = struct{}{}
		cost := fmt.Sprintf("snapshot %q cannot be read", s.Name)
		b, err := base.Read(ctx, c.bucket, c.format.Database, s.Base)
		var v *base.View
		if err == nil {
			v, err = c.reader.View(ctx, b)
		}
		if err == nil {
			c.pinned = append(c.pinned, v)
			err = c.files(ctx, v)
		}
		if err := c.found(err, base.Name(s.Base), cost); err != nil {
			return err
		}
	}
	return nil
}

// objects reads every object that no base lists.
func (c *check) objects(ctx context.Context) error {
	for _, name := range c.names() {
		isBase := strings.HasPrefix(name, base.Prefix)
		if !isBase && name != txlog.HeadName && !slices.ContainsFunc(
			[]string{txlog.Prefix, txlog.CheckpointPrefix, txlog.PayloadPrefix}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		var err error
		if isBase {
			err = c.anyBase(ctx, name)
		} else {
			err = bucket.Rereading(ctx, func() error {
				data, err := c.bucket.Get(ctx, name, txlog.MaxObjectSize)
				if err == nil {
					_, err = txlog.CheckObject(name, c.format.Database, data)
				}
				return err
			})
		}
		switch {
		case damaged(err) && (name == txlog.HeadName || c.deleted(ctx, name)): // the hint is among the warnings
		case damaged(err):
			c.report.Damage.add(name, err.Error(), "")
		case err != nil:
			return err
		}
	}
	return nil
}

// anyBase checks a base, and those of its files that are still there. Its
// damage to them is that of a base which is kept for a while only.
func (c *check) anyBase(ctx context.Context, name string) error {
	var id txlog.BaseID
	var extra string
	var raw []byte
	if n, _ := fmt.Sscanf(name, base.Prefix+"%x%s", &raw, &extra); n != 1 || len(raw) != len(id) {
		return nil // a stray
	}
	copy(id[:], raw)
	b, err := base.Read(ctx, c.bucket, c.format.Database, id)
	if err != nil {
		return err
	}
	v, err := c.reader.View(ctx, b)
	if err != nil {
		return err
	}
	rewritten, err := c.viewRewritten(ctx, b)
	if err != nil {
		return err
	}
	for _, v := range []*base.View{v, rewritten} {
		for i := range v.Segments {
			if c.left(v.Segments[i].ID.Name(), v.Segments[i].Origin) {
				if err := c.foundLeft(ctx, v.CheckSegment(ctx, i), v.Segments[i].ID.Name()); err != nil {
					return err
				}
			}
		}
	}
	for i := range v.Tables {
		if c.left(v.Tables[i].ID.Name(), v.Tables[i].Origin) {
			if err := c.foundLeft(ctx, v.CheckTable(ctx, i), v.Tables[i].ID.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// foundLeft is found for a file that the database does not need.
func (c *check) foundLeft(ctx context.Context, err error, name string) error {
	if damaged(err) && c.deleted(ctx, name) {
		return nil
	}
	return c.found(err, name, "the database does not need it any more")
}

// deleted tells whether a server has deleted an object since it was listed. Those
// that are needed are looked for elsewhere.
func (c *check) deleted(ctx context.Context, name string) bool {
	_, needed := c.needed[name]
	_, err := c.bucket.GetRange(ctx, name, 0, 1)
	return !needed && errors.Is(err, bucket.ErrNotExist)
}

// left tells whether a file is there that the database does not need.
func (c *check) left(name string, origin uint32) bool {
	_, needed := c.needed[name]
	_, there := c.listed[name]
	return origin == 0 && there && !needed
}

// names returns the names of all objects, in order.
func (c *check) names() []string {
	names := make([]string, 0, len(c.listed))
	for name := range c.listed {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// allBlobs reads the blobs that revisions refer to.
func (c *check) allBlobs(ctx context.Context) error {
	if c.view == nil {
		return nil
	}
	seen := make(map[segment.ID]struct{})
	for n, v := range append([]*base.View{c.view}, c.pinned...) {
		for i := range v.Segments {
			id := v.Segments[i].ID
			if _, again := seen[id]; again {
				continue
			}
			seen[id] = struct{}{}
			err := v.Scan(ctx, i, segment.HeadersOnly, func(t *segment.Txn) error {
				for i := range t.Records {
					if err := c.blob(ctx, v, t.Records[i].Blob, t.Records[i].Oid, t.Tid); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil && !damaged(err) { // damage is known from before
				return err
			}
		}
		if n == 0 && c.report.Damage.Count == 0 && c.blobBytes != v.BlobBytes {
			c.report.Warnings.add(baseName(v), fmt.Sprintf("it says that blobs have %d bytes, they have %d", v.BlobBytes, c.blobBytes),
				"only the size that is shown is wrong")
		}
	}
	for _, t := range c.tail {
		for i := range t.Records {
			if err := c.blob(ctx, c.view, t.Records[i].Blob, t.Records[i].Oid, t.Tid); err != nil {
				return err
			}
		}
	}
	return nil
}

// blob reads a blob, if there is one and it was not read yet.
func (c *check) blob(ctx context.Context, v *base.View, ref *blob.Ref, oid zodb.Oid, tid zodb.Tid) error {
	if ref == nil {
		return nil
	}
	if _, again := c.blobs[ref.ID]; again {
		return nil
	}
	c.blobs[ref.ID] = struct{}{}
	c.blobBytes += ref.Size
	name := ref.ID.Name()
	c.needed[name] = struct{}{}
	cost := fmt.Sprintf("the blob of object %s, revision %s (%s) cannot be read", oid, tid, when(tid))
	if size, ok := c.listed[name]; ok && size != blob.ObjectSize(ref.Size) {
		c.report.Damage.add(name, fmt.Sprintf("it has %d bytes, not %d", size, blob.ObjectSize(ref.Size)), cost)
		return nil
	}
	r, err := v.Blob(ctx, ref)
	if err != nil {
		return c.found(err, name, cost)
	}
	defer func() { _ = r.Close() }() // never fails
	_, err = io.Copy(io.Discard, r)
	return c.found(err, name, cost)
}

// strays counts what nothing needs.
func (c *check) strays() {
	for _, name := range c.names() {
		_, needed := c.needed[name]
		prefix, _, in := strings.Cut(name, "/")
		switch {
		case needed, name == txlog.FormatName, name == txlog.HeadName, name == txlog.ClaimName, strings.HasPrefix(name, bucket.ProbePrefix),
			strings.HasPrefix(name, txlog.Prefix), strings.HasPrefix(name, txlog.CheckpointPrefix):
			continue
		case in:
			prefix += "/"
		}
		n := len(c.report.Strays)
		if n == 0 || c.report.Strays[n-1].Prefix != prefix {
			c.report.Strays = append(c.report.Strays, Strays{Prefix: prefix})
			n++
		}
		c.report.Strays[n-1].Objects++
		c.report.Strays[n-1].Bytes += c.listed[name]
	}
}
