package zeo

import (
	"net"
	"syscall"
	"time"
)

// endUnacknowledged has a connection end when what was sent on it is not acknowledged
// for so long. TCP's keepalive does not see that: it only probes connections on which
// nothing is under way.
func endUnacknowledged(c *net.TCPConn, after time.Duration) {
	const userTimeout = 18 // TCP_USER_TIMEOUT: tcp(7)
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is closed
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(after.Milliseconds()))
	})
}
