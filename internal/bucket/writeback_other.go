//go:build !linux

package bucket

import "os"

// startWriteback does nothing where there is no sync_file_range(2).
func startWriteback(*os.File, int64, int64) {}
