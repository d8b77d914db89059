package smtpbridge

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
)

// ChannelBindings are what an exchange can be bound to: octets that both ends
// of a TLS connection know and nobody in between has twice, by the registered
// name of their kind.
type ChannelBindings map[string][]byte

// bindings are those of a TLS connection. tls-exporter is for TLS 1.3 (RFC
// 9266), and for TLS 1.2 with the extended master secret, without which it
// fails. tls-unique (RFC 5929 section 3) is for TLS 1.2 only, and without the
// extended master secret not unique.
func (c tlsConnection) bindings() ChannelBindings {
	b := ChannelBindings{}
	if c.state.Version == 0 {
		return b
	}
	exporter, err := c.state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
	if err == nil {
		b["tls-exporter"] = exporter
	}
	if err == nil && c.state.Version == tls.VersionTLS12 && len(c.state.TLSUnique) > 0 {
		b["tls-unique"] = c.state.TLSUnique
	}
	if hash := endPoint(c.certificate); hash != nil {
		b["tls-server-end-point"] = hash
	}
	return b
}

// endPoint hashes a certificate as RFC 5929 section 4.1 says: with the hash of
// its signature, MD5 and SHA-1 being replaced; a signature without one hash
// has no binding.
func endPoint(c *tls.Certificate) []byte {
	if c == nil || len(c.Certificate) == 0 {
		return nil
	}
	leaf := c.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil
		}
	}
	var hash crypto.Hash
	switch leaf.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256, x509.DSAWithSHA256:
		hash = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return nil
	}
	h := hash.New()
	h.Write(leaf.Raw)
	return h.Sum(nil)
}
