package zeo

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"s3storage/internal/zodb"
)

// selfSigned makes a certificate that no authority stands behind.
func selfSigned(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func poolOf(certs ...tls.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c.Leaf)
	}
	return pool
}

// overTLS returns a peer at addr that did the TLS handshake from its side.
func (s *testServer) overTLS(addr net.Addr, server tls.Certificate, own ...tls.Certificate) *peer {
	s.t.Helper()
	nc, err := tls.Dial("tcp", addr.String(), &tls.Config{
		RootCAs: poolOf(server), ServerName: server.Leaf.DNSNames[0],
		// As OpenSSL does, whatever authorities the server names.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(own) == 0 {
				return &tls.Certificate{}, nil
			}
			return &own[0], nil
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	return &peer{t: s.t, nc: nc, enc: Z5, frames: NewFrameReader(nc, DefaultMaxFrame)}
}

// greeted reads the server's first frame and answers it.
func (p *peer) greeted() *peer {
	p.t.Helper()
	if hello := string(p.frame()); hello != "Z5" {
		p.t.Fatalf("hello %q", hello)
	}
	p.hello()
	return p
}

func TestTLSStartsAtTheFirstByte(t *testing.T) {
	server, client := selfSigned(t, "server"), selfSigned(t, "the client")
	s := serve(t, newMemory(), Options{})
	addr := s.listenLoopback(Access{TLS: &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: poolOf(client), ClientAuth: tls.RequireAndVerifyClientCert,
	}})
	p := s.overTLS(addr, server, client).greeted()
	p.want("register", "1", false)
	big := strings.Repeat("x", 1<<20) // many TLS records
	serial := p.commit(1, zodb.NoTid, big)
	wantValue(t, p.want("loadSerial", zodb.Oid(1), serial), []byte(big))
	s.logged.waitFor(t, `certificate="CN=the client"`)

	// One database, whatever the door.
	plain := s.client(Z5)
	wantValue(t, plain.want("loadSerial", zodb.Oid(1), serial), []byte(big))
	plain.commit(1, serial, "y")
	p.want("ping")
	if len(p.told) != 1 || p.told[0].Name != "invalidateTransaction" {
		t.Errorf("told %v", p.told)
	}
}

func TestClientsWhoseCertificateIsNotTrustedAreRefusedAndNamed(t *testing.T) {
	server, trusted, stranger := selfSigned(t, "server"), selfSigned(t, "trusted"), selfSigned(t, "stranger")
	for name, c := range map[string]struct {
		auth tls.ClientAuthType
		own  []tls.Certificate
		want string
	}{
		"none":                        {tls.RequireAndVerifyClientCert, nil, "didn't provide a certificate"},
		"a stranger's":                {tls.RequireAndVerifyClientCert, []tls.Certificate{stranger}, "CN=stranger"},
		"a stranger's, where none do": {tls.VerifyClientCertIfGiven, []tls.Certificate{stranger}, "CN=stranger"},
		"the server's":                {tls.RequireAndVerifyClientCert, []tls.Certificate{server}, "CN=server"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, newMemory(), Options{})
			addr := s.listenLoopback(Access{TLS: &tls.Config{
				Certificates: []tls.Certificate{server}, ClientCAs: poolOf(trusted), ClientAuth: c.auth,
			}})
			s.overTLS(addr, server, c.own...).wantClosed()
			s.logged.waitFor(t, "no TLS with this client")
			s.logged.waitFor(t, c.want)
			s.overTLS(addr, server, trusted).greeted().want("register", "1", false)
		})
	}
}

func TestPlainAndTLSClientsAtTheWrongAddressAreToldApartInTheLog(t *testing.T) {
	server := selfSigned(t, "server")
	s := serve(t, newMemory(), Options{})
	addr := s.listenLoopback(Access{TLS: &tls.Config{Certificates: []tls.Certificate{server}}})
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	p := &peer{t: t, nc: nc, enc: Z5, frames: NewFrameReader(nc, DefaultMaxFrame)}
	p.send(AppendFrame(nil, []byte("ruok")))
	p.wantClosed()
	s.logged.waitFor(t, "does not speak TLS")

	if _, err := tls.Dial("tcp", s.addr.String(), &tls.Config{RootCAs: poolOf(server)}); err == nil {
		t.Error("TLS without TLS")
	}
	s.logged.waitFor(t, "speaks TLS, and this address does not")
	s.overTLS(addr, server).greeted().want("register", "1", false)
	s.client(Z5).want("ping")
}

