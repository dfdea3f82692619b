package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"s3storage/internal/web"
	"s3storage/internal/zeo"
)

// A window is where those who run the server look in, by HTTP.
type window struct {
	listener net.Listener // nil without --http
	server   *http.Server // nil until it serves
	wg       sync.WaitGroup
}

// openHTTP listens where --http says. Who connects is answered when serve is called.
func (c *serveCmd) openHTTP() (*window, error) {
	if c.HTTP == "" {
		return &window{}, nil
	}
	l, err := net.Listen("tcp", c.HTTP)
	if err != nil {
		return nil, fmt.Errorf("cannot serve --http %s, give a HOST:PORT that is free: %w", c.HTTP, err)
	}
	return &window{listener: l}, nil
}

// serve begins to show the databases.
func (w *window) serve(s *zeo.Server, databases map[string]database, logger *slog.Logger) {
	if w.listener == nil {
		return
	}
	shown := make(map[string]web.Database)
	for name, db := range databases {
		d := web.Database{
			Storage:     db.storage,
			Requests:    db.bucket.Snapshot,
			Connections: func() int { return s.Connections(name) },
			Followers:   func() int { return len(s.Followers(name)) },
			Queued:      func() int { return s.Queued(name) },
		}
		if db.node != nil {
			d.Status = db.node.Status
		}
		shown[name] = d
	}
	w.server = web.NewServer(shown, logger)
	logger.Info("serving health and metrics", "url", "http://"+w.listener.Addr().String()+"/metrics")
	w.wg.Go(func() {
		if err := w.server.Serve(w.listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("health and metrics are not served any more; start the server again", "err", err)
		}
	})
}

// close ends it, also in the midst of an answer.
func (w *window) close() {
	switch {
	case w.server != nil:
		_ = w.server.Close() // it fails only to close what is closed
		w.wg.Wait()
	case w.listener != nil:
		w.listener.Close()
	}
}
