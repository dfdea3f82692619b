package simulation

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

var (
	simSeeds = flag.Int("sim.seeds", 100, "how many schedules are run")
	simFirst = flag.Uint64("sim.first", 1, "the seed of the first one")
	simSeed  = flag.Uint64("sim.seed", 0, "run only the schedule of this seed, and show what the nodes say")
)

// workers is how many schedules are run at a time.
const workers = 2

func TestClientsSeeOneOrderInAnySchedule(t *testing.T) {
	format() // not in virtual time
	seeds := make(chan uint64)
	log := io.Discard
	if *simSeed != 0 {
		*simFirst, *simSeeds = *simSeed, 1
		log = t.Output()
	}
	var mu sync.Mutex
	counts := map[string]int{}
	t.Run("schedules", func(t *testing.T) {
		for i := range workers {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for seed := range seeds {
					t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							w := simulate(t, seed, weakness{}, log)
							for _, p := range w.history.mu.problems {
								t.Error(p)
							}
							if t.Failed() {
								t.Logf("go test ./internal/simulation -run AnySchedule -v -sim.seed=%d", seed)
							}
							mu.Lock()
							defer mu.Unlock()
							for what, n := range w.history.mu.counts {
								counts[what] += n
							}
						})
					})
				}
			})
		}
		go func() {
			for i := range uint64(*simSeeds) {
				seeds <- *simFirst + i
			}
			close(seeds)
		}()
	})
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%s: %d", what, counts[what])
	}
}
