package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/youmark/pkcs8"
)

// An identity is a certificate and its key, in files.
type identity struct {
	cert, key string
	pair      tls.Certificate
}

// newIdentity makes a certificate that ends after some time, signed by an
// authority or, if that is nil, by itself.
func newIdentity(t *testing.T, name string, life time.Duration, by *identity) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name + ".example.com"},
		NotBefore:    time.Now().Add(-48 * time.Hour),
		NotAfter:     time.Now().Add(life),
	}
	parent, signer := template, any(key)
	if by == nil {
		template.IsCA = name == "authority"
		template.BasicConstraintsValid = template.IsCA
	} else {
		parent, signer = by.pair.Leaf, by.pair.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	id := &identity{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"),
		tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
	writePEM(t, id.cert, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	writePEM(t, id.key, &pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	return id
}

func writePEM(t *testing.T, path string, blocks ...*pem.Block) {
	t.Helper()
	text := []byte("Text before is allowed.\n")
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(b)...)
	}
	write(t, path, text)
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// handshake tries a connection, and returns what the server knows of the
// client, or why it refused.
func handshake(t *testing.T, files *tlsFiles, trusted *identity, own *identity) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a net.Pipe would not take two alerts at once
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	pool := x509.NewCertPool()
	pool.AddCert(trusted.pair.Leaf)
	client := tls.Client(b, &tls.Config{RootCAs: pool, ServerName: trusted.pair.Leaf.DNSNames[0],
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if own == nil {
				return &tls.Certificate{}, nil
			}
			return &own.pair, nil
		}})
	done := make(chan error)
	go func() {
		err := client.HandshakeContext(context.Background())
		if err == nil {
			_, err = client.Read(make([]byte, 1)) // the server's alert, or its end
		}
		done <- err
	}()
	server := tls.Server(a, files.config())
	err = server.HandshakeContext(t.Context())
	server.Close()
	<-done
	return server.ConnectionState(), err
}

