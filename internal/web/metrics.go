package web

import (
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/cache"
	"s3storage/internal/engine"
	"s3storage/internal/zodb"

	"github.com/prometheus/client_golang/prometheus"
)

// A metric is one number of each database.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) float64
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("s3storage_"+name, help, append([]string{"storage"}, labels...), nil)
}

func counter[T any](name, help string, value func(T) float64, labels ...string) metric[T] {
	return metric[T]{newDesc(name, help, labels...), prometheus.CounterValue, value}
}

func gauge[T any](name, help string, value func(T) float64, labels ...string) metric[T] {
	return metric[T]{newDesc(name, help, labels...), prometheus.GaugeValue, value}
}

// What there is of every database. To one that leads, followers are clients too.
var storageMetrics = []metric[reading]{
	counter("commits_total", "Transactions that clients of this server committed.", func(r reading) float64 { return float64(r.stats.Commits) }),
	counter("aborts_total", "Transactions that clients of this server aborted.", func(r reading) float64 { return float64(r.stats.Aborts) }),
	counter("conflicts_total", "Conflicts in transactions of clients of this server, resolved or not.", func(r reading) float64 { return float64(r.stats.Conflicts) }),
	counter("stores_total", "Objects that clients of this server stored.", func(r reading) float64 { return float64(r.stats.Stores) }),
	counter("loads_total", "Objects that clients of this server loaded.", func(r reading) float64 { return float64(r.stats.Loads) }),
	gauge("transactions_active", "Transactions begun and not finished.", func(r reading) float64 { return float64(r.stats.ActiveTxns) }),
	gauge("transactions_finishing", "Transactions that were finished and are not in the log yet.", func(r reading) float64 { return float64(r.work.Finishing) }),
	gauge("votes_waiting", "Votes that wait for other transactions.", func(r reading) float64 { return float64(r.stats.Waiting) }),
	gauge("objects", "Objects in the database.", func(r reading) float64 { return float64(r.info.Objects) }),
	gauge("database_bytes", "Bytes that the database takes up.", func(r reading) float64 { return float64(r.info.Size) }),
	gauge("last_transaction_timestamp_seconds", "Time of the last transaction; 0 if there is none.", func(r reading) float64 { return seconds(r.last) }),
	gauge("unflushed_bytes", "Bytes of the log that are in memory and not in segments yet.", func(r reading) float64 { return float64(r.work.Unflushed) }),
	gauge("unflushed_limit_bytes", "Bytes of the log in memory from which on commits wait.", func(r reading) float64 { return float64(r.work.MaxUnflushed) }),
	gauge("send_queue_bytes", "Bytes that wait to be sent to clients and other servers.", func(r reading) float64 { return float64(r.queued) }),
	gauge("connections", "Connections of clients and other servers.", func(r reading) float64 { return float64(r.connections) }),
	gauge("followers", "Servers that follow this one.", func(r reading) float64 { return float64(r.followers) }),
}

// What there is of a database that is not one of the past.
var nodeMetrics = []metric[reading]{
	gauge("leads", "1 if this server leads the database.", func(r reading) float64 { return truth(r.leads) }),
	gauge("linked", "1 if this server follows the one that leads.", func(r reading) float64 { return truth(r.linked) }),
	gauge("log_epoch", "Epoch of the log: it grows with each change of the leader.", func(r reading) float64 { return float64(r.epoch) }),
	gauge("log_applied_slot", "Slot of the log up to which this server has applied everything.", func(r reading) float64 { return float64(r.applied) }),
	gauge("log_end_slot", "Slot at the end of the log, as far as this server knows.", func(r reading) float64 { return float64(r.end) }),
	gauge("log_lag_slots", "Slots of the log that this server knows of and has not applied.", func(r reading) float64 { return float64(r.end - r.applied) }),
}

// What there is of each cache, in memory and on disk.
var cacheMetrics = []metric[cache.Stats]{
	counter("cache_hits_total", "Pieces of the bucket that were asked for and in the cache.", func(s cache.Stats) float64 { return float64(s.Hits) }, "cache"),
	counter("cache_misses_total", "Pieces of the bucket that were asked for and not in the cache.", func(s cache.Stats) float64 { return float64(s.Misses) }, "cache"),
	gauge("cache_bytes", "Bytes that the cache takes up.", func(s cache.Stats) float64 { return float64(s.Bytes) }, "cache"),
	gauge("cache_limit_bytes", "Bytes that the cache may take up.", func(s cache.Stats) float64 { return float64(s.Limit) }, "cache"),
}

var stageDesc = newDesc("commit_stage_duration_seconds", "How long the stages of commits took.", "stage")

