package contacts

import (
	"bytes"
	"context"
	"crypto"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"time"

	"github.com/smallstep/pkcs7"
)

// attribute is a signed attribute (RFC 5652 section 5.3).
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue `asn1:"set"`
}

// wrongSignature is said of either kind.
const wrongSignature = "the signature is wrong: the message was changed, or is not from them"

// verifySMIME verifies the S/MIME signature with one certificate. The
// certificates that come along are not looked at.
func (m *Message) verifySMIME(ctx context.Context, c *Certificate, now time.Time) (outcome, error) {
	if checkBER(m.part.signature) != nil {
		return outcome{true, "the signature cannot be read"}, nil
	}
	p7, err := pkcs7.Parse(m.part.signature)
	if err != nil {
		return outcome{true, "the signature cannot be read"}, nil
	}
	if len(p7.Signers) > maxSigners {
		return outcome{true, fmt.Sprintf("more than %d signatures", maxSigners)}, nil
	}
	if m.part.form == opaque {
		m.part.text = append([]byte{}, p7.Content...)
	}
	o := outcome{}
	for _, signer := range p7.Signers {
		name := signer.IssuerAndSerialNumber
		if name.SerialNumber == nil || name.SerialNumber.Cmp(c.x509.SerialNumber) != 0 || !bytes.Equal(name.IssuerName.FullBytes, c.x509.RawIssuer) {
			continue
		}
		o.tried = true
		s := cmsSigner{digest: signer.DigestAlgorithm.Algorithm, algorithm: signer.DigestEncryptionAlgorithm.Algorithm, signature: signer.EncryptedDigest}
		for _, a := range signer.AuthenticatedAttributes {
			s.attributes = append(s.attributes, attribute{a.Type, a.Value})
		}
		if o.wrong, err = m.verifySigner(ctx, s, c.x509, now); err != nil || o.wrong == "" {
			return o, err
		}
	}
	return o, nil
}

// cmsSigner is a SignerInfo (RFC 5652 section 5.3).
type cmsSigner struct {
	digest, algorithm asn1.ObjectIdentifier
	attributes        []attribute
	signature         []byte
}

func (m *Message) verifySigner(ctx context.Context, s cmsSigner, cert *x509.Certificate, now time.Time) (wrong string, err error) {
	hash, ok := s.hash()
	if !ok {
		return "the signature uses a hash that is too weak", nil
	}
	if err := usableX509(cert, now); err != nil {
		return err.Error(), nil
	}
	if len(s.attributes) == 0 {
		return m.verifyBare(ctx, s, hash, cert)
	}
	var kind asn1.ObjectIdentifier
	var sum []byte
	var made time.Time
	if !s.one(pkcs7.OIDAttributeContentType, &kind) || !kind.Equal(pkcs7.OIDData) || !s.one(pkcs7.OIDAttributeMessageDigest, &sum) {
		return "the signature is in a form that is not taken", nil
	}
	if !s.one(pkcs7.OIDAttributeSigningTime, &made) {
		return "the signature does not say when it was made", nil
	}
	if why := verifyTime(made, now); why != "" {
		return why, nil
	}
	signed, err := asn1.MarshalWithParams(s.attributes, "set")
	if err != nil || s.verify(hash, cert, signed) != nil {
		return wrongSignature, nil
	}
	got, err := m.sum(ctx, hash)
	if err != nil {
		return "", err
	}
	if subtle.ConstantTimeCompare(got, sum) != 1 {
		return wrongSignature, nil
	}
	return "", nil
}

// sum hashes the signed octets.
func (m *Message) sum(ctx context.Context, hash crypto.Hash) ([]byte, error) {
	r, err := m.octets()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	h := hash.New()
	if _, err := io.Copy(h, cancelled{ctx, r}); err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	return h.Sum(nil), nil
}

// one reads the value of an attribute, of which there is exactly one, with one
// value (RFC 5652 section 11).
func (s cmsSigner) one(kind asn1.ObjectIdentifier, out any) bool {
	n := 0
	for _, a := range s.attributes {
		if !a.Type.Equal(kind) {
			continue
		}
		rest, err := asn1.Unmarshal(a.Value.Bytes, out)
		if n++; err != nil || len(rest) > 0 {
			return false
		}
	}
	return n == 1
}

func (s cmsSigner) hash() (crypto.Hash, bool) {
	switch {
	case s.digest.Equal(pkcs7.OIDDigestAlgorithmSHA256):
		return crypto.SHA256, true
	case s.digest.Equal(pkcs7.OIDDigestAlgorithmSHA384):
		return crypto.SHA384, true
	case s.digest.Equal(pkcs7.OIDDigestAlgorithmSHA512):
		return crypto.SHA512, true
	}
	return 0, false
}
