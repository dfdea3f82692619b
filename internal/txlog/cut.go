package txlog

import (
	"context"
	"slices"

	"s3storage/internal/bucket"
)

// Cut takes the log of a database back to what can be read without a gap, for one
// that has lost objects of its log for ever: it deletes the hint, and all log objects
// behind the first free slot, the last ones first. It returns their names. Their
// transactions are lost. Nobody may write to the bucket meanwhile.
func Cut(ctx context.Context, b bucket.Bucket, f *Format) (cut []string, err error) {
	w := &walker{
		home:  home{b, f.Database, parallel},
		reset: func(context.Context, *Checkpoint) error { return nil },
		apply: func(context.Context, *Object, Position) error { return nil },
	}
	if err := w.begin(ctx); err != nil {
		return nil, err
	}
	for found := true; found; { // the hint may be an old one
		if found, err = w.look(ctx); err != nil {
			return nil, err
		}
	}
	if err := w.walk(ctx); err != nil {
		return nil, err
	}
	err = bucket.Rereading(ctx, func() error {
		cut = nil
		return b.List(ctx, Prefix, "", func(i bucket.Info) error {
			if e, s, ok := parseName(i.Name); ok && s >= w.p.Slot && e >= w.p.Epoch {
				cut = append(cut, i.Name)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	doomed := append(slices.Clone(cut), HeadName)
	for _, name := range slices.Backward(doomed) {
		if err := bucket.Rereading(ctx, func() error { return b.Delete(ctx, name) }); err != nil {
			return nil, err
		}
	}
	return cut, nil
}