func openTestTLS(t *testing.T, flags tlsFlags) (*tlsFiles, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	files, err := openTLS(&flags, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return files, &log
}

func TestTLSOptionsThatDoNotFitAreRefusedWithAdvice(t *testing.T) {
	a, b := newIdentity(t, "a", time.Hour, nil), newIdentity(t, "b", time.Hour, nil)
	dir := t.TempDir()
	file := func(name string, text string) string {
		path := filepath.Join(dir, name)
		write(t, path, []byte(text))
		return path
	}
	der, err := x509.MarshalECPrivateKey(a.pair.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	block, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte("guess-wrong-not"), x509.PEMCipher3DES) //nolint:staticcheck // the old way is what is tested
	if err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(dir, "locked.pem")
	writePEM(t, locked, block)
	der, err = pkcs8.ConvertPrivateKeyToPKCS8(a.pair.PrivateKey, []byte("guess-wrong-not"))
	if err != nil {
		t.Fatal(err)
	}
	locked8 := filepath.Join(dir, "locked8.pem")
	writePEM(t, locked8, &pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
	wrong, empty := file("wrong", "guess-wrong\n"), file("empty", "")
	crl := filepath.Join(dir, "crl.pem")
	writePEM(t, crl, &pem.Block{Type: "X509 CRL", Bytes: []byte{1}})
	broken := filepath.Join(dir, "broken.pem")
	writePEM(t, broken, &pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})
	long := file("long", strings.Repeat("x", maxPEM+1))

	for name, c := range map[string]struct {
		flags tlsFlags
		want  []string
	}{
		"key alone":               {tlsFlags{Key: a.key}, []string{"--tls-key", "--tls-cert"}},
		"cert alone":              {tlsFlags{Cert: a.cert}, []string{"--tls-cert", "--tls-key"}},
		"CA alone":                {tlsFlags{ClientCA: a.cert}, []string{"give --tls-cert and --tls-key"}},
		"names alone":             {tlsFlags{ReadOnly: []string{"x"}}, []string{"give --tls-cert and --tls-key"}},
		"auth without CA":         {tlsFlags{Cert: a.cert, Key: a.key, ClientAuth: "optional"}, []string{"--tls-client-auth optional", "--tls-client-ca"}},
		"names without CA":        {tlsFlags{Cert: a.cert, Key: a.key, ReadOnly: []string{"x"}}, []string{"--tls-read-only", "--tls-client-ca"}},
		"no such cert":            {tlsFlags{Cert: dir + "/no", Key: a.key}, []string{"--tls-cert", dir + "/no", "no such file"}},
		"no such key":             {tlsFlags{Cert: a.cert, Key: dir + "/no"}, []string{"--tls-key", dir + "/no", "no such file"}},
		"no such CA":              {tlsFlags{Cert: a.cert, Key: a.key, ClientCA: dir + "/no"}, []string{"--tls-client-ca", dir + "/no", "no such file"}},
		"another's key":           {tlsFlags{Cert: a.cert, Key: b.key}, []string{a.cert, b.key, "does not match"}},
		"no key in it":            {tlsFlags{Cert: a.cert, Key: a.cert}, []string{"no private key", a.cert}},
		"no cert in it":           {tlsFlags{Cert: empty, Key: a.key}, []string{"--tls-cert " + empty}},
		"no password":             {tlsFlags{Cert: a.cert, Key: locked}, []string{"encrypted", "--tls-key-password-file"}},
		"no such password file":   {tlsFlags{Cert: a.cert, Key: locked, KeyPasswordFile: dir + "/no"}, []string{"--tls-key-password-file", dir + "/no"}},
		"wrong password":          {tlsFlags{Cert: a.cert, Key: locked, KeyPasswordFile: wrong}, []string{"the password in " + wrong, locked}},
		"wrong password, PKCS #8": {tlsFlags{Cert: a.cert, Key: locked8, KeyPasswordFile: wrong}, []string{"the password in " + wrong, locked8}},
		"empty CA":                {tlsFlags{Cert: a.cert, Key: a.key, ClientCA: empty}, []string{"no certificates in " + empty}},
		"empty CA directory":      {tlsFlags{Cert: a.cert, Key: a.key, ClientCA: t.TempDir()}, []string{"no certificates in "}},
		"a broken CA":             {tlsFlags{Cert: a.cert, Key: a.key, ClientCA: broken}, []string{broken, "malformed"}},
		"a revocation list":       {tlsFlags{Cert: a.cert, Key: a.key, ClientCA: crl}, []string{crl, "revocation list", "take it out"}},
		"a long file":             {tlsFlags{Cert: long, Key: a.key}, []string{long, "longer than"}},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := openTLS(&c.flags, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatalf("%+v", files)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "guess-wrong") {
				t.Errorf("it tells the password: %v", err)
			}
		})
	}

	// The controls: with the right password both open.
	right := file("right", "guess-wrong-not\r\nmore\n")
	for _, key := range []string{locked, locked8} {
		files, _ := openTestTLS(t, tlsFlags{Cert: a.cert, Key: key, KeyPasswordFile: right})
		if _, err := handshake(t, files, a, nil); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if files, err := openTLS(&tlsFlags{}, nil); files != nil || err != nil {
		t.Errorf("%v, %v", files, err)
	}
}

