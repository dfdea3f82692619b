//go:build !unix

package filestorage

import "os"

// lockFile makes the file that FileStorage locks; there are no locks here.
func lockFile(name string) (*os.File, error) {
	return os.OpenFile(name+".lock", os.O_RDWR|os.O_CREATE, 0o600)
}
