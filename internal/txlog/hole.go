package txlog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// checkFree is called where the walk has found a free slot. That is the end of
// the log, unless something shows that the slot had been filled. Then a leader
// has filled it just now, or its object was deleted below a newer checkpoint,
// where the walk has begun anew: then it has to go on. Or the object was lost,
// which is an error.
//
// Unless it is to be thorough, it only asks for the two objects that would most
// likely stand behind a hole, and looks further if there is one.
func (w *walker) checkFree(ctx context.Context, thorough bool) (again bool, err error) {
	shown := ""
	switch {
	case w.head.Settled >= w.p.Slot:
		shown = HeadName
	case !thorough:
		if near, err := w.near(ctx); err != nil || !near {
			return false, err
		}
	}
	if shown == "" {
		if shown, err = w.witness(ctx); err != nil || shown == "" {
			return false, err
		}
	}
	free := Name(w.p.Epoch, w.p.Slot)
	if _, err = w.readObject(ctx, free); !errors.Is(err, bucket.ErrNotExist) {
		return true, nil // the walk will see what it is
	}
	if found, err := w.look(ctx); err != nil || found {
		return true, err
	}
	return false, fmt.Errorf("reading the log of %s: %s is missing, but %s shows that it was there: the log is %w; "+
		"restore the object from a copy of the bucket (its versions or replica); no transaction from slot %d on can be read without it",
		w.location(), free, shown, zodb.ErrCorrupt, w.p.Slot)
}

// near tells whether there is anything in the next slot, of this epoch or, if it
// was a seal that is missing, of the next one.
func (w *walker) near(ctx context.Context) (bool, error) {
	names := []string{Name(w.p.Epoch, w.p.Slot+1), Name(w.p.Epoch+1, w.p.Slot+1)}
	there := make([]bool, len(names))
	var g errgroup.Group
	g.SetLimit(w.atOnce)
	for i, name := range names {
		g.Go(func() error {
			err := bucket.Rereading(ctx, func() error {
				_, err := w.bucket.GetRange(ctx, name, 0, headerSize)
				return err
			})
			if there[i] = err == nil; errors.Is(err, bucket.ErrNotExist) {
				err = nil
			}
			return err
		})
	}
	err := g.Wait()
	return slices.Contains(there, true), err
}

// maxWitnesses is how many objects behind a free slot are asked whether it had
// been filled: more than a leader has under way at a time, and some seals.
const maxWitnesses = 64

// witness returns the name of an object which shows that the slot in which the
// walk is was filled, or nothing: one of a later slot, of this or a later epoch,
// whose writer knew that.
func (w *walker) witness(ctx context.Context) (shown string, err error) {
	var behind []string
	err = bucket.Rereading(ctx, func() error {
		behind = nil
		return w.bucket.List(ctx, Prefix, Name(w.p.Epoch, w.p.Slot), func(i bucket.Info) error {
			if _, s, ok := parseName(i.Name); ok && s > w.p.Slot {
				behind = append(behind, i.Name)
			}
			return nil
		})
	})
	if err != nil {
		return "", err
	}
	// The last ones know most.
	behind = behind[max(0, len(behind)-maxWitnesses):]
	says := make([]bool, len(behind))
	var g errgroup.Group
	g.SetLimit(w.atOnce)
	for i, name := range behind {
		g.Go(func() error {
			// One that cannot be read was left behind by a leader that died,
			// or is damaged where it does not matter.
			o, err := w.readObject(ctx, name)
			says[i] = err == nil && o.Settled >= w.p.Slot
			return nil
		})
	}
	_ = g.Wait()
	if i := slices.Index(says, true); i >= 0 {
		shown = behind[i]
	}
	return shown, context.Cause(ctx)
}
