package zeo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
)

// An Access says how the clients of a listener get in, and what they may do.
// With the zero value they come in without TLS and may read and write.
type Access struct {
	// TLS is the server's side of TLS, which starts at the first byte; nil
	// for none.
	TLS *tls.Config

	// ReadOnly returns why a client may not write, or "" if it may. The state
	// is nil without TLS. A nil func lets everybody write. It is called once
	// for each connection, from any goroutine.
	ReadOnly func(state *tls.ConnectionState) string
}

// A tlsError says why there is no TLS with a client.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// enter brings up TLS if the listener asks for it, and finds out what the
// client may do.
func (c *conn) enter() error {
	var state *tls.ConnectionState
	if t, ok := c.nc.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(c.ctx, c.srv.opts.HandshakeTimeout)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			return &tlsError{c.explain(err)}
		}
		s := t.ConnectionState()
		state = &s
		if len(s.PeerCertificates) > 0 {
			c.log = c.log.With("certificate", s.PeerCertificates[0].Subject.String())
		}
	}
	if c.access.ReadOnly != nil {
		c.mayOnlyRead = c.access.ReadOnly(state)
	}
	return nil
}

// explain adds to the error of a TLS handshake what it means here.
func (c *conn) explain(err error) error {
	var plain tls.RecordHeaderError
	var refused *tls.CertificateVerificationError
	switch {
	case errors.As(err, &plain) && plain.Conn != nil:
		return fmt.Errorf("the client does not speak TLS, and this address speaks nothing else: %w", err)
	case errors.As(err, &refused) && len(refused.UnverifiedCertificates) > 0:
		own := refused.UnverifiedCertificates[0]
		return fmt.Errorf("the client's certificate is refused (subject %.200q, issuer %.200q): %w",
			own.Subject.String(), own.Issuer.String(), err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("nothing that could be TLS for %v: a client without TLS waits for this server to speak first, which it does not on this address: %w",
			c.srv.opts.HandshakeTimeout, err)
	}
	return err
}

// looksLikeTLS tells whether a frame that is too long is the beginning of a TLS
// handshake: its type, 22, and the first byte of its version, 3, are the upper
// half of what was taken for a size.
func looksLikeTLS(err error) bool {
	var size *FrameSizeError
	return errors.As(err, &size) && size.Size>>16 == 22<<8|3
}

// onlyReads is the error for a client that wants to write and may not.
func (c *conn) onlyReads() error {
	return &Error{classReadOnly, Tuple{"this client may only read: " + c.mayOnlyRead}}
}
