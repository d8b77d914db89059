package contacts

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
)

const (
	maxBare     = 1 << 20 // octets of content that an Ed25519 signature without attributes is over, which cannot be hashed first
	undatedGood = "rightly signed with a key that is known, but the signature does not say when it was made"
)

// verifyBare verifies a signature without signed attributes, which is over the
// content itself (RFC 5652 section 5.4). It is shown, and permits nothing: there
// is no time in it, so that whoever once got it could send it for ever; and what
// somebody has signed as attributes could be passed off as content, for nothing
// in the signature tells the two apart.
func (m *Message) verifyBare(ctx context.Context, s cmsSigner, hash crypto.Hash, cert *x509.Certificate) (wrong string, err error) {
	if k, ok := cert.PublicKey.(ed25519.PublicKey); ok {
		r, err := m.octets()
		if err != nil {
			return "", err
		}
		defer r.Close()
		content, err := io.ReadAll(io.LimitReader(cancelled{ctx, r}, maxBare+1))
		switch {
		case err != nil:
			return "", fmt.Errorf("content: %w", err)
		case len(content) > maxBare:
			return "signature not checked: too large for one of its kind", nil
		case !ed25519.Verify(k, content, s.signature):
			return wrongSignature, nil
		}
		return undatedGood, nil
	}
	sum, err := m.sum(ctx, hash)
	switch {
	case err != nil:
		return "", err
	case s.verifySum(hash, cert, sum) != nil:
		return wrongSignature, nil
	}
	return undatedGood, nil
}

var errSignature = errors.New("signature is wrong")

// verify verifies the signature over the attributes, by the kind of key. Ed25519
// takes them whole (RFC 8419 section 2.3).
func (s cmsSigner) verify(hash crypto.Hash, cert *x509.Certificate, signed []byte) error {
	if k, ok := cert.PublicKey.(ed25519.PublicKey); ok {
		if !ed25519.Verify(k, signed, s.signature) {
			return errSignature
		}
		return nil
	}
	h := hash.New()
	h.Write(signed)
	return s.verifySum(hash, cert, h.Sum(nil))
}

// verifySum verifies the signature over a hash. What the message says beside the
// hash only tells the two RSA paddings apart.
func (s cmsSigner) verifySum(hash crypto.Hash, cert *x509.Certificate, sum []byte) error {
	switch k := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if s.algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}) { // RFC 4056
			return rsa.VerifyPSS(k, hash, sum, s.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
		}
		return rsa.VerifyPKCS1v15(k, hash, sum, s.signature)
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(k, sum, s.signature) {
			return nil
		}
	}
	return errSignature
}
