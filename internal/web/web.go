// Package web serves over HTTP what those who run a server want to know: whether it
// lives, whether it is ready, its metrics, and profiles.
package web

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/engine"
	"s3storage/internal/node"
	"s3storage/internal/zodb"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A Database is what the package knows of one that is served. The functions are called
// with each request, from any number of goroutines, and answer from memory.
type Database struct {
	Storage     Storage
	Requests    func() bucket.Stats
	Status      func() node.Status // nil for one that shows the past
	Connections func() int         // of clients and other servers
	Followers   func() int         // servers that follow this one
	Queued      func() int         // bytes that wait to be sent to clients and other servers
}

// A Storage is the part of an engine that is shown.
type Storage interface {
	Info() zodb.Info
	Stats() zodb.Stats
	LastTransaction() zodb.Tid
	Work() engine.Work
}

// NewServer returns a server of the databases, by their names. The caller has it serve,
// and closes it.
func NewServer(databases map[string]Database, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:     handler(databases),
		ReadTimeout: 10 * time.Second,
		// A profile takes 30 seconds unless it is asked for otherwise.
		WriteTimeout:   time.Minute,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

func handler(databases map[string]Database) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector(databases))

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if waits := waiting(databases); len(waits) > 0 {
			http.Error(w, strings.Join(waits, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("/debug/pprof/", local(pprof.Index))
	mux.Handle("/debug/pprof/cmdline", local(pprof.Cmdline))
	mux.Handle("/debug/pprof/profile", local(pprof.Profile))
	mux.Handle("/debug/pprof/symbol", local(pprof.Symbol))
	mux.Handle("/debug/pprof/trace", local(pprof.Trace))
	return mux
}

// waiting returns a line for each database that is not ready.
func waiting(databases map[string]Database) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(databases)) {
		status := databases[name].Status
		if status == nil {
			continue
		}
		if s := status(); !s.Leads && !s.Linked {
			lines = append(lines, fmt.Sprintf("storage %s: waits to reach %v, which leads by the log, or to lead itself by the lease %s", name, s.Leader, s.Lease))
		}
	}
	return lines
}

// local lets only clients on this machine in. A proxy on this machine lets others in.
func local(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "profiles are for clients on this machine only", http.StatusForbidden)
			return
		}
		h(w, r)
	})
}
