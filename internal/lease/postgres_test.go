package lease

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestALeaseInPostgres(t *testing.T) {
	t.Parallel()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		t.Fatal("no PostgreSQL server here: run make servers, or install the package postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	s := newServer(t)
	if out, err := s.program(filepath.Join(bin, "initdb"), "-D", s.dir, "-U", "lease", "-A", "trust", "-N").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.command = func() *exec.Cmd {
		return s.program(filepath.Join(bin, "postgres"), "-D", s.dir, "-p", strconv.Itoa(s.port), "-h", "127.0.0.1", "-k", "", "-F")
	}
	location := fmt.Sprintf("postgres://lease@%s/postgres?sslmode=disable", s.address())
	s.answers = func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, location)
		if err == nil {
			_ = conn.Close(ctx)
		}
		return err
	}
	s.start(t)
	conform(t, &system{
		open: func(t *testing.T, o Options) Lease {
			l, err := Open(t.Context(), location, o)
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
		down: s.stop, up: s.start, lose: s.restart,
		life: timeout,
	}, knowsDatabases)
}
