// Package s3server runs a real S3 server for tests: versitygw, of the version
// that tools/go.mod names, on the loopback interface, with its objects in a
// temporary directory.
//
// The program is built once, to .tools/versitygw in the repository, and again
// when tools/go.mod names another version.
package s3server

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const program = "github.com/versity/versitygw/cmd/versitygw"

// A Server is a running S3 server. It dies with this process, whatever kills
// that.
type Server struct {
	Endpoint        string // http://127.0.0.1:port
	Region          string
	AccessKeyID     string
	SecretAccessKey string

	dir    string // buckets are directories in dir/buckets
	output *lockedBuffer
	kill   func()
	exited chan struct{}
}

// Start builds the program if need be and starts a server. The caller must
// Stop it.
func Start(ctx context.Context) (*Server, error) {
	bin, err := build(ctx)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ { // somebody else may take the port first
		s, err := start(ctx, bin)
		if err == nil || attempt == 3 || ctx.Err() != nil {
			return s, err
		}
	}
}

func start(ctx context.Context, bin string) (_ *Server, err error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &Server{
		Endpoint:        "http://" + port,
		Region:          "us-east-1",
		AccessKeyID:     "test-" + rand.Text()[:8],
		SecretAccessKey: rand.Text(),
		output:          &lockedBuffer{},
		exited:          make(chan struct{}),
	}
	if s.dir, err = os.MkdirTemp("", "s3server-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.dir)
		}
	}()
	args := []string{"--quiet", "--port", port, "--region", s.Region, "--keep-alive", "--health", "/health", "posix"}
	if !extendedAttributes(s.dir) {
		if err := os.Mkdir(filepath.Join(s.dir, "sidecar"), 0o700); err != nil {
			return nil, err
		}
		args = append(args, "--sidecar", filepath.Join(s.dir, "sidecar"))
	}
	if err := os.Mkdir(filepath.Join(s.dir, "buckets"), 0o700); err != nil {
		return nil, err
	}
	args = append(args, filepath.Join(s.dir, "buckets"))
	if err := s.run(bin, args); err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("%s: %w\n%s", bin, err, s.output)
	}
	return s, nil
}

// run starts the process, from a thread that lives as long as it: the kernel
// kills it when the thread that started it ends.
func (s *Server) run(bin string, args []string) error {
	cmd := exec.Command(bin, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.AccessKeyID, "ROOT_SECRET_ACCESS_KEY="+s.SecretAccessKey)
	cmd.Stdout, cmd.Stderr = s.output, s.output
	cmd.SysProcAttr = attributes()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // however it ended
			close(s.exited)
		}
	}()
	s.kill = func() { _ = cmd.Process.Kill() }
	return <-started
}

func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/health", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.exited:
			return errors.New("the server ended at once")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop ends the server and removes what it has stored.
func (s *Server) Stop() {
	s.kill()
	<-s.exited
	os.RemoveAll(s.dir)
}

// CreateBucket makes an empty bucket and returns its name.
func (s *Server) CreateBucket() (string, error) {
	name := "test-" + strings.ToLower(rand.Text()[:12])
	return name, os.Mkdir(filepath.Join(s.dir, "buckets", name), 0o700)
}

// RemoveBucket removes a bucket with all that is in it.
func (s *Server) RemoveBucket(name string) error {
	return os.RemoveAll(filepath.Join(s.dir, "buckets", name))
}

// freePort returns an address that nobody listened on a moment ago.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// build returns the path of the program, which it builds if it is missing or
// of another version.
func build(ctx context.Context) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	requirements, err := os.ReadFile(filepath.Join(root, "tools", "go.mod"))
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, ".tools", "versitygw")
	if err := os.MkdirAll(filepath.Dir(bin), 0o777); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(bin+".lock", os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return "", err
	}
	defer lock.Close() // lets go of the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("waiting for %s: %w", lock.Name(), err)
	}
	if info, err := buildinfo.ReadFile(bin); err == nil &&
		bytes.Contains(requirements, []byte(info.Main.Path+" "+info.Main.Version)) {
		return bin, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-C", filepath.Join(root, "tools"), "-o", bin, program)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the S3 server for tests: %w\n%s", err, output)
	}
	return bin, nil
}

// repository returns the directory that holds the module's go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tools", "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not inside the repository: there is no tools/go.mod in any directory above")
		}
	}
}

// lockedBuffer holds what the server has printed.
type lockedBuffer struct {
	mu struct {
		sync.Mutex
		text bytes.Buffer
	}
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.text.String()
}

var _ io.Writer = (*lockedBuffer)(nil)
