package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"s3storage/internal/zeo"
)

// tlsFlags are the options that begin with --tls.
type tlsFlags struct {
	Cert            string   `placeholder:"FILE" help:"The server's certificate, with those of authorities between it and the root behind it (PEM). With it every HOST:PORT speaks TLS 1.2 or later, and nothing else; a socket never does."`
	Key             string   `placeholder:"FILE" help:"The private key of --tls-cert (PEM). May be the same file."`
	KeyPasswordFile string   `placeholder:"FILE" help:"A file whose first line is the password of an encrypted --tls-key."`
	ClientCA        string   `name:"client-ca" placeholder:"FILE|DIRECTORY" help:"Whom to believe about clients: certificates of authorities, or those of the clients themselves (PEM). Of a directory, all files that hold certificates. Without it, whoever reaches the port may connect."`
	ClientAuth      string   `enum:",required,optional" default:"" placeholder:"required|optional" help:"With --tls-client-ca: whether a client must have a certificate. With optional, a client without one may only read. Default: required."`
	ReadOnly        []string `placeholder:"NAME" sep:"none" help:"Clients may only read whose certificate has this common name, or this among its DNS names (capitals are the same as small letters). May be given several times."`
}

// check finds flags that do not go together.
func (f *tlsFlags) check() error {
	switch {
	case f.Cert == "" && f.Key != "":
		return errors.New("--tls-key is given without --tls-cert: give the certificate that belongs to the key")
	case f.Cert != "" && f.Key == "":
		return errors.New("--tls-cert is given without --tls-key: give the file of the private key, which may be the same file")
	case f.Cert == "" && (f.KeyPasswordFile != "" || f.ClientCA != "" || f.ClientAuth != "" || len(f.ReadOnly) > 0):
		return errors.New("there are options --tls-... but no TLS: give --tls-cert and --tls-key too")
	case f.ClientCA == "" && f.ClientAuth != "":
		return fmt.Errorf("--tls-client-auth %s is given without --tls-client-ca: give the certificates of the authorities to believe, or of the clients", f.ClientAuth)
	case f.ClientCA == "" && len(f.ReadOnly) > 0:
		return errors.New("--tls-read-only is given without --tls-client-ca: nobody vouches for the names of clients; give the certificates of the authorities to believe, or of the clients")
	}
	return nil
}

// readOnly returns why a client with this certificate may not write, "" if it
// may.
func (f *tlsFlags) readOnly(state *tls.ConnectionState) string {
	if f.ClientCA == "" {
		return ""
	}
	if len(state.PeerCertificates) == 0 {
		return "it has no certificate"
	}
	own := state.PeerCertificates[0]
	for _, name := range f.ReadOnly {
		for _, has := range append([]string{own.Subject.CommonName}, own.DNSNames...) {
			if strings.EqualFold(name, has) {
				return "its certificate is for " + name
			}
		}
	}
	return ""
}

// A tlsFiles is TLS as the files say that the flags name. They can be read again
// while the server runs, for connections made from then on.
type tlsFiles struct {
	flags   *tlsFlags
	logger  *slog.Logger
	current atomic.Pointer[tls.Config]
}

// openTLS reads the files, or returns nil where no flag asks for TLS.
func openTLS(flags *tlsFlags, logger *slog.Logger) (*tlsFiles, error) {
	if err := flags.check(); err != nil || flags.Cert == "" {
		return nil, err
	}
	t := &tlsFiles{flags: flags, logger: logger}
	err := t.load()
	return t, err
}

// config follows the files.
func (t *tlsFiles) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return t.current.Load(), nil
		},
	}
}

// dialer returns how a server connects to others like it, whose first address is one
// like this: it shows the certificate that it has as a server, and believes the
// authorities of --tls-client-ca, or those of the system.
func (t *tlsFiles) dialer(first door) func(context.Context, string, zeo.ClientOptions) (*zeo.Client, error) {
	if first.access.TLS == nil {
		return nil
	}
	return func(ctx context.Context, address string, opts zeo.ClientOptions) (*zeo.Client, error) {
		own := t.current.Load()
		d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: own.Certificates, RootCAs: own.ClientCAs}}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		return zeo.NewClient(conn, opts)
	}
}

// reload reads the files again. If that fails, what they said before goes on to
// hold.
func (t *tlsFiles) reload() {
	if err := t.load(); err != nil {
		t.logger.Error("the TLS files cannot be used; new connections get what was read before", "error", err)
		return
	}
	own := t.current.Load().Certificates[0].Leaf
	t.logger.Info("the TLS files were read again", "certificate", own.Subject.String(), "not-after", own.NotAfter)
}

func (t *tlsFiles) load() error {
	certificate, err := loadKeyPair(t.flags.Cert, t.flags.Key, t.flags.KeyPasswordFile)
	if err != nil {
		return err
	}
	t.warnOfDates("the server's certificate", certificate.Leaf)
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{certificate},
		// A client that comes back shows its certificate anew, for what was
		// read since to judge. ZODB's clients do not come back often.
		SessionTicketsDisabled: true,
	}
	if t.flags.ClientCA != "" {
		authorities, err := loadAuthorities(t.flags.ClientCA)
		if err != nil {
			return fmt.Errorf("--tls-client-ca: %w", err)
		}
		// A certificate that stands in the pool itself is trusted as it is, by
		// crypto/x509 as by OpenSSL: it need not be an authority's, and nobody
		// looks at its signature. So clients' own certificates will do, too.
		c.ClientCAs = x509.NewCertPool()
		for _, a := range authorities {
			t.warnOfDates("a certificate of --tls-client-ca", a)
			c.ClientCAs.AddCert(a)
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if t.flags.ClientAuth == "optional" {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	t.current.Store(c)
	return nil
}

func (t *tlsFiles) warnOfDates(what string, c *x509.Certificate) {
	now := time.Now()
	switch {
	case now.After(c.NotAfter):
		t.logger.Warn(what+" has expired: renew it, and send the server SIGHUP", "subject", c.Subject.String(), "not-after", c.NotAfter)
	case now.Before(c.NotBefore):
		t.logger.Warn(what+" is not valid yet", "subject", c.Subject.String(), "not-before", c.NotBefore)
	}
}
