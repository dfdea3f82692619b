package bucket

import (
	"os"
	"syscall"
)

// startWriteback has the disk begin to write a part of a file, so that Sync, which
// is still needed and tells of errors, waits for less.
func startWriteback(f *os.File, offset, n int64) {
	const write = 2 // SYNC_FILE_RANGE_WRITE: sync_file_range(2)
	_ = syscall.SyncFileRange(int(f.Fd()), offset, n, write)
}
