package web

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/engine"
	"s3storage/internal/node"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

type fixed struct {
	info  zodb.Info
	stats zodb.Stats
	last  zodb.Tid
	work  engine.Work
}

func (f fixed) Info() zodb.Info           { return f.info }
func (f fixed) Stats() zodb.Stats         { return f.stats }
func (f fixed) LastTransaction() zodb.Tid { return f.last }
func (f fixed) Work() engine.Work         { return f.work }

// example returns a database that nothing happens to.
func example(status *node.Status) Database {
	var requests bucket.Stats
	puts := &requests.Kinds[bucket.KindPutIfAbsent]
	puts.Count, puts.Refused, puts.Errors, puts.InFlight, puts.Bytes = 4000, 3, 2, 1, 5000
	for _, took := range []time.Duration{time.Microsecond, 3 * time.Millisecond, 30 * time.Millisecond, 2 * time.Minute} {
		puts.Latency.Add(took)
		puts.Time += took
	}
	requests.Kinds[bucket.KindGet].Count = 10_000
	requests.Kinds[bucket.KindDelete].Count = 1000
	list := &requests.Kinds[bucket.KindList]
	list.Count, list.Bytes = 1, 3000 // objects
	work := engine.Work{
		Finishing: 10, Unflushed: 11, MaxUnflushed: 12,
		Memory: cache.Stats{Hits: 13, Misses: 14, Bytes: 15, Limit: 16},
	}
	if status != nil {
		work.Disk = cache.Stats{Hits: 17, Misses: 18, Bytes: 19, Limit: 20}
	}
	locks := &work.Stages[engine.StageLocks]
	locks.Time = 3 * time.Second
	locks.Latency.Add(locks.Time)
	d := Database{
		Storage: fixed{
			zodb.Info{Objects: 12, Size: 3456},
			zodb.Stats{Loads: 1, Stores: 2, Commits: 3, Aborts: 4, Conflicts: 5, ActiveTxns: 6, Waiting: 7},
			zodb.TidAt(time.Unix(1_700_000_000, 0)),
			work,
		},
		Requests:    func() bucket.Stats { return requests },
		Connections: func() int { return 8 },
		Followers:   func() int { return 9 },
		Queued:      func() int { return 21 },
	}
	if status != nil {
		d.Status = func() node.Status { return *status }
	}
	return d
}

// get asks a server of the databases, as a client at an address.
func get(databases map[string]Database, path, from string) (int, string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	NewServer(databases, slog.New(slog.DiscardHandler)).Handler.ServeHTTP(w, r)
	body, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(body)
}

const far = "192.0.2.1:1234"