// A client that does not go on with its handshake, or never begins one, holds
// up nobody and does not stay for ever.
func TestStalledHandshakesHoldUpNobody(t *testing.T) {
	server := selfSigned(t, "server")
	for name, timeout := range map[string]time.Duration{"until the timeout": 50 * time.Millisecond, "until shutdown": time.Hour} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, newMemory(), Options{HandshakeTimeout: timeout})
			addr := s.listenLoopback(Access{TLS: &tls.Config{Certificates: []tls.Certificate{server}}})
			var stalled []net.Conn
			for n := range 20 {
				nc, err := net.Dial("tcp", addr.String())
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				if n%2 == 0 {
					nc.Write([]byte{22, 3, 1, 2, 0, 1, 0}) // the first bytes of a ClientHello
				}
				stalled = append(stalled, nc)
			}
			if timeout == time.Hour {
				s.overTLS(addr, server).greeted().want("register", "1", false)
				s.client(Z5).want("ping")
				if err := s.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			} else {
				s.logged.waitFor(t, "without TLS waits")
			}
			for _, nc := range stalled {
				nc.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("a connection stays open")
				}
			}
		})
	}
}

func TestClientsThatMayOnlyReadDropNoHistoryEither(t *testing.T) {
	s := serve(t, newMemory(), Options{})
	limited := *s
	limited.addr = s.listenLoopback(Access{ReadOnly: func(state *tls.ConnectionState) string {
		if state != nil {
			t.Error("TLS?")
		}
		return "of this test"
	}})
	p := s.client(Z5)
	serial := p.commit(1, zodb.NoTid, "x")

	q := limited.shake(Z5)
	e := q.wantError(classReadOnly, "register", "1", false)
	if !strings.Contains(e.Error(), "of this test") {
		t.Error(e)
	}
	// A client with read-only-fallback goes on like this.
	q.want("register", "1", true)
	wantValue(t, q.want("loadSerial", zodb.Oid(1), serial), []byte("x"))
	q.wantError(classReadOnly, "new_oids", 1)
	q.wantError(classReadOnly, "tpc_begin", 1, "", "", Dict{}, nil, " ")
	q.wantError(classReadOnly, "vote", 1)
	q.wantError(classReadOnly, "pack", 1.5, true)
	q.wantError(classReadOnly, "s3_pack", zodb.MaxTid)
	q.want("ping")
	p.commit(1, serial, "y")
	q.want("ping")
	if len(q.told) != 1 {
		t.Errorf("told %v", q.told)
	}

	// Who may write and says that it only wants to read may pack: zeopack does so.
	r := s.shake(Z5)
	r.want("register", "1", true)
	if _, err := r.call("pack", 1.5, true); err != nil && strings.Contains(err.Error(), classReadOnly) {
		t.Error(err)
	}
}

func TestWhoMayOnlyReadIsJudgedByTheCertificate(t *testing.T) {
	server, reader, writer := selfSigned(t, "server"), selfSigned(t, "reader"), selfSigned(t, "writer")
	s := serve(t, newMemory(), Options{})
	addr := s.listenLoopback(Access{
		TLS: &tls.Config{
			Certificates: []tls.Certificate{server}, ClientCAs: poolOf(reader, writer), ClientAuth: tls.VerifyClientCertIfGiven,
		},
		ReadOnly: func(state *tls.ConnectionState) string {
			switch {
			case len(state.PeerCertificates) == 0:
				return "nobody knows it"
			case state.PeerCertificates[0].Subject.CommonName == "reader":
				return "it is the reader"
			}
			return ""
		},
	})
	s.overTLS(addr, server, writer).greeted().want("register", "1", false)
	for want, own := range map[string][]tls.Certificate{"nobody knows it": nil, "it is the reader": {reader}} {
		p := s.overTLS(addr, server, own...).greeted()
		if e := p.wantError(classReadOnly, "register", "1", false); !strings.Contains(e.Error(), want) {
			t.Error(e)
		}
		p.want("register", "1", true)
	}
}
