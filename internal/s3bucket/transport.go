package s3bucket

import (
	"context"
	"net"
	"net/http"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

const (
	dialTimeout   = 5 * time.Second
	tlsTimeout    = 10 * time.Second
	headerTimeout = 30 * time.Second // from the end of the request to the first byte of the answer
	stallTimeout  = 45 * time.Second // without a byte moved
	idleTimeout   = 15 * time.Second // S3 closes connections that idle longer; a put must not meet that
	idlePerHost   = 256
	keepAlive     = 15 * time.Second
)

// httpClient returns a client for hundreds of requests at a time to one host,
// over HTTP/1.1, in which nothing waits forever.
func httpClient() *awshttp.BuildableClient {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &stallGuard{conn}, nil
		}
		t.TLSHandshakeTimeout = tlsTimeout
		t.ResponseHeaderTimeout = headerTimeout
		t.IdleConnTimeout = idleTimeout
		t.MaxIdleConns = 0 // no limit over all hosts
		t.MaxIdleConnsPerHost = idlePerHost
		t.MaxConnsPerHost = 0
		t.ForceAttemptHTTP2 = false
		t.DisableCompression = true
		t.WriteBufferSize = 64 << 10
		t.ReadBufferSize = 64 << 10
	})
}

// A stallGuard is a connection whose reads and writes fail when nothing moves
// for stallTimeout. No other timeout covers a body that stops in the middle.
type stallGuard struct{ net.Conn }

func (c *stallGuard) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *stallGuard) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
