// Package prometheus has Prometheus read the alerts and the dashboard in deploy.
package prometheus

import (
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// alerts are those in deploy, with their expressions.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	groups, errs := rulefmt.ParseFile("../../deploy/alerts.yaml", false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if len(errs) > 0 {
		t.FailNow()
	}
	all := make(map[string]string)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r.Expr
		}
	}
	return all
}

// expressions are those of the dashboard in deploy, by the titles of their panels.
func expressions(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]string)
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			// What Grafana puts in.
			expr := strings.NewReplacer("$__rate_interval", "2m", "$storage", "main").Replace(target.Expr)
			all[p.Title] = append(all[p.Title], expr)
		}
	}
	return all
}

// healthy is half an hour of two servers, a and b, of which the first leads.
const healthy = `
s3storage_leads{instance="a",storage="main"} 1x60
s3storage_leads{instance="b",storage="main"} 0x60
s3storage_linked{instance="a",storage="main"} 0x60
s3storage_linked{instance="b",storage="main"} 1x60
s3storage_log_lag_slots{instance="a",storage="main"} 0x60
s3storage_log_lag_slots{instance="b",storage="main"} 1x60
s3storage_log_epoch{instance="a",storage="main"} 7x60
s3storage_log_epoch{instance="b",storage="main"} 7x60
s3storage_bucket_errors_total{instance="a",storage="main",operation="put-if-absent"} 3x60
s3storage_bucket_request_duration_seconds_bucket{instance="a",storage="main",operation="put-if-absent",le="0.065536"} 0+100x60
s3storage_bucket_request_duration_seconds_bucket{instance="a",storage="main",operation="put-if-absent",le="4.194304"} 0+100x60
s3storage_bucket_request_duration_seconds_bucket{instance="a",storage="main",operation="put-if-absent",le="+Inf"} 0+100x60
s3storage_bucket_requests_total{instance="a",storage="main",operation="put-if-absent"} 0+100x60
s3storage_bucket_bytes_total{instance="a",storage="main",operation="put-if-absent"} 0+100x60
s3storage_bucket_requests_in_flight{instance="a",storage="main",operation="put-if-absent"} 0x60
s3storage_bucket_price_usd_total{instance="a",storage="main",operation="put-if-absent"} 0+0.0001x60
s3storage_unflushed_bytes{instance="a",storage="main"} 1e6x60
s3storage_unflushed_limit_bytes{instance="a",storage="main"} 256e6x60
s3storage_votes_waiting{instance="a",storage="main"} 0 1 0 2 0 0 3 0x60
s3storage_votes_waiting{instance="b",storage="main"} 4x60
s3storage_conflicts_total{instance="a",storage="main"} 0+1x60
s3storage_commits_total{instance="a",storage="main"} 0+100x60
s3storage_aborts_total{instance="a",storage="main"} 0+1x60
s3storage_stores_total{instance="a",storage="main"} 0+1x60
s3storage_loads_total{instance="a",storage="main"} 0+1x60
s3storage_transactions_active{instance="a",storage="main"} 1x60
s3storage_transactions_finishing{instance="a",storage="main"} 1x60
s3storage_objects{instance="a",storage="main"} 1x60
s3storage_database_bytes{instance="a",storage="main"} 1x60
s3storage_last_transaction_timestamp_seconds{instance="a",storage="main"} 1x60
s3storage_connections{instance="a",storage="main"} 1x60
s3storage_followers{instance="a",storage="main"} 1x60
s3storage_send_queue_bytes{instance="a",storage="main"} 1x60
s3storage_cache_hits_total{instance="a",storage="main",cache="memory"} 0+1x60
s3storage_cache_misses_total{instance="a",storage="main",cache="memory"} 0+1x60
s3storage_cache_bytes{instance="a",storage="main",cache="memory"} 1x60
s3storage_cache_limit_bytes{instance="a",storage="main",cache="memory"} 1x60
s3storage_commit_stage_duration_seconds_sum{instance="a",storage="main",stage="put"} 0+1x60
s3storage_commit_stage_duration_seconds_sum{instance="a",storage="main",stage="apply"} 0+1x60
s3storage_commit_stage_duration_seconds_bucket{instance="a",storage="main",stage="put",le="+Inf"} 0+1x60
s3storage_commit_stage_duration_seconds_bucket{instance="a",storage="main",stage="leader-finish",le="+Inf"} 0+1x60
process_resident_memory_bytes{instance="a"} 1x60
process_cpu_seconds_total{instance="a"} 0+1x60
`

