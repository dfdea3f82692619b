package localserver

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Postgres returns a PostgreSQL server that runs, and the location of a database in
// it. It is as durable as the machine.
func Postgres(t *testing.T) (s *Server, location string) {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		t.Fatal("no PostgreSQL server here: run make servers, or install the package postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	s = New(t)
	if out, err := s.Program(filepath.Join(bin, "initdb"), "-D", s.Dir, "-U", "tester", "-A", "trust", "-N").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.Command = func() *exec.Cmd {
		return s.Program(filepath.Join(bin, "postgres"), "-D", s.Dir, "-p", strconv.Itoa(s.Port), "-h", "127.0.0.1", "-k", "", "-F")
	}
	location = fmt.Sprintf("postgres://tester@%s/postgres?sslmode=disable", s.Address())
	s.Answers = func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, location)
		if err == nil {
			_ = conn.Close(ctx)
		}
		return err
	}
	s.Start(t)
	return s, location
}
