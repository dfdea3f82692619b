package zeo

import (
	"context"
	"encoding/json"
	"math"
	"slices"

	"s3storage/internal/zodb"
)

// status describes one storage in the words of the reference server.
func (s *Server) status(name string) Dict {
	storage := s.storages[name]
	var timeout any = "stub"
	if s.opts.TransactionTimeout > 0 {
		timeout = true
	}
	stats := storage.Stats()
	return Dict{
		{"connections", s.Connections(name)},
		{"loads", stats.Loads},
		{"stores", stats.Stores},
		{"commits", stats.Commits},
		{"aborts", stats.Aborts},
		{"active_txns", stats.ActiveTxns},
		{"lock_time", s.lockTime(name)},
		{"conflicts", stats.Conflicts},
		{"conflicts_resolved", 0}, // by clients: it is not known
		{"start", s.started.Format("Mon Jan _2 15:04:05 2006")},
		{"waiting", stats.Waiting},
		{"timeout-thread-is-alive", timeout},
		{"last-transaction", storage.LastTransaction().String()},
	}
}

// Connections returns how many connections use a storage, those of other nodes included.
func (s *Server) Connections(storage string) (n int) {
	s.each(storage, func(*conn) { n++ })
	return n
}

// Queued returns how many bytes wait to be sent on the connections to a storage.
func (s *Server) Queued(storage string) (n int) {
	s.each(storage, func(c *conn) { n += c.out.queued() })
	return n
}

// each calls f with each connection to a storage.
func (s *Server) each(storage string, f func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.mu.conns {
		if p := c.registered.Load(); p != nil && *p == storage {
			f(c)
		}
	}
}

// statusJSON is the answer to ruok.
func (s *Server) statusJSON() []byte {
	all := map[string]map[string]any{}
	for name := range s.storages {
		one := map[string]any{}
		for _, it := range s.status(name) {
			one[it.Key.(string)] = it.Value
		}
		all[name] = one
	}
	b, err := json.Marshal(all)
	if err != nil { // strings and numbers
		panic(err)
	}
	return b
}

// server_status() -> dict
func (c *conn) serverStatus(*call) (any, error) { return c.srv.status(c.name), nil }

// history(oid, size=1) -> [dict]
func (c *conn) history(k *call) (any, error) {
	if k.args[0] == nil { // to the reference, an object that does not exist
		return nil, &Error{classPOSKey, Tuple{nil}}
	}
	oid, err := k.oid()
	if err != nil {
		return nil, err
	}
	size := int64(1)
	if len(k.args) > 1 {
		var ok bool
		if size, ok = k.args[1].(int64); !ok {
			return nil, k.wrong(1, "size", "int")
		}
	}
	size = min(max(size, 0), math.MaxInt32)
	return c.later(k, func(ctx context.Context) (any, error) {
		entries, err := c.storage.History(ctx, oid, int(size))
		if err != nil {
			return nil, err
		}
		l := List{}
		for _, e := range entries {
			l = append(l, c.historyEntry(e))
		}
		return l, nil
	})
}

// historyEntry is one revision, in front of which stand the items of its
// transaction's extension, as far as the encoding can say them.
func (c *conn) historyEntry(e zodb.TxnInfo) Dict {
	own := Dict{
		{"time", seconds(e.Tid)},
		{"user_name", e.Meta.User},
		{"description", e.Meta.Description},
		{"tid", e.Tid},
		{"size", e.Size},
	}
	ext := slices.DeleteFunc(slices.Clone(c.extension(&e)), func(it Item) bool {
		key, ok := it.Key.(string)
		if ok {
			_, ok = own.Get(key)
		}
		return ok
	})
	return append(ext, own...)
}

// extension returns the extension of a transaction as the client sent it, or nil
// if the encoding cannot say it.
func (c *conn) extension(info *zodb.TxnInfo) Dict {
	ext, err := UnpickleDict(info.Meta.Extension)
	if err == nil {
		_, err = c.enc.appendValue(nil, ext)
	}
	if err != nil {
		c.log.Debug("the extension of a transaction is left out", "tid", info.Tid.String(), "error", err)
		return nil
	}
	return ext
}

// seconds is the time that a tid stands for as Python tells time, with all the
// digits that a float has room for.
func seconds(tid zodb.Tid) float64 {
	minute := tid &^ math.MaxUint32
	return float64(minute.Time().Unix()) + float64(uint32(tid))*60/(1<<32)
}