// ill is what is otherwise when an alert should come: other values of series, or none.
var ill = map[string]map[string]string{
	"S3storageNoServer":           {`s3storage_leads{instance="a",storage="main"}`: "_x60", `s3storage_leads{instance="b",storage="main"}`: "_x60"},
	"S3storageNobodyLeads":        {`s3storage_leads{instance="a",storage="main"}`: "0x60"},
	"S3storageTwoLead":            {`s3storage_leads{instance="b",storage="main"}`: "1x60"},
	"S3storageAlone":              {`s3storage_leads{instance="b",storage="main"}`: "_x60"},
	"S3storageCutOff":             {`s3storage_linked{instance="b",storage="main"}`: "0x60"},
	"S3storageFallsBehind":        {`s3storage_log_lag_slots{instance="b",storage="main"}`: "0+10x60"},
	"S3storageLeaderChangesOften": {`s3storage_log_epoch{instance="b",storage="main"}`: "0+1x60"},
	"S3storageBucketFails":        {`s3storage_bucket_errors_total{instance="a",storage="main",operation="put-if-absent"}`: "0+1x60"},
	"S3storageBucketIsSlow":       {`s3storage_bucket_request_duration_seconds_bucket{instance="a",storage="main",operation="put-if-absent",le="0.065536"}`: "0x60"},
	"S3storageNotWrittenOut":      {`s3storage_unflushed_bytes{instance="a",storage="main"}`: "0+3e6x60"},
	"S3storageClientHangs":        {`s3storage_votes_waiting{instance="a",storage="main"}`: "1x60"},
	"S3storageManyConflicts":      {`s3storage_conflicts_total{instance="a",storage="main"}`: "0+50x60"},
	"S3storageCostsMuch":          {`s3storage_bucket_price_usd_total{instance="a",storage="main",operation="put-if-absent"}`: "0+1x60"},
}

// answers returns how many series an expression finds after half an hour, when some of
// the healthy series are otherwise.
func answers(t *testing.T, expr string, otherwise map[string]string) int {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(healthy), "\n")
	for name, values := range otherwise {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+" ") })
		if i < 0 {
			t.Fatalf("there is no series %s", name)
		}
		lines[i] = name + " " + values
	}
	storage := promqltest.LoadedStorage(t, "load 30s\n  "+strings.Join(lines, "\n  "))
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	q, err := engine.NewInstantQuery(t.Context(), storage, nil, expr, time.Unix(1800, 0))
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	result := q.Exec(t.Context())
	if result.Err != nil || len(result.Warnings) > 0 {
		t.Errorf("%s: %v, %v", expr, result.Err, result.Warnings)
	}
	v, ok := result.Value.(promql.Vector)
	if !ok {
		t.Fatalf("%s is no vector: %v", expr, result.Value)
	}
	return len(v)
}

func TestEachAlertComesWhenItShouldAndOnlyThen(t *testing.T) {
	all := alerts(t)
	if len(all) != len(ill) {
		t.Errorf("%d alerts, %d examples", len(all), len(ill))
	}
	for name, expr := range all {
		if n := answers(t, expr, nil); n != 0 {
			t.Errorf("%s comes when all is well", name)
		}
		if n := answers(t, expr, ill[name]); n != 1 {
			t.Errorf("%s comes %d times with %v", name, n, ill[name])
		}
	}
}

func TestEachPanelOfTheDashboardHasNumbers(t *testing.T) {
	for title, all := range expressions(t) {
		for _, expr := range all {
			if answers(t, expr, nil) == 0 {
				t.Errorf("%s: nothing is found by %s", title, expr)
			}
		}
	}
}
