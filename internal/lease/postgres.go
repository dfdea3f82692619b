package lease

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// inPostgres is an advisory lock of a session of a PostgreSQL server, version
// 14 or later. It needs the right to connect to a database, no table, and no
// pooler between that gives one session to several clients. All nodes name the
// same database: advisory locks of different ones do not meet.
//
// The holder asks its session for a sign of life every third of the timeout,
// and the server ends a session that was silent for the timeout, so a holder
// that is paused or cut off loses the lock. The session says in its
// application_name who it is.
//
// When the server is down, the holder goes on, and nobody takes the lease. When
// the server was restarted, the lock is gone: whoever comes first takes it, the
// holder or a candidate.
type inPostgres struct {
	Options
	config *pgx.ConnConfig
	key    int64

	conn *pgx.Conn // nil: there is none. Belongs to Acquire, then to keep
	stop func()    // ends keep; nil: it was not started
	done chan struct{}

	mu struct {
		sync.Mutex
		held bool
	}
}

// applicationName is what PostgreSQL cuts names off at.
const applicationName = 63

func newInPostgres(location string, o Options) (*inPostgres, error) {
	config, err := pgx.ParseConfig(location)
	if err != nil {
		// pgx leaves the password out of its errors, though not of all; so
		// nothing of it is said.
		return nil, fmt.Errorf("open the lease: %w; a PostgreSQL one has the form postgres://user@host:port/database", ErrLocation)
	}
	config.ConnectTimeout = o.Timeout
	ms := fmt.Sprint(o.Timeout.Milliseconds())
	seconds := fmt.Sprint(max(1, int(o.Timeout.Seconds())/3))
	for name, value := range map[string]string{
		"idle_session_timeout":    ms,
		"tcp_user_timeout":        ms,
		"tcp_keepalives_idle":     seconds,
		"tcp_keepalives_interval": seconds,
		"application_name":        (o.Node + " " + o.Address)[:min(applicationName, len(o.Node)+1+len(o.Address))],
	} {
		config.RuntimeParams[name] = value
	}
	return &inPostgres{Options: o, config: config, key: int64(binary.BigEndian.Uint64(o.Database[:]))}, nil
}

func (l *inPostgres) String() string {
	return fmt.Sprintf("advisory lock in the PostgreSQL database %s at %s:%d", l.config.Database, l.config.Host, l.config.Port)
}

func (l *inPostgres) set(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.held = held
}

func (l *inPostgres) Held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.held
}

// drop ends the session, and with it the lock.
func (l *inPostgres) drop() {
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.conn.Close(ctx) // the server ends it by itself
		l.conn = nil
	}
}

// try asks for the lock once, in a new session if there is none. One that
// fails is dropped.
func (l *inPostgres) try(ctx context.Context) (got bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	if l.conn == nil {
		if l.conn, err = pgx.ConnectConfig(ctx, l.config); err != nil {
			return false, err
		}
	}
	if err = l.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", l.key).Scan(&got); err != nil {
		l.drop()
	}
	return got, err
}

// unmendable tells of answers of the server that waiting does not mend: wrong
// user, password or database (classes 28, 3D), or no right (42), and settings
// that it does not know.
func unmendable(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (strings.HasPrefix(answer.Code, "28") ||
		strings.HasPrefix(answer.Code, "3D") || strings.HasPrefix(answer.Code, "42"))
}

// Acquire implements Lease.
func (l *inPostgres) Acquire(ctx context.Context) error {
	if l.Held() {
		return nil
	}
	l.end()
	for down := false; ; {
		got, err := l.try(ctx)
		switch {
		case ctx.Err() != nil:
			l.drop()
			return fmt.Errorf("wait for the lease, %s: %w", l, ctx.Err())
		case unmendable(err):
			return fmt.Errorf("acquire the lease, %s: %w", l, err)
		case err != nil && !down:
			l.Logger.Warn("cannot reach the lease; nobody new leads until that works again", "lease", l.String(), "err", err)
		case got:
			l.set(true)
			l.start()
			return nil
		}
		down = err != nil
		pause(ctx, l.Timeout/10)
	}
}

func (l *inPostgres) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.stop, l.done = cancel, done
	go func() {
		defer close(done)
		l.keep(ctx)
	}()
}

// end ends the background work and waits for it.
func (l *inPostgres) end() {
	if l.stop != nil {
		l.stop()
		<-l.done
		l.stop = nil
	}
	l.drop()
}

// keep shows the server that this node lives, and takes the lock again when it
// was lost with the session, until another node has it.
func (l *inPostgres) keep(ctx context.Context) {
	for down := false; ; {
		pause(ctx, l.Timeout/3)
		if ctx.Err() != nil {
			return
		}
		lost, err := l.renew(ctx)
		if lost {
			l.Logger.Warn("another node has taken the lease", "lease", l.String())
			l.set(false)
			return
		}
		if err != nil && !down && ctx.Err() == nil {
			l.Logger.Warn("cannot reach the lease; this node leads on", "lease", l.String(), "err", err)
		}
		down = err != nil
	}
}

func (l *inPostgres) renew(ctx context.Context) (lost bool, err error) {
	if l.conn != nil {
		round, cancel := context.WithTimeout(ctx, l.Timeout)
		defer cancel()
		if err = l.conn.Ping(round); err == nil || ctx.Err() != nil {
			return false, err
		}
		l.drop()
	}
	got, err := l.try(ctx)
	return err == nil && !got, err
}

// Release implements Lease.
func (l *inPostgres) Release(context.Context) error {
	return l.Close()
}

// Close implements Lease. The lock ends with the session.
func (l *inPostgres) Close() error {
	l.end()
	l.set(false)
	return nil
}

// Holder implements Lease. It reads the names of sessions that have the lock.
func (l *inPostgres) Holder(ctx context.Context) (h Holder, err error) {
	conn, err := pgx.ConnectConfig(ctx, l.config)
	if err != nil {
		return h, fmt.Errorf("who holds the lease, %s: %w", l, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var name string
	err = conn.QueryRow(ctx, `SELECT a.application_name, a.backend_start
		FROM pg_locks k JOIN pg_stat_activity a ON a.pid = k.pid
		JOIN pg_database d ON d.oid = k.database AND d.datname = current_database()
		WHERE k.locktype = 'advisory' AND k.objsubid = 1 AND k.granted
		AND (k.classid::bigint << 32 | k.objid::bigint) = $1`, l.key).Scan(&name, &h.Since)
	if errors.Is(err, pgx.ErrNoRows) {
		return Holder{}, nil
	}
	if err != nil {
		return Holder{}, fmt.Errorf("who holds the lease, %s: %w", l, err)
	}
	h.Node, h.Address, _ = strings.Cut(name, " ")
	return h, nil
}
