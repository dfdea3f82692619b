//go:build !linux

package cache

import "testing"

func smallDisk(t *testing.T, _ int) string {
	t.Skip("mounts a file system, which this test can do on Linux only")
	return ""
}
