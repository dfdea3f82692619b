package engine

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"s3storage/internal/zodb"
)

// A PackReport is what a pack would drop.
type PackReport struct {
	Tid       zodb.Tid
	Classes   []PackedClass // those that take up most come first
	Blobs     int64         // how many blobs
	BlobBytes int64
}

// A PackedClass is what it would drop of one class.
type PackedClass struct {
	Class     string // empty where it is not known
	Revisions int64  // how many in all
	Objects   int64  // how many objects, which are garbage
	Bytes     int64  // of data, before compression
}

// PlanPack finds what a pack to that time would drop, and drops nothing.
func (e *Engine) PlanPack(ctx context.Context, tid zodb.Tid) (*PackReport, error) {
	e.state.RLock()
	v, behind := e.state.view, slices.Concat(e.txnsLocked()...)
	tid = min(tid, e.state.last)
	e.state.RUnlock()
	r := &PackReport{Tid: tid}
	if tid <= v.Packed {
		return r, nil
	}
	p, err := newPlan(ctx, v, e.inSegments(ctx, behind), tid, !e.opts.NoPackGC, &progress{log: e.opts.Logger})
	if err != nil {
		return nil, err
	}
	defer p.close()
	r.Blobs, r.BlobBytes = int64(len(p.blobs)), p.blobsOf
	for class, d := range p.byClass {
		r.Classes = append(r.Classes, PackedClass{class, d.Revisions, d.Objects, d.Bytes})
	}
	slices.SortFunc(r.Classes, func(a, b PackedClass) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Class, b.Class))
	})
	return r, nil
}

// progressEvery is how often progress is told.
const progressEvery = 10 * time.Second

// progress tells how far a long work has come.
type progress struct {
	log   *slog.Logger
	stage string
	start time.Time // of the stage
	begun int64     // what was done by then
	told  time.Time
}

// tell is called often, and logs now and then.
func (p *progress) tell(stage string, done, total int64) {
	if p == nil {
		return
	}
	now := time.Now()
	if stage != p.stage {
		p.stage, p.start, p.begun, p.told = stage, now, done, now
	}
	if now.Sub(p.told) < progressEvery || done <= p.begun {
		return
	}
	p.told = now
	left := time.Duration(float64(now.Sub(p.start)) * float64(total-done) / float64(done-p.begun))
	p.log.Info("packing: "+stage, "percent", 100*done/max(total, 1), "left", max(left, 0).Round(time.Second))
}