func TestTheAuthorityFileSaysWhoseCertificatesAreTrusted(t *testing.T) {
	server, authority := newIdentity(t, "server", time.Hour, nil), newIdentity(t, "authority", time.Hour, nil)
	signed, own := newIdentity(t, "signed", time.Hour, authority), newIdentity(t, "own", time.Hour, nil)
	stranger, expired := newIdentity(t, "stranger", time.Hour, nil), newIdentity(t, "expired", -time.Hour, authority)

	dir := t.TempDir()
	for name, id := range map[string]*identity{"a.pem": authority, "0123abcd.0": own} {
		if err := os.Symlink(id.cert, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "README"), []byte("not a certificate\n"))
	if err := os.Mkdir(filepath.Join(dir, "stranger"), 0o777); err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "stranger", "cert.pem"), &pem.Block{Type: "CERTIFICATE", Bytes: stranger.pair.Certificate[0]})
	both := filepath.Join(t.TempDir(), "both.pem")
	writePEM(t, both,
		&pem.Block{Type: "CERTIFICATE", Bytes: authority.pair.Certificate[0]},
		&pem.Block{Type: "CERTIFICATE", Bytes: own.pair.Certificate[0]})

	for _, ca := range []string{dir, both} {
		for _, auth := range []string{"", "required", "optional"} {
			files, _ := openTestTLS(t, tlsFlags{Cert: server.cert, Key: server.key, ClientCA: ca, ClientAuth: auth})
			for _, trusted := range []*identity{signed, own} {
				if _, err := handshake(t, files, server, trusted); err != nil {
					t.Errorf("%s %q: %v", ca, auth, err)
				}
			}
			for want, refused := range map[string]*identity{"unknown authority": stranger, "expired": expired} {
				if _, err := handshake(t, files, server, refused); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s %q: %s: %v", ca, auth, want, err)
				}
			}
			if _, err := handshake(t, files, server, nil); (err == nil) != (auth == "optional") {
				t.Errorf("%s %q: without a certificate: %v", ca, auth, err)
			}
		}
	}
	files, _ := openTestTLS(t, tlsFlags{Cert: server.cert, Key: server.key})
	if _, err := handshake(t, files, server, nil); err != nil {
		t.Errorf("without --tls-client-ca: %v", err)
	}
}

func TestClientsMayOnlyReadByTheNamesOfTheirCertificates(t *testing.T) {
	server, alice := newIdentity(t, "server", time.Hour, nil), newIdentity(t, "Alice", time.Hour, nil)
	for name, c := range map[string]struct {
		names    []string
		own      *identity
		readOnly bool
	}{
		"no names":               {nil, alice, false},
		"another's name":         {[]string{"bob"}, alice, false},
		"part of a name":         {[]string{"Ali", "example.com", "*.example.com"}, alice, false},
		"common name":            {[]string{"bob", "Alice"}, alice, true},
		"common name in small":   {[]string{"alice"}, alice, true},
		"DNS name":               {[]string{"alice.example.com"}, alice, true},
		"without a certificate":  {nil, nil, true},
		"the same, with names":   {[]string{"bob"}, nil, true},
		"an empty name is no CN": {[]string{""}, alice, false},
	} {
		t.Run(name, func(t *testing.T) {
			flags := tlsFlags{Cert: server.cert, Key: server.key, ClientCA: alice.cert, ClientAuth: "optional", ReadOnly: c.names}
			files, _ := openTestTLS(t, flags)
			state, err := handshake(t, files, server, c.own)
			if err != nil {
				t.Fatal(err)
			}
			if why := flags.readOnly(&state); (why != "") != c.readOnly {
				t.Errorf("%q", why)
			}
		})
	}
	// Without --tls-client-ca nobody is asked for a certificate.
	if why := (&tlsFlags{}).readOnly(&tls.ConnectionState{}); why != "" {
		t.Error(why)
	}
}

