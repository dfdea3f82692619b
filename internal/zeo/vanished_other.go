//go:build !linux

package zeo

import (
	"net"
	"time"
)

func endUnacknowledged(*net.TCPConn, time.Duration) {}
