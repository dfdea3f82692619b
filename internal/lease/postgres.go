package lease

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
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

	conn *pgx.Conn // nil: there is none
}

// applicationName is what PostgreSQL cuts names off at.
const applicationName = 63

func newInPostgres(location string, o Options) (*keeper, error) {
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
	return &keeper{
		Options: o,
		granter: &inPostgres{Options: o, config: config, key: int64(binary.BigEndian.Uint64(o.Database[:]))},
		poll:    func() time.Duration { return o.Timeout / 10 },
		look:    o.Timeout / 3,
	}, nil
}

func (l *inPostgres) String() string {
	return fmt.Sprintf("advisory lock in the PostgreSQL database %s at %s:%d", l.config.Database, l.config.Host, l.config.Port)
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

// take asks for the lock in a new session if there is none. One that fails is
// dropped.
func (l *inPostgres) take(ctx context.Context) (got bool, err error) {
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

// hopeless errors are of the classes 28 and 3D, wrong user, password or
// database, and 42, no right, and settings that the server does not know.
func (l *inPostgres) hopeless(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (strings.HasPrefix(answer.Code, "28") ||
		strings.HasPrefix(answer.Code, "3D") || strings.HasPrefix(answer.Code, "42"))
}

func (l *inPostgres) renew(ctx context.Context) (lost bool, err error) {
	if l.conn != nil {
		if err = l.conn.Ping(ctx); err == nil || ctx.Err() != nil {
			return false, err
		}
		l.drop()
	}
	got, err := l.take(ctx)
	return err == nil && !got, err
}

// free does nothing: the lock ends with the session.
func (l *inPostgres) free(context.Context) error { return nil }

// holder reads the name of the session that has the lock.
func (l *inPostgres) holder(ctx context.Context) (h Holder, err error) {
	conn, err := pgx.ConnectConfig(ctx, l.config)
	if err != nil {
		return h, err
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
		return Holder{}, err
	}
	h.Node, h.Address, _ = strings.Cut(name, " ")
	return h, nil
}