func TestMetricsTellTheNumbersOfEachDatabase(t *testing.T) {
	databases := map[string]Database{
		"main": example(&node.Status{Linked: true, Epoch: 5, Applied: 90, End: 100}),
		"past": example(nil),
	}
	code, text := get(databases, "/metrics", far)
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, text)
	}
	for _, line := range []string{
		`s3storage_loads_total{storage="main"} 1`,
		`s3storage_stores_total{storage="main"} 2`,
		`s3storage_commits_total{storage="main"} 3`,
		`s3storage_aborts_total{storage="main"} 4`,
		`s3storage_conflicts_total{storage="main"} 5`,
		`s3storage_transactions_active{storage="main"} 6`,
		`s3storage_votes_waiting{storage="main"} 7`,
		`s3storage_connections{storage="main"} 8`,
		`s3storage_followers{storage="main"} 9`,
		`s3storage_objects{storage="main"} 12`,
		`s3storage_database_bytes{storage="main"} 3456`,
		`s3storage_last_transaction_timestamp_seconds{storage="main"} 1.7e+09`,
		`s3storage_last_transaction_timestamp_seconds{storage="past"} 1.7e+09`,
		`s3storage_transactions_finishing{storage="main"} 10`,
		`s3storage_unflushed_bytes{storage="main"} 11`,
		`s3storage_unflushed_limit_bytes{storage="main"} 12`,
		`s3storage_send_queue_bytes{storage="main"} 21`,
		`s3storage_cache_hits_total{cache="memory",storage="main"} 13`,
		`s3storage_cache_misses_total{cache="memory",storage="main"} 14`,
		`s3storage_cache_bytes{cache="memory",storage="main"} 15`,
		`s3storage_cache_limit_bytes{cache="memory",storage="main"} 16`,
		`s3storage_cache_hits_total{cache="disk",storage="main"} 17`,
		`s3storage_cache_limit_bytes{cache="disk",storage="main"} 20`,
		`s3storage_commit_stage_duration_seconds_bucket{stage="locks",storage="main",le="2.097152"} 0`,
		`s3storage_commit_stage_duration_seconds_bucket{stage="locks",storage="main",le="4.194304"} 1`,
		`s3storage_commit_stage_duration_seconds_sum{stage="locks",storage="main"} 3`,
		`s3storage_commit_stage_duration_seconds_count{stage="leader-finish",storage="main"} 0`,
		`s3storage_leads{storage="main"} 0`,
		`s3storage_linked{storage="main"} 1`,
		`s3storage_log_epoch{storage="main"} 5`,
		`s3storage_log_applied_slot{storage="main"} 90`,
		`s3storage_log_end_slot{storage="main"} 100`,
		`s3storage_log_lag_slots{storage="main"} 10`,
		`s3storage_bucket_requests_total{operation="put-if-absent",storage="main"} 4000`,
		`s3storage_bucket_errors_total{operation="put-if-absent",storage="main"} 2`,
		`s3storage_bucket_requests_in_flight{operation="put-if-absent",storage="main"} 1`,
		`s3storage_bucket_bytes_total{operation="put-if-absent",storage="main"} 5000`,
		`s3storage_bucket_price_usd_total{operation="put-if-absent",storage="main"} 0.02`,
		`s3storage_bucket_price_usd_total{operation="get",storage="main"} 0.004`,
		`s3storage_bucket_price_usd_total{operation="delete",storage="main"} 0`,
		`s3storage_bucket_price_usd_total{operation="list",storage="main"} 2e-05`,
		`s3storage_bucket_request_duration_seconds_bucket{operation="put-if-absent",storage="main",le="0.000512"} 1`,
		`s3storage_bucket_request_duration_seconds_bucket{operation="put-if-absent",storage="main",le="0.004096"} 2`,
		`s3storage_bucket_request_duration_seconds_bucket{operation="put-if-absent",storage="main",le="67.108864"} 3`,
		`s3storage_bucket_request_duration_seconds_bucket{operation="put-if-absent",storage="main",le="+Inf"} 4`,
		`s3storage_bucket_request_duration_seconds_sum{operation="put-if-absent",storage="main"} 120.033001`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	for _, part := range []string{"\ngo_goroutines ", "\nprocess_open_fds "} {
		if !strings.Contains(text, part) {
			t.Errorf("there is no %q", part)
		}
	}
	for _, part := range []string{`s3storage_leads{storage="past"}`, `{cache="disk",storage="past"}`, `s3storage_bucket_bytes_total{operation="list"`} {
		if strings.Contains(text, part) {
			t.Errorf("there is %s", part)
		}
	}
}

func TestMetricsFollowTheConventions(t *testing.T) {
	_, text := get(map[string]Database{"main": example(&node.Status{})}, "/metrics", far)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if err != nil {
		t.Error(err)
	}
	if shown, all := shownIn(text), names(); !slices.Equal(shown, all) {
		t.Errorf("shown are %q\nof %q", shown, all)
	}
}

