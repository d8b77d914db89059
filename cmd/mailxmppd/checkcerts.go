package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"

	"mailxmppd/config"
	"mailxmppd/mail"
)

// renewBy is how long before its end a certificate that nobody renewed is
// worth a warning: automatic renewal has failed several times by then.
const renewBy = 14 * 24 * time.Hour

// certificates judges each domain's certificate as a peer would.
func (n *inspection) certificates() {
	roots, err := n.cfg.TLS.Pool()
	if err != nil {
		n.add(levelError, "certificate", "%s", err)
		return
	}
	for _, d := range n.cfg.Domains {
		n.certificate(d, roots)
	}
}

func (n *inspection) certificate(d config.Domain, roots *x509.CertPool) {
	say := func(l level, format string, args ...any) {
		n.add(l, "certificate", "%s: %s", d.Name, fmt.Sprintf(format, args...))
	}
	pair, err := d.LoadCertificate()
	if err != nil {
		say(levelError, "%s", err)
		return
	}
	leaf, now := pair.Leaf, time.Now()
	switch until := leaf.NotAfter.UTC().Format(time.DateOnly); {
	case now.After(leaf.NotAfter):
		say(levelError, "expired on %s", until)
	case now.Before(leaf.NotBefore):
		say(levelError, "not valid before %s", leaf.NotBefore.UTC().Format(time.DateOnly))
	case leaf.NotAfter.Sub(now) < renewBy:
		say(levelWarning, "expires on %s", until)
	default:
		say(levelOK, "valid until %s", until)
	}
	switch err := leaf.VerifyHostname(d.XMPPName()); {
	case err != nil && hasOtherName(leaf):
		say(levelWarning, "has no dNSName for %s: only peers that read SRVName or XmppAddr may take it", d.XMPPName())
	case err != nil:
		say(levelError, "does not name %s: peers will refuse it", d.XMPPName())
	}
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		say(levelWarning, "RSA key of %d bits: peers may refuse less than 2048", key.N.BitLen())
	}
	n.chain(d, leaf, pair.Certificate[1:], roots)
}

// chain tells when peers with the same trusted CAs could not verify the
// certificate. Expiry and name have been judged already.
func (n *inspection) chain(d config.Domain, leaf *x509.Certificate, rest [][]byte, roots *x509.CertPool) {
	between := x509.NewCertPool()
	for _, der := range rest {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: leaf.NotAfter.Add(-time.Second),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		n.add(levelWarning, "certificate", "%s: %s; peers that trust the same CAs will refuse it", d.Name, mail.Sanitise(err.Error()))
	}
}

// hasOtherName reports whether a certificate has a subjectAltName of the kind
// that SRVName (RFC 4985) and XmppAddr (RFC 6120 section 13.7.1.4) use, which
// crypto/x509 does not show.
func hasOtherName(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return false
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == 0 {
				return true
			}
		}
	}
	return false
}
