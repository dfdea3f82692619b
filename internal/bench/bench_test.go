package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"s3storage/internal/storagetest"
	"s3storage/internal/zeo"
	"s3storage/internal/zodb"
)

// serve serves a new storage in memory until the test ends.
func serve(t testing.TB) (address string, storage *storagetest.Memory) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "zeo.sock"))
	if err != nil {
		t.Fatal(err)
	}
	storage = storagetest.NewMemory("memory", time.Now, storagetest.References)
	s := zeo.NewServer(map[string]zodb.Storage{"1": storage}, zeo.Options{Logger: slog.New(slog.DiscardHandler)})
	served := make(chan error)
	go func() { served <- s.Serve(l, zeo.Access{}) }()
	t.Cleanup(func() {
		s.Shutdown(context.Background())
		<-served
	})
	return l.Addr().String(), storage
}

// plan is a small one that only its count ends.
func plan(address string, workload Workload) Plan {
	return Plan{
		Address:  address,
		Duration: time.Hour,
		Count:    50,
		Options: Options{
			Workload:   workload,
			Clients:    4,
			Pipeline:   8,
			Objects:    3,
			Reads:      5,
			Size:       500,
			WorkingSet: 250,
		},
	}
}

func TestWorkloadsStopAtTheirCount(t *testing.T) {
	for _, tt := range []struct {
		workload       Workload
		commits, loads int64
		stored         int64 // objects
		before         int64 // objects that were written to be loaded
	}{
		{Fill, 50, 0, 150, 0},
		{Load, 0, 50, 0, 250},
		{Mixed, 50, 250, 150, 250},
		{Upload, 50, 0, 50, 0},
		{Download, 0, 50, 0, 1},
	} {
		t.Run(string(tt.workload), func(t *testing.T) {
			address, storage := serve(t)
			r, err := Measure(t.Context(), plan(address, tt.workload))
			if err != nil {
				t.Fatal(err)
			}
			f := r.Figures
			if f.Commits.Count() != tt.commits || f.Loads.Count() != tt.loads || f.Stored != tt.stored {
				t.Errorf("%d commits, %d loads, %d objects stored", f.Commits.Count(), f.Loads.Count(), f.Stored)
			}
			if n := storage.Info().Objects; n != tt.before+tt.stored {
				t.Errorf("%d objects", n)
			}
		})
	}
}

func TestCommitsOfDifferentClientsDoNotConflict(t *testing.T) {
	address, storage := serve(t)
	p := plan(address, Commit)
	p.WorkingSet = 20 // five objects each, so that they go round
	r, err := Measure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if r.Figures.Commits.Count() != 50 || r.Figures.Conflicts != 0 {
		t.Errorf("%d commits, %d conflicts", r.Figures.Commits.Count(), r.Figures.Conflicts)
	}
	if n := storage.Info().Objects; n > 20 {
		t.Errorf("%d objects", n)
	}
}

func TestConflictingCommitsAreTriedAgain(t *testing.T) {
	address, storage := serve(t)
	p := plan(address, Commit)
	p.Conflicting = true
	r, err := Measure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	// Every client but the one that made the shared object begins with a
	// wrong serial.
	if r.Figures.Commits.Count() != 50 || r.Figures.Conflicts < 1 {
		t.Errorf("%d commits, %d conflicts", r.Figures.Commits.Count(), r.Figures.Conflicts)
	}
	if n := storage.Stats().Commits; n != 50+1 {
		t.Errorf("the storage has seen %d commits", n)
	}
}

