package simulation

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"s3storage/internal/node"
	"s3storage/internal/zodb"
)

var (
	simSeeds = flag.Int("sim.seeds", 50, "how many schedules are run")
	simFirst = flag.Uint64("sim.first", 1, "the seed of the first one")
	simSeed  = flag.Uint64("sim.seed", 0, "run only the schedule of this seed, and show what the nodes say")
)

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
		for i := range runtime.GOMAXPROCS(0) {
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

func TestSimulationFindsTheMistakesOfNodes(t *testing.T) {
	format() // not in virtual time
	for _, c := range []struct {
		mistake string
		weak    weakness
		finds   string
	}{
		{"puts without an answer are trusted", weakness{puts: trusting}, "is lost"},
		{"acknowledged when queued", weakness{serve: func(n *node.Node) zodb.Storage { return hasty{n} }}, "is lost"},
		{"registers at once", weakness{serve: func(n *node.Node) zodb.Storage { return forward{n} }}, "is the last transaction, though"},
		{"oids from 1 on", weakness{serve: func(n *node.Node) zodb.Storage { return generous{n, new(atomic.Uint64)} }}, "was given before"},
		{"invalidations get lost", weakness{serve: func(n *node.Node) zodb.Storage {
			return forgetful{n, new(sync.Mutex), map[zodb.Observer]*forgetting{}}
		}}, "from its cache true"},
		{"the newest state", weakness{serve: func(n *node.Node) zodb.Storage { return modern{n} }}, "from its cache false"},
	} {
		t.Run(c.mistake, func(t *testing.T) {
			t.Parallel()
			found := ""
			for seed := uint64(1); seed <= 1000 && found == ""; seed++ {
				synctest.Test(t, func(t *testing.T) {
					for _, p := range simulate(t, seed, c.weak, io.Discard).history.mu.problems {
						if strings.Contains(p, c.finds) {
							found = fmt.Sprintf("seed %d: %s", seed, p)
						}
					}
				})
			}
			if found == "" {
				t.Error("it was not found in 1000 schedules")
			}
			t.Log(found)
		})
	}
}
