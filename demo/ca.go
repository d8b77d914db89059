package demo

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// authority is a throwaway certificate authority that lives as long as the
// run. Its certificate and key lie in the run's directory, for programs that
// want to join the network.
type authority struct {
	dir      string
	key      *ecdsa.PrivateKey
	cert     *x509.Certificate
	certFile string
	keyFile  string
	roots    *x509.CertPool
}

// lifetime of all certificates; the hour before now forgives clocks.
const lifetime = 30 * 24 * time.Hour

func newAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir, certFile: filepath.Join(dir, "ca.pem"), keyFile: filepath.Join(dir, "ca.key")}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "mailxmppd demo throwaway CA"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if a.cert, err = issue(template, template, a.key, a.key); err != nil {
		return nil, err
	}
	a.roots = x509.NewCertPool()
	a.roots.AddCert(a.cert)
	return a, writePair(a.certFile, a.keyFile, a.cert, a.key)
}

// leaf is a certificate of the authority for names, with its files.
type leaf struct {
	certFile string
	keyFile  string
	pair     tls.Certificate
}

// leaf issues a certificate for names; the first one names its files. Its one
// extended key usage is serverAuth: that is all public authorities issue, and
// a gateway must take it from a connecting peer too.
func (a *authority) leaf(names ...string) (leaf, error) {
	l := leaf{certFile: filepath.Join(a.dir, names[0]+".pem"), keyFile: filepath.Join(a.dir, names[0]+".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return leaf{}, err
	}
	cert, err := issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: names[0]},
		DNSNames:    names,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, key, a.key)
	if err != nil {
		return leaf{}, err
	}
	l.pair = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	return l, writePair(l.certFile, l.keyFile, cert, key)
}

func issue(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(lifetime)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func writePair(certFile, keyFile string, cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o644)
}
