package base

import (
	"context"
	"slices"
)

// ReadDirectories reads the directories of tables and segments that are not in memory,
// so that loads need not: those of the newest segments, until they take limit bytes of
// memory.
func (v *View) ReadDirectories(ctx context.Context, limit uint64) error {
	for _, t := range v.tables {
		if err := ctx.Err(); err != nil { // else what was begun goes on
			return err
		}
		if _, err := v.r.leaves(ctx, t); err != nil {
			return err
		}
	}
	used := uint64(0)
	for _, s := range slices.Backward(v.segs) {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir, err := v.r.directory(ctx, s)
		if err != nil {
			return err
		}
		if used += uint64(dir.Weight()); used >= limit {
			break
		}
	}
	return nil
}
