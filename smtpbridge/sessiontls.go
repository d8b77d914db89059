package smtpbridge

import (
	"context"
	"crypto/tls"
	"strings"
	"time"
)

// tlsConnection is what of a session's TLS connection AUTH may bind to.
type tlsConnection struct {
	state       tls.ConnectionState
	certificate *tls.Certificate // the one that the client was shown; nil where it is not known
}

func (s *session) tlsOffered() bool { return s.srv.cfg.TLS != nil && s.client.TLS == "" }

// needsTLS says whether a command must not come in the clear: on the
// submission listener all but those of RFC 3207 section 4, unless a trusted
// neighbour has authenticated the client. DATA and BDAT are refused by what
// knows what to do about the content behind them.
func (s *session) needsTLS(verb string) bool {
	if s.srv.cfg.Kind != KindSubmission || s.client.TLS != "" || s.client.User != "" {
		return false
	}
	switch verb {
	case "EHLO", "HELO", "STARTTLS", "NOOP", "QUIT", "DATA", "BDAT":
		return false
	case "XCLIENT":
		return !s.trust.xclient
	}
	return true
}

// startTLS: RFC 3207. What the client said so far came in the clear, and may
// have been said by somebody else: it is forgotten (section 4.2). What already
// follows the command in the input was certainly not sent over TLS, and must
// not be taken for it.
func (s *session) startTLS(ctx context.Context, cmd command) bool {
	switch {
	case !s.tlsOffered():
		return s.refuse(serverReply{502, "5.5.1", "STARTTLS is not offered"})
	case cmd.arg != "":
		return s.refuse(serverReply{501, "5.5.4", "STARTTLS takes no argument"})
	case s.in.buffered() > 0:
		return s.violation(serverReply{421, "4.7.0", "commands after STARTTLS without TLS"})
	}
	s.reply(serverReply{220, "2.0.0", "go ahead"})
	if s.out.flush() != nil || !s.handshake(ctx) {
		return false
	}
	s.reset()
	s.greeted, s.client.Helo, s.client.ESMTP = false, "", false
	return true
}

// handshake starts TLS. After a failed one there is no session left: going on
// in plain text is what an attacker in between wants.
func (s *session) handshake(ctx context.Context) bool {
	defer s.awake()
	conn := tls.Server(s.conn, s.tlsConfig())
	ctx, cancel := context.WithTimeout(ctx, s.srv.cfg.Timeouts.Command)
	defer cancel()
	s.conn.SetDeadline(time.Now().Add(s.srv.cfg.Timeouts.Command))
	if !s.rest() {
		return false
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		s.srv.counts.handshakesFailed.Add(1)
		s.srv.cfg.Log.Info("smtp tls handshake failed", "remote", s.remote(), "err", err)
		return false
	}
	s.conn.SetDeadline(time.Time{})
	s.use(conn)
	s.tls.state = conn.ConnectionState()
	s.client.TLS = strings.ReplaceAll(tls.VersionName(s.tls.state.Version), " ", "") + " " + tls.CipherSuiteName(s.tls.state.CipherSuite)
	return true
}

// tlsConfig is the listener's configuration, on a submission listener changed
// so that it notes the certificate that the client is shown: crypto/tls does
// not tell, and tls-server-end-point (RFC 5929 section 4) binds to it. Nothing
// is shown in a resumed session, so that none is resumed.
func (s *session) tlsConfig() *tls.Config {
	base := s.srv.cfg.TLS
	if s.srv.cfg.Kind != KindSubmission || base.GetConfigForClient != nil {
		return base
	}
	noting := base.Clone()
	noting.SessionTicketsDisabled = true
	noting.Certificates = nil
	noting.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := chooseCertificate(base, hello)
		s.tls.certificate = c
		return c, err
	}
	return noting
}

// chooseCertificate does what crypto/tls does with a configuration.
func chooseCertificate(cfg *tls.Config, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cfg.GetCertificate != nil && (len(cfg.Certificates) == 0 || hello.ServerName != "") {
		if c, err := cfg.GetCertificate(hello); c != nil || err != nil {
			return c, err
		}
	}
	for i := range cfg.Certificates {
		if hello.SupportsCertificate(&cfg.Certificates[i]) == nil {
			return &cfg.Certificates[i], nil
		}
	}
	if len(cfg.Certificates) > 0 {
		return &cfg.Certificates[0], nil
	}
	return nil, nil // crypto/tls answers with an error of its own
}
