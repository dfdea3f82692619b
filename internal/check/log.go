package check

import (
	"context"
	"fmt"
	"slices"

	"s3storage/internal/base"
	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
)

// walk reads the log as opening does.
func (c *check) walk(ctx context.Context) error {
	adopt := func(id txlog.BaseID) error {
		b, err := base.Read(ctx, c.bucket, c.format.Database, id)
		if err != nil {
			return err
		}
		if c.view != nil && b.Number <= c.view.Number {
			return nil
		}
		v, err := c.reader.View(ctx, b)
		if err == nil {
			c.view = v
			c.tail = slices.DeleteFunc(c.tail, func(t *txlog.Transaction) bool { return t.Tid <= b.Position.LastTid })
			c.report.Last = max(c.report.Last, b.Position.LastTid)
		}
		return err
	}
	_, err := txlog.Walk(ctx, c.bucket, c.format,
		func(at *txlog.Checkpoint) (err error) {
			c.view, c.tail, c.report.Last = nil, nil, 0
			if at != nil {
				return adopt(at.Base)
			}
			c.view, err = c.reader.View(ctx, &base.Base{Position: txlog.Start()})
			return err
		},
		func(o *txlog.Object, end txlog.Position) error {
			for _, entry := range o.Entries {
				if entry.Txn != nil {
					c.tail = append(c.tail, entry.Txn)
				}
				if entry.Base != nil {
					if err := adopt(entry.Base.ID); err != nil {
						return err
					}
				}
			}
			c.report.Last = max(c.report.Last, end.LastTid)
			return nil
		})
	cost := "no transaction can be read"
	if c.report.Last != 0 {
		cost = fmt.Sprintf("transactions after %s (%s) cannot be read", c.report.Last, when(c.report.Last))
	}
	return c.found(err, "", cost)
}

// changed tells whether the database has another base by now.
func (c *check) changed(ctx context.Context) bool {
	if c.format == nil {
		return false
	}
	now := &check{bucket: c.bucket, opts: c.opts, format: c.format, reader: c.reader, report: &Report{}}
	if now.walk(ctx) != nil || now.view == nil || c.view == nil {
		return false
	}
	return now.view.ID != c.view.ID
}

// checkpoints looks whether all are there, by the numbers that they have.
func (c *check) checkpoints(ctx context.Context) error {
	hinted := uint64(0)
	data, err := c.get(ctx, txlog.HeadName)
	if err == nil {
		hinted, err = txlog.HintedCheckpoint(data)
	}
	switch {
	case damaged(err):
		c.report.Warnings.add(txlog.HeadName, err.Error(), "the database opens more slowly until a server writes it again")
	case err != nil:
		return err
	}
	newest := hinted
	for name := range c.listed {
		var n uint64
		if _, err := fmt.Sscanf(name, txlog.CheckpointPrefix+"%x", &n); err == nil && name == txlog.CheckpointName(n) {
			newest = max(newest, n)
		}
	}
	for n := uint64(1); n <= newest && c.report.Damage.Count < maxFindings; n++ {
		if _, ok := c.listed[txlog.CheckpointName(n)]; !ok {
			c.report.Damage.add(txlog.CheckpointName(n), "it is missing", "newer checkpoints may not be found, and the database be taken for an older one")
		}
	}
	return nil
}

// get reads an object whole, again where the store could not be reached.
func (c *check) get(ctx context.Context, name string) (data []byte, err error) {
	err = bucket.Rereading(ctx, func() error {
		data, err = c.bucket.Get(ctx, name, txlog.MaxObjectSize)
		return err
	})
	return data, err
}

// payloads looks whether the payload objects of the tail are there.
func (c *check) payloads(ctx context.Context) error {
	for _, t := range c.tail {
		for _, id := range t.Payloads {
			c.needed[id.Name()] = struct{}{}
			if _, ok := c.listed[id.Name()]; !ok {
				c.report.Damage.add(id.Name(), "it is missing", fmt.Sprintf("data of transaction %s (%s) cannot be read", t.Tid, when(t.Tid)))
			}
		}
		if !c.opts.Full {
			continue
		}
		for i := range t.Records {
			if r := &t.Records[i]; r.Kind == txlog.RecordPayload {
				name := t.Payloads[r.Payload].Name()
				_, err := txlog.ReadRecord(ctx, c.bucket, name, r.Span, r.Oid)
				if err := c.found(err, name, fmt.Sprintf("object %s, revision %s cannot be read", r.Oid, t.Tid)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
