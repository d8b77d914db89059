package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"testing"
	"time"
)

// authority is a throwaway CA.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, change ...func(*x509.Certificate)) *authority {
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	for _, f := range change {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{t, cert, key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue makes a certificate for a domain, as public authorities do it:
// serverAuth only.
func (a *authority) issue(domain string, change ...func(*x509.Certificate)) *tls.Certificate {
	key := newKey(a.t)
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: domain}, DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, f := range change {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func expired(c *x509.Certificate)    { c.NotAfter = time.Now().Add(-time.Minute) }
func cnOnly(c *x509.Certificate)     { c.DNSNames = nil }
func clientAuth(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }

// manyNames gives a certificate n names of others before its own.
func manyNames(n int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		own := c.DNSNames
		c.DNSNames = nil
		for i := range n {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("host-%d.of.a.large.hoster.example", i))
		}
		c.DNSNames = append(c.DNSNames, own...)
	}
}

// otherNameSAN replaces the alternative names by one otherName.
func otherNameSAN(t testing.TB, id asn1.ObjectIdentifier, tag int, value string) func(*x509.Certificate) {
	inner, err := asn1.Marshal(asn1.RawValue{Tag: tag, Bytes: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.MarshalWithParams(struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}{id, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: inner}}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	list, err := asn1.Marshal([]asn1.RawValue{{FullBytes: der}})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) {
		c.DNSNames = nil
		c.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: list}}
	}
}

func selfSigned(t testing.TB, domain string) *tls.Certificate {
	own := newAuthority(t, func(c *x509.Certificate) {
		c.DNSNames = []string{domain}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	return &tls.Certificate{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key}
}
