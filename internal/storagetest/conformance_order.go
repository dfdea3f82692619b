package storagetest

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"s3storage/internal/zodb"
)

// observersHearInOrder lets several connections commit at once. Each hears of
// the others' commits and of its own, in the order of the tids.
func observersHearInOrder(h *harness) {
	const workers, each = 4, 12
	recorders := make([]*recorder, workers)
	var mu sync.Mutex
	var all []zodb.Tid
	var wg sync.WaitGroup
	for i := range recorders {
		recorders[i] = &recorder{}
		h.s.Subscribe(recorders[i])
	}
	for i, own := range recorders {
		wg.Go(func() {
			serial := zodb.NoTid
			for range each {
				txn, err := h.s.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, own)
				if err == nil {
					err = txn.Store(zodb.Oid(i+1), serial, []byte("x"))
				}
				if err == nil {
					_, err = txn.Vote(h.Context())
				}
				if err != nil {
					h.Error(err)
					return
				}
				done := make(chan error, 1)
				txn.Finish(func(c *zodb.Commit, err error) {
					if err == nil {
						serial = c.Tid
						own.Committed(c) // its own, at its place
						mu.Lock()
						all = append(all, c.Tid)
						mu.Unlock()
					}
					done <- err
				})
				if err := <-done; err != nil {
					h.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(all) != workers*each || !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		h.Errorf("done was called for %d transactions, not for %d in order", len(all), workers*each)
	}
	for i, r := range recorders {
		if heard := r.heard(); !slices.Equal(heard, all) {
			h.Errorf("observer %d heard %v of %v", i, heard, all)
		}
	}
}

func unsubscribed(h *harness) {
	stays, leaves := &recorder{}, &recorder{}
	h.s.Subscribe(stays)
	h.s.Subscribe(leaves)
	t1 := h.commit(change{1, 0, "a"})
	h.s.Unsubscribe(leaves)
	h.s.Unsubscribe(leaves)
	t2 := h.commit(change{1, t1, "b"})
	if got := stays.heard(); !slices.Equal(got, []zodb.Tid{t1, t2}) {
		h.Errorf("heard %v", got)
	}
	if got := leaves.heard(); !slices.Equal(got, []zodb.Tid{t1}) {
		h.Errorf("heard %v after leaving", got)
	}
	stays.mu.Lock()
	defer stays.mu.Unlock()
	if c := stays.mu.commits[0]; !slices.Equal(c.Oids, []zodb.Oid{1}) || c.Info.Objects != 1 {
		h.Errorf("heard %+v", c)
	}
}

// subscriptionIsAtomic subscribes while commits go on: each subscriber hears of
// exactly those after the tid that it was told.
func subscriptionIsAtomic(h *harness) {
	var stop atomic.Bool
	var all []zodb.Tid
	var wg sync.WaitGroup
	wg.Go(func() {
		serial := zodb.NoTid
		for n := 0; n < 2000 && !stop.Load(); n++ {
			txn := h.beginWith(change{1, serial, "x"})
			if _, err := txn.Vote(h.Context()); err != nil {
				h.Error(err)
				return
			}
			c, err := await(txn)
			if err != nil {
				h.Error(err)
				return
			}
			serial = c.Tid
			all = append(all, serial)
		}
	})
	starts := map[*recorder]zodb.Tid{}
	for range 40 {
		r := &recorder{}
		starts[r] = h.s.Subscribe(r)
		time.Sleep(time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	for r, start := range starts {
		i, found := slices.BinarySearch(all, start)
		if found {
			i++
		} else if start != zodb.NoTid {
			h.Errorf("subscribed at %s, which is no transaction", start)
			continue
		}
		if heard := r.heard(); !slices.Equal(heard, all[i:]) {
			h.Errorf("subscribed at %s, heard %d of %d", start, len(heard), len(all[i:]))
		}
	}
}

// visibilityIsAnnounced loads while commits go on. What was announced before the
// load has to be seen, and what is seen has to have been announced.
func visibilityIsAnnounced(h *harness) {
	r := &recorder{}
	first := h.commit(change{1, 0, "x"})
	h.s.Subscribe(r)
	serial := first
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				before := max(r.newest(), first)
				rev, ok, err := h.s.LoadBefore(h.Context(), 1, zodb.MaxTid)
				after := max(r.newest(), first)
				if err != nil || !ok || rev.Next != zodb.NoTid {
					h.Errorf("%v %v %v", rev, ok, err)
					return
				}
				if rev.Serial < before {
					h.Errorf("a load after the announcement of %s sees %s", before, rev.Serial)
					return
				}
				if rev.Serial > after {
					h.Errorf("a load sees %s, of which only %s was announced", rev.Serial, after)
					return
				}
			}
		})
	}
	for range 200 {
		serial = h.commit(change{1, serial, "x"})
	}
	stop.Store(true)
	wg.Wait()
}
