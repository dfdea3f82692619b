package lease

import (
	"context"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// A server is a program on the loopback interface with its data, if it has any,
// in a temporary directory.
type server struct {
	dir     string
	port    int
	user    *syscall.Credential // nil: this user
	command func() *exec.Cmd
	answers func(context.Context) error // nil once it does
	running *exec.Cmd
}

// newServer returns a server that does not run yet, and is stopped at the end of
// the test. It does not run as root, which such programs refuse.
func newServer(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "lease")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{dir: dir}
	t.Cleanup(func() { s.stop(t); _ = os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		s.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	return s
}

func (s *server) program(path string, args ...string) *exec.Cmd {
	c := exec.Command(path, args...)
	c.Dir = s.dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	return c
}

func (s *server) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// start starts the server and waits until it answers.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.running = s.command()
	if err := s.running.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := s.answers(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s does not answer: %v", s.running, err)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// stop ends the server at once, with all connections.
func (s *server) stop(*testing.T) {
	if s.running != nil {
		_ = s.running.Process.Signal(syscall.SIGQUIT) // PostgreSQL ends its children
		_ = s.running.Wait()
		s.running = nil
	}
}

func (s *server) restart(t *testing.T) {
	s.stop(t)
	s.start(t)
}
