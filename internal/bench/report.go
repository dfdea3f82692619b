package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// A Report is the outcome of a whole benchmark, to be shown or to be read by a
// program.
type Report struct {
	Plan    Plan
	Figures *Figures
	Against *Figures  // of the other server, or nil
	Rounds  []float64 // the ratio of the rates in each round
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%s, %.1f s each\n\n", r.Plan.describe(), r.Figures.Elapsed.Seconds())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "server\t\tper second\tp50\tp90\tp99\tmax\t")
	writeServer(t, r.Plan.Address, r.Figures)
	if r.Against != nil {
		writeServer(t, r.Plan.Versus, r.Against)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if r.Against != nil {
		ratio := ratioOf(r.Rounds)
		fmt.Fprintf(w, "ratio %.2f (%.2f to %.2f in %d rounds)\n", ratio.Median, ratio.Min, ratio.Max, len(r.Rounds))
	}
	f := r.Figures
	if f.Stored > 0 {
		fmt.Fprintf(w, "%.0f objects/s, %.2f MB/s stored, %d conflicts\n",
			f.PerSecond(f.Stored), f.PerSecond(f.Stored*int64(r.Plan.Size))/1e6, f.Conflicts)
	}
	_, err := fmt.Fprintf(w, "the clients used %.2f processors, got %.0f invalidations/s\n",
		f.CPU.Seconds()/max(f.Elapsed.Seconds(), 1e-9), f.PerSecond(f.Told))
	return err
}

func writeServer(w io.Writer, address string, f *Figures) {
	for _, s := range []struct {
		name string
		h    *Histogram
	}{{"commits", &f.Commits}, {"loads", &f.Loads}, {"commits beside", &f.Beside}} {
		if n := s.h.Count(); n > 0 {
			fmt.Fprintf(w, "%s\t%s\t%.0f\t%s\t%s\t%s\t%s\t\n", address, s.name, f.PerSecond(n),
				short(s.h.Quantile(0.5)), short(s.h.Quantile(0.9)), short(s.h.Quantile(0.99)), short(s.h.Max()))
		}
	}
}

// short shows a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", ms(d))
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", ms(d))
	}
	return fmt.Sprintf("%.0f ms", ms(d))
}

// describe says what was done.
func (o *Options) describe() string {
	s := fmt.Sprintf("%s: %d clients", o.Workload, o.Clients)
	if o.Clients == 1 {
		s = fmt.Sprintf("%s: 1 client", o.Workload)
	}
	if o.Workload == Mixed {
		s += fmt.Sprintf(", %d loads before each commit", o.Reads)
	}
	switch o.Workload {
	case Load:
		s += fmt.Sprintf(", %d loads under way on each", o.Pipeline)
	case Upload, Download:
		s += fmt.Sprintf(", blobs of %d bytes", o.Size)
	default:
		s += fmt.Sprintf(", %d objects of %d bytes in a transaction", o.Objects, o.Size)
	}
	if o.Undone > 0 {
		s += fmt.Sprintf(", of objects that were changed, undone and done again %d times", o.Undone)
	}
	if o.Writers > 0 {
		s += fmt.Sprintf(", %d writers beside", o.Writers)
	}
	if o.Conflicting {
		s += ", one of them shared"
	}
	return s
}

// MarshalJSON gives everything, with the options under their flags' names.
func (r *Report) MarshalJSON() ([]byte, error) {
	type server struct {
		Address string   `json:"address"`
		Figures *Figures `json:"figures"`
	}
	var versus *server
	var ratio *Ratio
	if r.Against != nil {
		sum := ratioOf(r.Rounds)
		versus, ratio = &server{r.Plan.Versus, r.Against}, &sum
	}
	return json.Marshal(struct {
		Options
		Server server    `json:"server"`
		Versus *server   `json:"versus,omitempty"`
		Ratio  *Ratio    `json:"ratio,omitempty"`
		Rounds []float64 `json:"rounds,omitempty"`
	}{r.Plan.Options, server{r.Plan.Address, r.Figures}, versus, ratio, r.Rounds})
}