// What there is of every kind of operation on the bucket of a database.
var (
	requestMetrics = []metric[requests]{
		counter("bucket_requests_total", "Operations on the bucket that have ended.", func(r requests) float64 { return float64(r.Count) }, "operation"),
		counter("bucket_errors_total", "Operations on the bucket that failed; that an object exists or does not is no failure.", func(r requests) float64 { return float64(r.Errors) }, "operation"),
		gauge("bucket_requests_in_flight", "Operations on the bucket that have begun and not ended.", func(r requests) float64 { return float64(r.InFlight) }, "operation"),
		counter("bucket_price_usd_total", "About what the requests cost at the list prices of S3 Standard, in US dollars.", func(r requests) float64 { return price(r.kind, r.KindStats) }, "operation"),
	}
	bytesMetric = counter("bucket_bytes_total", "Bytes written to the bucket or read from it.", func(r requests) float64 { return float64(r.Bytes) }, "operation")
	latencyDesc = newDesc("bucket_request_duration_seconds", "How long operations on the bucket took, tries again included.", "operation")
)

// A reading is the numbers of a database at a moment.
type reading struct {
	info                   zodb.Info
	stats                  zodb.Stats
	last                   zodb.Tid
	work                   engine.Work
	connections, followers int
	queued                 int
	leads, linked          bool
	epoch, applied, end    uint64
}

type requests struct {
	kind bucket.Kind
	bucket.KindStats
}

// A collector reads the databases, by their names, whenever it is asked.
type collector map[string]Database

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range storageMetrics {
		to <- m.desc
	}
	for _, m := range nodeMetrics {
		to <- m.desc
	}
	for _, m := range cacheMetrics {
		to <- m.desc
	}
	for _, m := range requestMetrics {
		to <- m.desc
	}
	to <- stageDesc
	to <- bytesMetric.desc
	to <- latencyDesc
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	for name, d := range c {
		r := reading{
			info: d.Storage.Info(), stats: d.Storage.Stats(), last: d.Storage.LastTransaction(),
			work: d.Storage.Work(), connections: d.Connections(), followers: d.Followers(), queued: d.Queued(),
		}
		for _, m := range storageMetrics {
			m.send(to, r, name)
		}
		if d.Status != nil {
			s := d.Status()
			r.leads, r.linked = s.Leads, s.Linked
			r.epoch, r.applied, r.end = uint64(s.Epoch), uint64(s.Applied), uint64(s.End)
			for _, m := range nodeMetrics {
				m.send(to, r, name)
			}
		}
		sendWork(to, r.work, name)
		for k, s := range d.Requests().Kinds {
			sendRequests(to, requests{bucket.Kind(k), s}, name)
		}
	}
}

func sendWork(to chan<- prometheus.Metric, w engine.Work, storage string) {
	for name, s := range map[string]cache.Stats{"memory": w.Memory, "disk": w.Disk} {
		if s.Limit == 0 {
			continue // there is none
		}
		for _, m := range cacheMetrics {
			m.send(to, s, storage, name)
		}
	}
	for i, s := range w.Stages {
		sendHistogram(to, stageDesc, s.Time, s.Latency, storage, engine.Stage(i).String())
	}
}

func sendRequests(to chan<- prometheus.Metric, r requests, storage string) {
	operation := r.kind.String()
	for _, m := range requestMetrics {
		m.send(to, r, storage, operation)
	}
	switch r.kind {
	case bucket.KindList, bucket.KindDelete, bucket.KindNow, bucket.KindCleanUp: // they move no bytes
	default:
		bytesMetric.send(to, r, storage, operation)
	}
	sendHistogram(to, latencyDesc, r.Time, r.Latency, storage, operation)
}

func sendHistogram(to chan<- prometheus.Metric, desc *prometheus.Desc, total time.Duration, h bucket.Histogram, labels ...string) {
	to <- prometheus.MustNewConstHistogram(desc, h.Total(), total.Seconds(), buckets(h), labels...)
}

func (m metric[T]) send(to chan<- prometheus.Metric, from T, labels ...string) {
	to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(from), labels...)
}

// The buckets of the histograms go from the shortest to the longest by doublings.
const (
	shortest = 512 * time.Microsecond
	longest  = 1 << 26 * time.Microsecond // 67 s
)

// buckets returns how many durations are at most so many seconds.
func buckets(h bucket.Histogram) map[float64]uint64 {
	all := make(map[float64]uint64)
	var below uint64
	bound := shortest
	for i, n := range h.Counts {
		below += n
		if bound <= longest && h.UpTo(i) == bound {
			all[bound.Seconds()] = below
			bound *= 2
		}
	}
	return all
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// seconds is a tid as time since 1970.
func seconds(tid zodb.Tid) float64 {
	if tid == 0 {
		return 0
	}
	return float64(tid.Time().UnixMicro()) / 1e6
}
