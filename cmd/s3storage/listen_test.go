package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketLeftByAKilledServerIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zeo.sock")
	l, err := listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a socket in use: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if _, err := listen("8100"); err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
		t.Errorf("a bare port: %v", err)
	}
}

func TestAnnouncementIsAConfigurationToPaste(t *testing.T) {
	for name, c := range map[string]struct {
		serve    serveCmd
		tls      bool
		want     []string
		unwanted []string
	}{
		"as it comes": {
			serveCmd{Listen: []string{"127.0.0.1:0", "[::1]:0"}}, false,
			[]string{"<zodb_db main>\n  mount-point /\n  <zeoclient>\n    server 1\n    server 2\n    storage 1\n  </zeoclient>\n</zodb_db>\n"},
			[]string{"%import", "read-only"},
		},
		"read-only": {
			serveCmd{Listen: []string{"127.0.0.1:0"}, ReadOnly: true}, false,
			[]string{"server 1\n    storage 1\n    read-only true\n"}, nil,
		},
		"with an address for reading": {
			serveCmd{Listen: []string{"127.0.0.1:0"}, ListenReadOnly: []string{"127.0.0.1:0"}}, false,
			[]string{"listening on 2, read-only\n", "server 1\n    storage 1\n  </"},
			[]string{"server 2", "read-only true"},
		},
		"TLS": {
			serveCmd{Listen: []string{"127.0.0.1:0"}}, true,
			[]string{"listening on 1, TLS\n", "%import ZEO\n<zodb_db main>\n", "<clientstorage>\n    server 1\n", "authenticate SERVER.pem\n    </ssl>\n  </clientstorage>\n"},
			[]string{"zeoclient"},
		},
		"TLS and a socket": {
			serveCmd{Listen: []string{filepath.Join(t.TempDir(), "zeo.sock"), "127.0.0.1:0"}}, true,
			[]string{"listening on 2, TLS\n", "<zeoclient>\n    server 1\n"},
			[]string{"%import", "server 2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var certificates *tlsFiles
			if c.tls {
				certificates = &tlsFiles{}
			}
			doors, err := c.serve.openDoors(certificates)
			if err != nil {
				t.Skip(err) // no IPv6
			}
			defer closeAll(doors)
			var out bytes.Buffer
			announce(&out, doors, map[string]database{"1": {}})
			got := out.String()
			for i, d := range doors {
				got = strings.ReplaceAll(got, d.listener.Addr().String(), string(rune('1'+i)))
			}
			for _, want := range append(c.want, "listening on 1") {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in %s", want, got)
				}
			}
			for _, unwanted := range c.unwanted {
				if strings.Contains(got, unwanted) {
					t.Errorf("%q is in %s", unwanted, got)
				}
			}
		})
	}
}
