// Reading the files that people have keys in.

package contacts

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/smallstep/pkcs7"

	"mailxmppd/store"
)

// MaxFile bounds a file of keys.
const MaxFile = 1 << 20

// maxFound bounds the keys of one file.
const maxFound = 1000

// Found is a key in a file, and whose it is said to be there.
type Found struct {
	*Certificate
	Addresses []string // whose key it is: those of the card that the certificate names too, or all that it names
	Name      string
}

// ReadFile reads a vCard, OpenPGP certificates or S/MIME certificates; what is
// there is told from the content. Errors name the file and the place in it.
func ReadFile(name string, data []byte) ([]Found, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s: larger than %d octets", name, MaxFile)
	}
	var found []Found
	var err error
	if isCard(data) {
		found, err = readCards(data)
	} else {
		var certs []*Certificate
		certs, err = readCertificates(data)
		for _, c := range certs {
			found = append(found, Found{c, c.Addresses, c.Name})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(found) > maxFound {
		return nil, fmt.Errorf("%s: more than %d keys", name, maxFound)
	}
	return found, nil
}

// readCertificates reads keys in any of the forms in which they are passed
// around: armoured or binary OpenPGP, PEM or DER certificates, and the bundles
// of them that mail programs export.
func readCertificates(data []byte) ([]*Certificate, error) {
	trimmed := bytes.TrimSpace(data)
	switch {
	case len(trimmed) == 0:
		return nil, errors.New("empty")
	case bytes.Contains(data, []byte("-----BEGIN PGP ")):
		return readArmored(data)
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return readPEM(data)
	case data[0]&0x80 != 0: // RFC 9580 section 4.2: the first bit of every packet is set
		return readOpenPGP(data)
	case data[0] == 0x30: // a DER or BER SEQUENCE
		return readDER(data)
	}
	return nil, errors.New("no vCard, OpenPGP key or certificate")
}

func readArmored(data []byte) ([]*Certificate, error) {
	block, err := armor.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, errors.New("the OpenPGP armour cannot be read")
	}
	if block.Type != openpgp.PublicKeyType && block.Type != openpgp.PrivateKeyType {
		return nil, errors.New("OpenPGP data, but no key")
	}
	binary, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, errors.New("the OpenPGP armour is damaged")
	}
	return readOpenPGP(binary)
}

func readPEM(data []byte) ([]*Certificate, error) {
	var out []*Certificate
	for n := 1; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		var certs []*Certificate
		var err error
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE", "PKCS7", "CMS":
			certs, err = readDER(block.Bytes)
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
			err = errors.New("this is a private key, which belongs to nobody but its owner: give the certificate")
		default:
			err = errors.New("no certificate")
		}
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", n, err)
		}
		if out = append(out, certs...); len(out) > maxFound {
			return nil, fmt.Errorf("more than %d certificates", maxFound)
		}
	}
	return own(out)
}

func readDER(data []byte) ([]*Certificate, error) {
	c, err := readX509(data)
	if err == nil {
		return []*Certificate{c}, nil
	}
	if checkBER(data) != nil {
		return nil, err
	}
	bundle, failed := pkcs7.Parse(data)
	if failed != nil || len(bundle.Certificates) == 0 {
		return nil, err
	}
	var out []*Certificate
	for _, cert := range bundle.Certificates {
		c, err := readX509(cert.Raw)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return own(out)
}

// own leaves out the issuers' certificates that come along in bundles.
func own(all []*Certificate) ([]*Certificate, error) {
	var out []*Certificate
	for _, c := range all {
		if c.Kind == store.SMIME && c.x509.BasicConstraintsValid && c.x509.IsCA && len(all) > 1 {
			continue
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no certificate of a person")
	}
	return out, nil
}
