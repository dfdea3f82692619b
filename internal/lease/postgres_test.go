package lease

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A postgres is a PostgreSQL server on the loopback interface with its data in
// a temporary directory.
type postgres struct {
	dir, bin string
	port     int
	user     *syscall.Credential // nil: this user
	server   *exec.Cmd
}

func newPostgres(t *testing.T) *postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		t.Fatal("no PostgreSQL server here: install the package postgresql")
	}
	dir, err := os.MkdirTemp("", "lease")
	if err != nil {
		t.Fatal(err)
	}
	p := &postgres{dir: dir, bin: filepath.Dir(found[len(found)-1])}
	t.Cleanup(func() { p.stop(); _ = os.RemoveAll(dir) })
	if os.Getuid() == 0 { // which PostgreSQL refuses to run as
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		p.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := p.command("initdb", "-D", dir, "-U", "lease", "-A", "trust", "-N").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	p.start(t)
	return p
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.bin, name), args...)
	c.Dir = p.dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	return c
}

func (p *postgres) location() string {
	return fmt.Sprintf("postgres://lease@127.0.0.1:%d/postgres?sslmode=disable", p.port)
}

// start starts the server and waits until it answers.
func (p *postgres) start(t *testing.T) {
	t.Helper()
	p.server = p.command("postgres", "-D", p.dir, "-p", strconv.Itoa(p.port), "-h", "127.0.0.1", "-k", "", "-F")
	if err := p.server.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, p.location())
		if err == nil {
			_ = conn.Close(ctx)
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// stop ends the server at once, with all sessions.
func (p *postgres) stop() {
	if p.server != nil {
		_ = p.server.Process.Signal(syscall.SIGQUIT)
		_ = p.server.Wait()
		p.server = nil
	}
}

func (p *postgres) open(t *testing.T, node string) *inPostgres {
	t.Helper()
	l, err := Open(t.Context(), p.location(), Options{Database: [16]byte{0xff, 1, 2, 3, 0xfe}, Node: node, Address: node + ":9999",
		Logger: slog.New(slog.DiscardHandler), Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*inPostgres)
}

// waiting checks that the lease is not acquired for two timeouts.
func waiting(t *testing.T, l Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := l.Acquire(ctx); err == nil || ctx.Err() == nil || l.Held() {
		t.Fatalf("Acquire: %v, held %v; it should have waited until its context ended", err, l.Held())
	}
}

func TestALeaseInPostgres(t *testing.T) {
	p := newPostgres(t)
	one, two := p.open(t, "one"), p.open(t, "two")
	acquire(t, one)
	waiting(t, two)
	if h, err := two.Holder(t.Context()); err != nil || h.Node != "one" || h.Address != "one:9999" || h.Since.IsZero() {
		t.Fatalf("Holder: %+v, %v", h, err)
	}
	p.stop()
	waiting(t, two)
	if !one.Held() {
		t.Fatal("the holder lost the lease because the server was down")
	}
	p.start(t)
	for ctx := t.Context(); ; pause(ctx, 50*time.Millisecond) { // until it has the lock again
		if h, err := two.Holder(ctx); err != nil || ctx.Err() != nil {
			t.Fatal(err)
		} else if h.Node == "one" {
			break
		}
	}
	waiting(t, two)
	if err := one.Release(t.Context()); err != nil || one.Held() {
		t.Fatalf("Release: %v, held %v", err, one.Held())
	}
	acquire(t, two)

	// As if it were paused: nothing is sent, and the session stays open.
	two.stop()
	<-two.done
	acquire(t, one)
	two.start() // it goes on
	<-two.done
	if two.Held() || !one.Held() {
		t.Errorf("held by the old holder: %v, by the new one: %v", two.Held(), one.Held())
	}
}
