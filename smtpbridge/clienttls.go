package smtpbridge

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"mailxmppd/mail"
)

var (
	// errTLS marks every failure to get the TLS that was asked for.
	errTLS = errors.New("tls")
	// errHandshake marks a handshake that failed.
	errHandshake = errors.New("tls handshake")
)

// tlsPlan is what TLS with one place must show.
type tlsPlan struct {
	off    bool   // no TLS at all
	needed bool   // no TLS, no mail
	name   string // the name that the client indicates
	verify func(tls.ConnectionState) *certificateError
	soft   bool   // a certificate that does not pass is reported and taken
	proof  string // what one that passes proves
}

// planFor joins what the hop's settings and the domain's policy ask. The
// stricter goes; DANE replaces the public authorities (RFC 7672 section 2.2).
func (c *Client) planFor(h Hop, p place) tlsPlan {
	mode := h.tlsMode()
	name := p.tlsName(h)
	pkix := tlsPlan{needed: true, name: name, verify: verifyPKIX(p.host, name, c.cfg.Roots)}
	if p.trusted || h.ServerName != "" {
		pkix.proof = "pkix"
	}
	switch {
	case mode == TLSNone || p.network == "unix":
		return tlsPlan{off: true}
	case p.policy.kind == policyDANE:
		verify := verifyDANE(p.host, p.policy.tlsa, p.policy.names, time.Now())
		return tlsPlan{needed: true, name: p.policy.base, verify: verify, proof: "dane"}
	case p.policy.kind == policySTS:
		pkix.proof = "mta-sts"
		return pkix
	case mode == TLSVerified:
		return pkix
	case p.policy.kind == policyEncrypt:
		return tlsPlan{needed: true, name: p.policy.base}
	case p.policy.kind == policySTSTesting:
		return tlsPlan{name: name, verify: pkix.verify, soft: true}
	}
	return tlsPlan{needed: h.Implicit, name: name}
}

// startTLS turns the session to TLS as planned (RFC 3207).
func (c *Client) startTLS(hc *hopConn, plan tlsPlan) *mail.Failure {
	if !hc.caps.startTLS {
		hc.trouble = &certificateError{resultNoSTARTTLS, "next hop does not offer TLS", errTLS}
		if plan.needed {
			return tlsFailure(hc.host, "4.7.4", hc.trouble.text, nil)
		}
		return nil
	}
	r, err := hc.ask("STARTTLS")
	switch {
	case err != nil:
		return hc.lost(err)
	case r.code != 220:
		hc.trouble = &certificateError{resultNoSTARTTLS, "next hop refuses TLS: " + r.text(), errTLS}
		if plan.needed || hc.broken {
			return tlsFailure(hc.host, "4.7.4", hc.trouble.text, nil)
		}
		return nil
	case hc.br.Buffered() > 0:
		// Plain text sent after the go-ahead would be read as if it had come
		// protected.
		hc.trouble = &certificateError{resultValidation, "plain text after the reply to STARTTLS", errHandshake}
		return tlsFailure(hc.host, "4.7.5", "", hc.trouble)
	}
	if f := c.handshake(hc, plan); f != nil {
		return f
	}
	// RFC 3207 section 4.2: what was offered in plain text is forgotten.
	return hc.hello(c.cfg.Hostname)
}

// handshake puts TLS over the session. The certificate is checked by the plan
// alone: crypto/tls knows neither TLSA records nor a failure that is only to be
// reported.
func (c *Client) handshake(hc *hopConn, plan tlsPlan) *mail.Failure {
	conn := tls.Client(hc.nc, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         plan.name,
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if plan.verify == nil {
				return nil
			}
			if trouble := plan.verify(cs); trouble != nil {
				hc.trouble = trouble
				if !plan.soft {
					return trouble
				}
				return nil
			}
			hc.proof = plan.proof
			return nil
		},
	})
	conn.SetDeadline(time.Now().Add(hc.times.Connect))
	if err := conn.Handshake(); err != nil {
		if hc.trouble == nil {
			hc.trouble = &certificateError{resultValidation, "TLS with the next hop failed", err}
		}
		hc.proof = ""
		return tlsFailure(hc.host, "4.7.5", hc.trouble.text, fmt.Errorf("%w: %w", errHandshake, err))
	}
	hc.over(conn)
	hc.tls = tlsSummary(conn.ConnectionState())
	return nil
}

// tlsFailure is temporary: a certificate that has run out is renewed, and mail
// in the queue must outlive that.
func tlsFailure(host, status, text string, cause error) *mail.Failure {
	if text == "" {
		text = "TLS with the next hop failed"
	}
	if cause == nil {
		cause = errTLS
	} else {
		cause = fmt.Errorf("%w: %w", errTLS, cause)
	}
	f := mail.Fail(mail.Unreachable, text, cause).WithStatus(status)
	f.Remote = host
	return f
}

func isTLSFailure(f *mail.Failure) bool { return errors.Is(f.Cause, errTLS) }

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
