package s3server

import (
	"path/filepath"
	"syscall"
)

// attributes make the server die with the process that started it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// extendedAttributes reports whether files in dir can have them. The server
// keeps its metadata there, or else in a sidecar directory.
func extendedAttributes(dir string) bool {
	return syscall.Setxattr(filepath.Clean(dir), "user.s3server", []byte("1"), 0) == nil
}
