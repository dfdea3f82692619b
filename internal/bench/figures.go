package bench

import (
	"encoding/json"
	"time"
)

// Figures are what was measured in one or more runs against one server.
type Figures struct {
	Elapsed   time.Duration // measured time
	Commits   Histogram     // from tpc_begin to the reply to tpc_finish, repeats after conflicts included
	Loads     Histogram
	Beside    Histogram     // commits of Options.Writers
	Stored    int64         // objects committed
	Conflicts int64         // votes that had to be repeated
	Told      int64         // invalidations received
	CPU       time.Duration // used by this process, the client side of it all
}

// Add adds the figures of another run.
func (f *Figures) Add(other *Figures) {
	f.Elapsed += other.Elapsed
	f.CPU += other.CPU
	f.addWork(other)
}

// addWork adds what another client did in the same run.
func (f *Figures) addWork(other *Figures) {
	f.Commits.Merge(&other.Commits)
	f.Loads.Merge(&other.Loads)
	f.Beside.Merge(&other.Beside)
	f.Stored += other.Stored
	f.Conflicts += other.Conflicts
	f.Told += other.Told
}

// PerSecond returns n in relation to the measured time.
func (f *Figures) PerSecond(n int64) float64 {
	if f.Elapsed <= 0 {
		return 0
	}
	return float64(n) / f.Elapsed.Seconds()
}

// count returns how many commits there were, or loads where nothing was
// committed.
func (f *Figures) count() int64 {
	if n := f.Commits.Count(); n > 0 {
		return n
	}
	return f.Loads.Count()
}

// Rate returns commits per second, or loads per second where nothing was
// committed.
func (f *Figures) Rate() float64 { return f.PerSecond(f.count()) }

type jsonSeries struct {
	Count     int64   `json:"count"`
	PerSecond float64 `json:"per_second"`
	MeanMs    float64 `json:"mean_ms"`
	P50Ms     float64 `json:"p50_ms"`
	P90Ms     float64 `json:"p90_ms"`
	P99Ms     float64 `json:"p99_ms"`
	MaxMs     float64 `json:"max_ms"`
}

func (f *Figures) series(h *Histogram) *jsonSeries {
	if h.Count() == 0 {
		return nil
	}
	return &jsonSeries{
		h.Count(), f.PerSecond(h.Count()), ms(h.Mean()),
		ms(h.Quantile(0.5)), ms(h.Quantile(0.9)), ms(h.Quantile(0.99)), ms(h.Max()),
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// MarshalJSON gives times in milliseconds, and only the series that there are.
func (f *Figures) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Seconds       float64     `json:"seconds"`
		Commits       *jsonSeries `json:"commits,omitempty"`
		Loads         *jsonSeries `json:"loads,omitempty"`
		Beside        *jsonSeries `json:"commits_beside,omitempty"`
		Stored        int64       `json:"objects_stored,omitempty"`
		Conflicts     int64       `json:"conflicts,omitempty"`
		Invalidations int64       `json:"invalidations,omitempty"`
		ClientCPU     float64     `json:"client_cpu_seconds"`
	}{f.Elapsed.Seconds(), f.series(&f.Commits), f.series(&f.Loads), f.series(&f.Beside), f.Stored, f.Conflicts, f.Told, f.CPU.Seconds()})
}