func TestEveryDoorKnowsWhoMayWrite(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "zeo.sock")
	for name, c := range map[string]struct {
		serve serveCmd
		tls   []bool
		why   []string // for a client without a certificate
	}{
		"without TLS":  {serveCmd{}, []bool{false, false, false}, []string{"", "", "this address"}},
		"--read-only":  {serveCmd{ReadOnly: true}, []bool{false, false, false}, []string{"--read-only", "--read-only", "--read-only"}},
		"TLS":          {serveCmd{TLS: tlsFlags{Cert: "c"}}, []bool{true, false, true}, []string{"", "", "this address"}},
		"certificates": {serveCmd{TLS: tlsFlags{Cert: "c", ClientCA: "d"}}, []bool{true, false, true}, []string{"no certificate", "", "this address"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.serve.Listen, c.serve.ListenReadOnly = []string{"127.0.0.1:0", socket}, []string{"127.0.0.1:0"}
			var certificates *tlsFiles
			if c.serve.TLS.Cert != "" {
				certificates = &tlsFiles{}
			}
			doors, err := c.serve.openDoors(certificates)
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(doors)
			for i, d := range doors {
				var state *tls.ConnectionState
				if c.tls[i] {
					state = &tls.ConnectionState{}
				}
				if (d.access.TLS != nil) != c.tls[i] {
					t.Errorf("door %d: TLS %v", i, d.access.TLS != nil)
				}
				if why := d.access.ReadOnly(state); (why == "") != (c.why[i] == "") || !strings.Contains(why, c.why[i]) {
					t.Errorf("door %d: %q", i, why)
				}
			}
		})
	}
}

func TestTLSFilesCanBeReadAgain(t *testing.T) {
	old, renewed := newIdentity(t, "server", time.Hour, nil), newIdentity(t, "server", 2*time.Hour, nil)
	a, b := newIdentity(t, "a", time.Hour, nil), newIdentity(t, "b", time.Hour, nil)
	copyFile := func(from, to string) {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, text)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	copyFile(a.cert, ca)
	files, log := openTestTLS(t, tlsFlags{Cert: old.cert, Key: old.key, ClientCA: ca})
	if _, err := handshake(t, files, old, a); err != nil {
		t.Fatal(err)
	}
	oldPair := *old

	// In the midst of a renewal the files do not fit each other.
	copyFile(renewed.cert, old.cert)
	files.reload()
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "does not match") {
		t.Error(log)
	}
	if _, err := handshake(t, files, &oldPair, a); err != nil {
		t.Errorf("the old ones do not hold any more: %v", err)
	}

	log.Reset()
	copyFile(renewed.key, old.key)
	copyFile(b.cert, ca)
	files.reload()
	if !strings.Contains(log.String(), "read again") || strings.Contains(log.String(), "level=ERROR") {
		t.Error(log)
	}
	if _, err := handshake(t, files, renewed, b); err != nil {
		t.Error(err)
	}
	if _, err := handshake(t, files, renewed, a); err == nil {
		t.Error("a certificate that is not trusted any more")
	}
	if _, err := handshake(t, files, &oldPair, b); err == nil {
		t.Error("the old certificate is in use")
	}
}

func TestCertificatesOutOfDateAreWarnedOf(t *testing.T) {
	good, old := newIdentity(t, "good", time.Hour, nil), newIdentity(t, "old", -time.Hour, nil)
	for _, c := range []struct {
		flags tlsFlags
		want  string
	}{
		{tlsFlags{Cert: good.cert, Key: good.key, ClientCA: good.cert}, ""},
		{tlsFlags{Cert: old.cert, Key: old.key, ClientCA: good.cert}, "the server's certificate has expired"},
		{tlsFlags{Cert: good.cert, Key: good.key, ClientCA: old.cert}, "a certificate of --tls-client-ca has expired"},
	} {
		if _, log := openTestTLS(t, c.flags); !strings.Contains(log.String(), c.want) || (log.Len() > 0) != (c.want != "") {
			t.Errorf("%q: %s", c.want, log)
		}
	}
}

func TestTheExamplesOfServeCanBeTyped(t *testing.T) {
	examples := 0
	for line := range strings.Lines((*serveCmd)(nil).Help()) {
		args := strings.Fields(strings.ReplaceAll(line, "'", ""))
		if len(args) < 2 || args[0] != "s3storage" {
			continue
		}
		examples++
		var c struct {
			Serve serveCmd `cmd:""`
		}
		parser, err := kong.New(&c, kong.Exit(func(int) { t.Errorf("%q asks for help", line) }))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(args[1:]); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if examples < 5 {
		t.Errorf("only %d examples were found", examples)
	}
}
