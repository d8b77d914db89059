package smtpbridge

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"mailxmppd/mail"
)

// startTLS turns the session to TLS where the mode asks for it (RFC 3207).
func (c *Client) startTLS(hc *hopConn, h Hop, p place, mode TLSMode) *mail.Failure {
	verified := mode == TLSVerified
	if !hc.caps.startTLS {
		if verified {
			return tlsFailure(hc.host, "4.7.4", "next hop does not offer TLS", nil)
		}
		return nil
	}
	r, err := hc.ask("STARTTLS")
	switch {
	case err != nil:
		return hc.lost(err)
	case r.code != 220 && (verified || hc.broken):
		return tlsFailure(hc.host, "4.7.4", "next hop refuses TLS: "+r.text(), nil)
	case r.code != 220:
		return nil
	case hc.br.Buffered() > 0:
		// Plain text sent after the go-ahead would be read as if it had come
		// protected.
		return tlsFailure(hc.host, "4.7.5", "", fmt.Errorf("%w: plain text after the reply to STARTTLS", errTLS))
	}
	name := p.tlsName(h)
	conn := tls.Client(hc.nc, c.tlsConfig(name, verified))
	conn.SetDeadline(time.Now().Add(hc.times.Connect))
	if err := conn.Handshake(); err != nil {
		return tlsFailure(hc.host, "4.7.5", "", fmt.Errorf("%w: %w", errTLS, err))
	}
	hc.over(conn)
	hc.tls = tlsSummary(conn.ConnectionState())
	if verified && (p.trusted || h.ServerName != "") {
		hc.proof = "pkix"
	}
	// RFC 3207 section 4.2: what was offered in plain text is forgotten.
	return hc.hello(c.cfg.Hostname)
}

func (c *Client) tlsConfig(name string, verified bool) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.cfg.Roots, ServerName: name}
	if !verified {
		cfg.InsecureSkipVerify = true
		if net.ParseIP(name) != nil {
			cfg.ServerName = "" // no name to indicate, none to verify
		}
	}
	return cfg
}

// tlsFailure is temporary: a certificate that has run out is renewed, and mail
// in the queue must outlive that.
func tlsFailure(host, status, text string, cause error) *mail.Failure {
	if text == "" {
		text = "TLS with the next hop failed"
	}
	f := mail.Fail(mail.Unreachable, text, cause).WithStatus(status)
	f.Remote = host
	return f
}

// authenticate logs in with AUTH PLAIN (RFC 4954, RFC 4616). A refusal is the
// operator's to mend, and no fault of the message: temporary.
func (hc *hopConn) authenticate(user, password string) *mail.Failure {
	fail := func(text string, cause error) *mail.Failure {
		f := mail.Fail(mail.Unavailable, text, cause).WithStatus("4.7.8")
		f.Remote = hc.host
		return f
	}
	switch {
	case hc.tls == "":
		return fail("next hop wants a password without TLS", nil)
	case !slices.Contains(hc.caps.auth, "PLAIN"):
		return fail("next hop does not offer AUTH PLAIN", nil)
	}
	token := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	r, err := hc.ask("AUTH PLAIN " + token)
	switch {
	case err != nil:
		return hc.lost(err)
	case r.code != 235:
		return fail("next hop refuses our login", errors.New(r.text()))
	}
	return nil
}
