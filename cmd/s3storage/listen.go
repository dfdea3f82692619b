package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"s3storage/internal/zeo"
)

// A door is an address that clients come in by.
type door struct {
	listener net.Listener
	access   zeo.Access
	readOnly bool // for all that come in here
}

// openDoors opens all listeners, or none. certificates is nil without TLS.
func (c *serveCmd) openDoors(certificates *tlsFiles) (doors []door, err error) {
	for _, address := range append(slices.Clone(c.Listen), c.ListenReadOnly...) {
		l, err := listen(address)
		if err != nil {
			closeAll(doors)
			return nil, err
		}
		doors = append(doors, c.door(l, len(doors) >= len(c.Listen), certificates))
	}
	return doors, nil
}

// door says who comes in by a listener, and for what.
func (c *serveCmd) door(l net.Listener, forReading bool, certificates *tlsFiles) door {
	d := door{listener: l, readOnly: c.ReadOnly || forReading}
	// No stock client speaks TLS on a socket, where files have permissions.
	if certificates != nil && l.Addr().Network() != "unix" {
		d.access.TLS = certificates.config()
	}
	d.access.ReadOnly = func(state *tls.ConnectionState) string {
		switch {
		case c.ReadOnly:
			return "the server runs with --read-only"
		case forReading:
			return "this address is for reading only"
		case state != nil:
			return c.TLS.readOnly(state)
		}
		return ""
	}
	return d
}

// like tells whether the same client can come in by both doors.
func (d door) like(other door) bool {
	return d.readOnly == other.readOnly && (d.access.TLS != nil) == (other.access.TLS != nil)
}

func closeAll(doors []door) {
	for _, d := range doors {
		d.listener.Close()
	}
}

func listen(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix && !strings.Contains(address, "/") {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("cannot listen on %q: give HOST:PORT, [IPv6]:PORT, :PORT, or a path for a socket", address)
		}
		return net.Listen("tcp", address)
	}
	l, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	// A server that was killed leaves its socket behind.
	if conn, dialErr := net.Dial("unix", path); dialErr == nil {
		conn.Close()
		return nil, fmt.Errorf("another server listens on %s: stop it or give another path", path)
	}
	if info, statErr := os.Lstat(path); statErr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s exists and is no socket: give another path", path)
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// announce prints where the server can be reached, and the client configuration
// to paste.
func announce(w io.Writer, doors []door, databases map[string]database) {
	var best []door // the first and those like it: one configuration serves for all of them
	for _, d := range doors {
		note := ""
		if d.access.TLS != nil {
			note += ", TLS"
		}
		if d.readOnly {
			note += ", read-only"
		}
		fmt.Fprintf(w, "listening on %s%s\n", d.listener.Addr(), note)
		if len(best) == 0 || d.like(best[0]) {
			best = append(best, d)
		}
	}
	names := make([]string, 0, len(databases))
	for name := range databases {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(w, "\nFor zope.conf:\n\n")
	section := "zeoclient"
	if best[0].access.TLS != nil {
		section = "clientstorage" // zeoclient knows no TLS
		fmt.Fprintf(w, "%%import ZEO\n")
	}
	for _, name := range names {
		fmt.Fprintf(w, "<zodb_db main>\n  mount-point /\n  <%s>\n", section)
		for _, d := range best {
			fmt.Fprintf(w, "    server %s\n", d.listener.Addr())
		}
		fmt.Fprintf(w, "    storage %s\n", name)
		if best[0].readOnly {
			fmt.Fprintf(w, "    read-only true\n")
		}
		if best[0].access.TLS != nil {
			fmt.Fprintf(w, "    <ssl>\n      certificate CLIENT.pem\n      key CLIENT-KEY.pem\n      authenticate SERVER.pem\n    </ssl>\n")
		}
		fmt.Fprintf(w, "  </%s>\n</zodb_db>\n", section)
	}
}
