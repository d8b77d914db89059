package stream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"mailxmppd/mail"
)

// alpn is the protocol name of server-to-server streams over direct TLS
// (XEP-0368 section 4).
const alpn = "xmpp-server"

// baseTLS has what both roles share. Sessions are never resumed, so that every
// stream rests on certificates shown on its own connection; records are sent
// at full size from the start, which stanzas in bulk profit from.
func baseTLS() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// serverTLS asks for the peer's certificate but leaves the judgement to
// negotiation, which knows the domain it has to prove.
func (m *Manager) serverTLS() *tls.Config {
	c := baseTLS()
	c.ClientAuth = tls.RequestClientCert
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		// Without a server name there is no telling which domain is meant.
		domain, err := mail.ParseDomain(strings.TrimSuffix(hello.ServerName, "."))
		if err != nil {
			return nil, errors.New("no usable server name")
		}
		return m.cfg.Certificate(domain)
	}
	return c
}

// clientTLS verifies the peer by its domain, never by the name of the host
// that DNS gave for it (RFC 6120 section 13.7.1.2.1). The library's own check
// is off because it knows neither SRVName nor XmppAddr.
func (m *Manager) clientTLS(p pair, own *tls.Certificate) *tls.Config {
	c := baseTLS()
	c.ServerName = p.remote
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := verifyCertificate(s.PeerCertificates, m.cfg.Roots, p.remote, x509.ExtKeyUsageServerAuth)
		return err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	return c
}

// describeTLS is the form in which mail.Binding tells the parameters.
func describeTLS(s tls.ConnectionState) string {
	return strings.ReplaceAll(tls.VersionName(s.Version), " ", "") + " " + tls.CipherSuiteName(s.CipherSuite)
}

// maxLinger bounds the octets read from a peer that is being turned away.
const maxLinger = 4 << 20

// lingerOn reads and forgets until the peer closes, so that what we said last
// reaches it before the socket goes.
func lingerOn(conn net.Conn, d time.Duration) {
	conn.SetReadDeadline(time.Now().Add(d))
	io.Copy(io.Discard, io.LimitReader(conn, maxLinger))
}