func TestLoadsGoOnBesideWritersThatStoreBlobsAndUndo(t *testing.T) {
	address, storage := serve(t)
	p := plan(address, Load)
	p.Writers, p.Undone, p.Count = 3, 2, 0
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // once each writer has come to its undo
		for storage.Stats().Commits < 200 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	r, err := Measure(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	f := r.Figures
	if f.Loads.Count() == 0 || f.Beside.Count() < 100 || f.Commits.Count() != 0 || f.count() != f.Loads.Count() {
		t.Errorf("%d loads, %d commits beside, %d counted", f.Loads.Count(), f.Beside.Count(), f.count())
	}
	// Of a hundred objects a transaction: written twice, and four times undone.
	if n := storage.Stats().Commits - f.Beside.Count(); n < 3*6 {
		t.Errorf("%d commits before", n)
	}
	blobs := 0
	for it := storage.Iterate(0, zodb.MaxTid); ; {
		info, err := it.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for records := it.Records(); ; {
			rec, err := records.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if b, err := storage.LoadBlob(t.Context(), rec.Oid, info.Tid); err == nil {
				blobs++
				if n, err := io.Copy(io.Discard, b); n != writersBlobSize || err != nil {
					t.Errorf("a blob of %d bytes, %v", n, err)
				}
				b.Close()
			}
		}
	}
	if blobs < p.Writers {
		t.Errorf("%d blobs", blobs)
	}
}

func TestExistingObjectsAreLoadedAndNothingWritten(t *testing.T) {
	address, storage := serve(t)
	if _, err := Measure(t.Context(), plan(address, Fill)); err != nil {
		t.Fatal(err)
	}
	commits := storage.Stats().Commits
	storage.SetReadOnly(zodb.ErrReadOnly)
	p := plan(address, Load)
	p.Existing = true
	r, err := Measure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Figures.Loads.Count(); n == 0 || n > 50 || storage.Stats().Commits != commits {
		t.Errorf("%d loads, %d commits", r.Figures.Loads.Count(), storage.Stats().Commits-commits)
	}
}

func TestTwoServersAreComparedByTurns(t *testing.T) {
	one, _ := serve(t)
	two, _ := serve(t)
	p := plan(one, Commit)
	p.Versus, p.Slice, p.Duration, p.Count = two, 5*time.Millisecond, 20*time.Millisecond, 0
	r, err := Measure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rounds) != 4 || r.Figures.Elapsed < p.Duration || r.Against.Elapsed < p.Duration {
		t.Errorf("rounds %v in %s and %s", r.Rounds, r.Figures.Elapsed, r.Against.Elapsed)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{one, two, "p99", "ratio ", "4 rounds"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &text)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Clients int
		Server  struct {
			Figures struct {
				Commits struct {
					Count int64
					P50   float64 `json:"p50_ms"`
				}
			}
		}
		Versus struct{ Address string }
		Ratio  Ratio
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Clients != 4 || got.Versus.Address != two || got.Ratio != ratioOf(r.Rounds) ||
		got.Server.Figures.Commits.Count != r.Figures.Commits.Count() || got.Server.Figures.Commits.P50 <= 0 {
		t.Errorf("%s", b)
	}
}

func TestAnInterruptedBenchmarkReportsWhatItHas(t *testing.T) {
	address, storage := serve(t)
	for _, workload := range []Workload{Commit, Load, Mixed, Upload} {
		ctx, cancel := context.WithCancel(t.Context())
		before := storage.Stats()
		go func() { // once the clients are at work
			for s := before; s.Loads+s.Commits < before.Loads+before.Commits+100; s = storage.Stats() {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		p := plan(address, workload)
		p.Count = 0
		r, err := Measure(ctx, p)
		if err != nil || r == nil || r.Figures.count() == 0 {
			t.Errorf("%s: %v", workload, err)
			continue
		}
		if err := r.WriteText(io.Discard); err != nil {
			t.Error(err)
		}
	}
}

func TestAServerThatGoesAwayIsAnError(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "zeo.sock"))
	if err != nil {
		t.Fatal(err)
	}
	storage := storagetest.NewMemory("memory", time.Now, storagetest.References)
	s := zeo.NewServer(map[string]zodb.Storage{"1": storage}, zeo.Options{Logger: slog.New(slog.DiscardHandler)})
	go s.Serve(l, zeo.Access{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	go func() {
		for storage.Stats().Commits < 20 {
			time.Sleep(time.Millisecond)
		}
		s.Shutdown(ctx)
	}()
	p := plan(l.Addr().String(), Commit)
	p.Count = 0
	r, err := Measure(t.Context(), p)
	if err == nil || r == nil {
		t.Errorf("%v %v", r, err)
	}
}

func TestPlansThatCannotWorkAreRefused(t *testing.T) {
	for _, change := range []func(*Plan){
		func(p *Plan) { p.Clients = 0 },
		func(p *Plan) { p.Objects = 0 },
		func(p *Plan) { p.WorkingSet = 0 },
		func(p *Plan) { p.Pipeline = 0 },
		func(p *Plan) { p.Pipeline = MaxPipeline + 1 },
		func(p *Plan) { p.Existing = true },
		func(p *Plan) { p.Writers = 1 },
		func(p *Plan) { p.Workload, p.Writers = Load, -1 },
		func(p *Plan) { p.Workload, p.Writers = Load, p.WorkingSet+1 },
		func(p *Plan) { p.Workload, p.Writers, p.Existing = Load, 1, true },
	} {
		p := plan("/nowhere", Commit)
		change(&p)
		if _, err := Measure(t.Context(), p); err == nil || strings.Contains(err.Error(), "nowhere") {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestRecordsAreOfTheSizeAskedFor(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, size := range []int{minRecord, 100, 1000, 70_000, proseSize + 1} {
		b := appendRecord(nil, r, size)
		if len(b) != size {
			t.Errorf("%d bytes, not %d", len(b), size)
		}
		again := appendRecord(nil, r, size)
		if size > minRecord && bytes.Equal(b, again) {
			t.Errorf("two records of %d bytes are the same", size)
		}
		state := b[strings.Index(recordHead, "q\x00.")+3:]
		d, err := zeo.UnpickleDict(state)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := d.Get("data")
		text, _ := data.(zeo.Dict).Get("text")
		if len(text.(string)) != size-minRecord {
			t.Errorf("a text of %d bytes in a record of %d", len(text.(string)), size)
		}
	}
	if n := len(appendRecord(nil, r, 0)); n != minRecord {
		t.Errorf("%d bytes at least, not %d", n, minRecord)
	}
}

func TestHistogramQuantilesAreWithinTwoPercent(t *testing.T) {
	var h, even, odd Histogram
	for i := 1; i <= 100_000; i++ {
		d := time.Duration(i) * time.Microsecond
		h.Add(d)
		if i%2 == 0 {
			even.Add(d)
		} else {
			odd.Add(d)
		}
	}
	even.Merge(&odd)
	for _, h := range []*Histogram{&h, &even} {
		for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
			want := q * 100_000
			if got := float64(h.Quantile(q)) / 1000; got < want || got > want*1.016 {
				t.Errorf("quantile %v is %v µs, not %v", q, got, want)
			}
		}
		if h.Max() != 100*time.Millisecond || h.Mean() != 50_000_500*time.Nanosecond || h.Count() != 100_000 {
			t.Errorf("%s %s %d", h.Max(), h.Mean(), h.Count())
		}
	}
	var none Histogram
	if none.Quantile(0.5) != 0 || none.Mean() != 0 {
		t.Error("an empty histogram is not 0")
	}
}

func TestHistogramBucketsFollowEachOther(t *testing.T) {
	for i := range 30 << histogramBits {
		end := bucketEnd(i)
		if bucketOf(end) != i || bucketOf(end+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d, followed by %d", i, end, bucketOf(end), bucketOf(end+1))
		}
	}
	if i := bucketOf(1<<63 - 1); i >= histogramSize {
		t.Errorf("the longest duration is in bucket %d of %d", i, histogramSize)
	}
}

func TestTheRatioIsTheMedianOfTheRounds(t *testing.T) {
	for _, tt := range []struct {
		rounds []float64
		want   Ratio
	}{
		{nil, Ratio{}},
		{[]float64{2}, Ratio{2, 2, 2}},
		{[]float64{9, 1, 2}, Ratio{2, 1, 9}},
		{[]float64{9, 1, 2, 4}, Ratio{3, 1, 9}},
	} {
		if got := ratioOf(tt.rounds); got != tt.want {
			t.Errorf("%v: %v", tt.rounds, got)
		}
	}
}
