package contacts

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailxmppd/store"
)

// readX509 reads one DER certificate.
func readX509(der []byte) (*Certificate, error) {
	if len(der) > maxCertificate {
		return nil, fmt.Errorf("a certificate of more than %d octets", maxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("the certificate cannot be read")
	}
	sum := sha256.Sum256(cert.Raw)
	c := &Certificate{Kind: store.SMIME, Fingerprint: strings.ToUpper(hex.EncodeToString(sum[:])), Data: cert.Raw,
		Name: cert.Subject.CommonName, Expires: cert.NotAfter.UTC(), x509: cert}
	emailAddress := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1} // RFC 8550 section 3
	named := cert.EmailAddresses
	for _, attr := range cert.Subject.Names {
		if s, ok := attr.Value.(string); ok && attr.Type.Equal(emailAddress) {
			named = append(named, s)
		}
	}
	for _, s := range named {
		if a := form(s); a != "" && !c.For(a) {
			c.Addresses = append(c.Addresses, a)
		}
	}
	slices.Sort(c.Addresses)
	if strings.Contains(c.Name, "@") {
		c.Name = "" // an address is not what people call somebody
	}
	return c, nil
}

// usableX509 asks nothing about who has issued the certificate: the recipient
// has it because it is the contact's.
func usableX509(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return errExpired
	case now.Before(c.NotBefore):
		return errNotYet
	case !forMail(c):
		return errPurpose
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= minRSABits && n <= maxRSABits {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	}
	return errWeakKey
}

// forMail reports whether a certificate may sign mail (RFC 8550 sections 4.4.2
// and 4.4.4).
func forMail(c *x509.Certificate) bool {
	if c.KeyUsage != 0 && c.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return false
	}
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageEmailProtection) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}
