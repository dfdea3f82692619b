// Package localserver runs programs that are servers for tests, on the loopback
// interface and with their data in temporary directories.
package localserver

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

// A Server is a program on the loopback interface with its data, if it has any,
// in a temporary directory. Its methods are called by one goroutine.
type Server struct {
	Dir     string
	Port    int
	Command func() *exec.Cmd            // made by Program
	Answers func(context.Context) error // nil once it does

	user    *syscall.Credential // nil: this user
	running *exec.Cmd
}

// New returns a server that does not run yet, and is stopped at the end of
// the test. It does not run as root, which such programs refuse.
func New(t *testing.T) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir}
	t.Cleanup(func() { s.Stop(t); _ = os.RemoveAll(dir) })
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
	s.Port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	return s
}

// AsThisUser has it run as the user of this process, whoever that is.
func (s *Server) AsThisUser() { s.user = nil }

// Program returns a program that would run as the server's user, in its directory.
func (s *Server) Program(path string, args ...string) *exec.Cmd {
	c := exec.Command(path, args...)
	c.Dir = s.Dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	return c
}

// Address is where it listens, if its command says so.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Start starts the server and waits until it answers.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	s.running = s.Command()
	if err := s.running.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := s.Answers(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s does not answer: %v", s.running, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server at once, with all connections.
func (s *Server) Stop(*testing.T) {
	if s.running != nil {
		_ = s.running.Process.Signal(syscall.SIGQUIT) // PostgreSQL ends its children
		_ = s.running.Wait()
		s.running = nil
	}
}

// Restart stops and starts the server.
func (s *Server) Restart(t *testing.T) {
	s.Stop(t)
	s.Start(t)
}
