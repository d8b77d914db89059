package stream

import (
	"crypto/tls"
	"errors"
	"strings"

	"mailxmppd/mail"
)

// alpn is the protocol name of server-to-server streams over direct TLS
// (XEP-0368 section 4).
const alpn = "xmpp-server"

// baseTLS has what both roles share. Sessions are never resumed, so that every
// stream rests on certificates shown on its own connection; records are sent
// at full size from the start, which stanzas in bulk profit from. direct says
// that TLS comes first, not by STARTTLS.
func baseTLS(direct bool) *tls.Config {
	c := &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
	if direct {
		c.NextProtos = []string{alpn}
	}
	return c
}

// serverTLS asks for the peer's certificate but leaves the judgement to
// prove, which knows the domain it has to prove. With direct TLS the server
// name says which of our domains is meant; with STARTTLS the stream header has
// said so before, and counts.
func (n *negotiation) serverTLS(direct bool) *tls.Config {
	c := baseTLS(direct)
	c.ClientAuth = tls.RequestClientCert
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if direct {
			domain, err := mail.ParseDomain(strings.TrimSuffix(hello.ServerName, "."))
			if err != nil {
				return nil, errors.New("no usable server name")
			}
			n.pair.local = domain
		}
		return n.certificate(n.pair.local)
	}
	return c
}

// clientTLS names the peer by its domain, never by the name of the host that
// DNS gave for it (RFC 6120 section 13.7.1.2.1), and leaves the judgement to
// prove: the library's own check knows neither SRVName nor XmppAddr.
func (n *negotiation) clientTLS(own *tls.Certificate, direct bool) *tls.Config {
	c := baseTLS(direct)
	c.ServerName = n.pair.remote
	c.InsecureSkipVerify = true
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	return c
}

// describeTLS is the form in which mail.Binding tells the parameters.
func describeTLS(s tls.ConnectionState) string {
	return strings.ReplaceAll(tls.VersionName(s.Version), " ", "") + " " + tls.CipherSuiteName(s.CipherSuite)
}
