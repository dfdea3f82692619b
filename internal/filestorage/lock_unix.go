//go:build unix

package filestorage

import (
	"fmt"
	"os"
	"syscall"
)

// lockFile takes the lock that FileStorage takes, so that not both write. It is
// held until the file that it returns is closed.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is open in another process, which holds %s: %w", name, f.Name(), err)
	}
	return f, nil
}
