package demo

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/emersion/go-msgauth/dkim"
)

// The DKIM identity of the demo's signed sample (RFC 6376 section 3.1).
const (
	signedDomain   = capulet
	signedSelector = "demo"
)

// signer is a throwaway DKIM key.
type signer struct{ key *rsa.PrivateKey }

// newSigner makes an RSA key of 2048 bits, which every verifier takes (RFC 8301
// section 3.2).
func newSigner() (*signer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("dkim key: %w", err)
	}
	return &signer{key}, nil
}

// record is the TXT record of the key, in the form of a zone file.
func (s *signer) record() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		return "", err
	}
	text := "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
	half := len(text) / 2 // a character-string holds 255 octets (RFC 1035 section 3.3)
	return fmt.Sprintf("%s._domainkey.%s. 60 IN TXT %q %q", signedSelector, signedDomain, text[:half], text[half:]), nil
}

// sign returns content with a DKIM-Signature field before it. Simple
// canonicalisation: one changed octet, a blank even, breaks it.
func (s *signer) sign(content []byte) ([]byte, error) {
	var out bytes.Buffer
	err := dkim.Sign(&out, bytes.NewReader(content), &dkim.SignOptions{
		Domain:                 signedDomain,
		Selector:               signedSelector,
		Signer:                 s.key,
		Hash:                   crypto.SHA256,
		HeaderCanonicalization: dkim.CanonicalizationSimple,
		BodyCanonicalization:   dkim.CanonicalizationSimple,
		HeaderKeys:             []string{"From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"},
	})
	if err != nil {
		return nil, fmt.Errorf("dkim signature: %w", err)
	}
	return out.Bytes(), nil
}

// verifySignature checks the DKIM signature of a message as it arrived, with
// the key from the demo's DNS.
func verifySignature(ctx context.Context, ns *nameServer, message []byte) error {
	found, err := dkim.VerifyWithOptions(bytes.NewReader(message), &dkim.VerifyOptions{
		LookupTXT:        func(name string) ([]string, error) { return ns.lookupTXT(ctx, name) },
		MaxVerifications: 1,
	})
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return errors.New("no signature")
	case found[0].Domain != signedDomain:
		return fmt.Errorf("signed by %s", found[0].Domain)
	}
	return found[0].Err
}
