package s3bucket

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestStalledConnectionsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		guard := &stallGuard{near}
		go func() {
			for range 3 { // slow, but not stalled
				time.Sleep(stallTimeout - time.Second)
				far.Write([]byte("x"))
			}
		}()
		for range 3 {
			if _, err := guard.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := guard.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		if _, err := guard.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	})
}
