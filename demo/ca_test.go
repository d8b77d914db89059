package demo

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
)

func TestLeafCertificates(t *testing.T) {
	a, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := a.leaf(capulet)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(l.certFile, l.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pair.Leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("extended key usages %v, want serverAuth alone", pair.Leaf.ExtKeyUsage)
	}
	verify := func(name string, roots *x509.CertPool) error {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots})
		return err
	}
	if err := verify(capulet, a.roots); err != nil {
		t.Error(err)
	}
	if verify(montague, a.roots) == nil || verify("sub."+capulet, a.roots) == nil {
		t.Error("the certificate proves another name")
	}
	if verify(capulet, x509.NewCertPool()) == nil {
		t.Error("the certificate is trusted without its authority")
	}
	if _, err := tls.LoadX509KeyPair(a.certFile, a.keyFile); err != nil {
		t.Errorf("authority's own files: %v", err)
	}
}