// shownIn returns the names of the metrics in an answer, sorted, but for those that any
// Go program has.
func shownIn(text string) (all []string) {
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (s3storage_\S+) `).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return all
}

// names returns the names of all metrics, sorted.
func names() (all []string) {
	descs := make(chan *prometheus.Desc)
	go func() {
		collector(nil).Describe(descs)
		close(descs)
	}()
	for d := range descs {
		all = append(all, regexp.MustCompile(`fqName: "(.*?)"`).FindStringSubmatch(d.String())[1])
	}
	slices.Sort(all)
	return all
}

// documented returns what is named in the first column of the table below a heading of
// doc/operations.md, each with the prefix.
func documented(t *testing.T, heading, prefix string) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../doc/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n"+heading+"\n")
	section, _, _ = strings.Cut(section, "\n#")
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(section, -1) {
		for _, name := range regexp.MustCompile("`(.*?)`").FindAllStringSubmatch(row[1], -1) {
			all = append(all, prefix+name[1])
		}
	}
	return all
}

func TestEveryMetricIsDocumentedAndNoOther(t *testing.T) {
	told := documented(t, "## Metrics", "s3storage_")
	slices.Sort(told)
	if all := names(); !slices.Equal(told, all) {
		t.Errorf("documented are %q\nof %q", told, all)
	}
}

func TestEveryStageOfACommitIsDocumentedInItsPlace(t *testing.T) {
	var all []string
	for s := range engine.NumStages {
		all = append(all, s.String())
	}
	if told := documented(t, "### Stages of a commit", ""); !slices.Equal(told, all) {
		t.Errorf("documented are %q\nof %q", told, all)
	}
}

func TestReadyIsAServerThatLeadsOrFollowsOrShowsThePast(t *testing.T) {
	lost := &node.Status{Leader: txlog.Node{Name: "host-a", Address: "host-a:8100"}, Lease: "in the bucket"}
	for _, c := range []struct {
		name      string
		databases map[string]Database
		code      int
		want      []string // in the lines
	}{
		{"leads", map[string]Database{"a": example(&node.Status{Leads: true})}, http.StatusOK, []string{"ok"}},
		{"follows", map[string]Database{"a": example(&node.Status{Linked: true})}, http.StatusOK, []string{"ok"}},
		{"the past", map[string]Database{"a": example(nil)}, http.StatusOK, []string{"ok"}},
		{"two of three lost", map[string]Database{"a": example(lost), "b": example(&node.Status{Leads: true}), "c": example(lost)},
			http.StatusServiceUnavailable, []string{"storage a: ", "storage c: "}},
	} {
		code, text := get(c.databases, "/readyz", far)
		lines := strings.Split(strings.TrimSpace(text), "\n")
		if code != c.code || len(lines) != len(c.want) {
			t.Errorf("%s: %d, %q", c.name, code, lines)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(lines[i], want) || code != http.StatusOK && (!strings.Contains(lines[i], "host-a") || !strings.Contains(lines[i], "in the bucket")) {
				t.Errorf("%s: %q", c.name, lines[i])
			}
		}
		if code, text := get(c.databases, "/healthz", far); code != http.StatusOK || text != "ok\n" {
			t.Errorf("%s: not healthy: %d, %q", c.name, code, text)
		}
	}
}

func TestProfilesAreForClientsOnThisMachine(t *testing.T) {
	for from, want := range map[string]int{
		"127.0.0.1:1": http.StatusOK, "[::1]:1": http.StatusOK, "[::ffff:127.0.0.1]:1": http.StatusOK,
		far: http.StatusForbidden, "[2001:db8::1]:1": http.StatusForbidden, "@": http.StatusForbidden,
	} {
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
			if code, _ := get(nil, path, from); code != want {
				t.Errorf("%s from %s: %d", path, from, code)
			}
		}
		for _, path := range []string{"/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=1"} {
			if want == http.StatusForbidden {
				if code, _ := get(nil, path, from); code != want {
					t.Errorf("%s from %s: %d", path, from, code)
				}
			}
		}
	}
}
