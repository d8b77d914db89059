package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"mailxmppd/trust/header"
)

// Signer signs for a domain.
type Signer struct {
	Domain   string // d=, A-labels
	Selector string // s=
	Key      crypto.Signer
}

// covered are the fields that a signature covers where they are there (RFC 6376
// section 5.4.1): what a reader is shown, and what decides how the body is read.
var covered = []string{
	"from", "sender", "reply-to", "subject", "date", "message-id", "to", "cc", "in-reply-to", "references",
	"mime-version", "content-type", "content-transfer-encoding", "auto-submitted",
	"list-id", "list-unsubscribe", "list-post",
}

// oversigned are covered once more than they are there: a second one that is
// added on the way, or a first one, breaks the signature (RFC 6376 section
// 8.15).
var oversigned = []string{"from", "subject", "date", "to", "message-id"}

// Sign returns a whole DKIM-Signature field (RFC 6376 section 3.5), to be
// prepended to a message with that header. body has seen the whole body, in the
// relaxed form at least. Both forms are relaxed: what a relay changes of the
// white space, it may.
func (s Signer) Sign(h header.Header, body *Body, now time.Time) (string, error) {
	algorithm, err := AlgorithmOf(s.Key)
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	names := Cover(digest, h, covered, oversigned)
	return SignField(digest, fmt.Sprintf(
		"DKIM-Signature: v=1; a=%s; c=relaxed/relaxed;\r\n\td=%s; s=%s; t=%d;\r\n\th=%s;\r\n\tbh=%s;",
		algorithm, s.Domain, s.Selector, now.Unix(), foldNames(names), base64.StdEncoding.EncodeToString(body.Sum(Relaxed))), s.Key)
}

// foldNames writes h=, a few names a line.
func foldNames(names []string) string {
	var b strings.Builder
	column := 0
	for i, n := range names {
		if i > 0 {
			b.WriteByte(':')
			if column += len(n) + 1; column > 60 {
				b.WriteString("\r\n\t ")
				column = 0
			}
		}
		b.WriteString(n)
	}
	return b.String()
}

// Cover hashes, in the relaxed form, those fields of a header that are named,
// of several with one name the last first (RFC 6376 section 5.4.2), and returns
// their names as h= has them: those of twice once more than they are there.
func Cover(digest hash.Hash, h header.Header, names, twice []string) []string {
	var out []string
	for _, name := range names {
		fields := h.All(name)
		for _, f := range slices.Backward(fields) {
			io.WriteString(digest, Relaxed.CanonicalField(f.Raw))
			out = append(out, name)
		}
		if slices.Contains(twice, name) {
			out = append(out, name)
		}
	}
	return out
}

// SignField completes a signature's field with b=, over what digest, a SHA-256,
// has seen and the field itself (RFC 6376 section 3.7).
func SignField(digest hash.Hash, field string, key crypto.Signer) (string, error) {
	field += "\r\n\tb="
	io.WriteString(digest, strings.TrimSuffix(Relaxed.CanonicalField(field), "\r\n"))
	opts := crypto.SignerOpts(crypto.SHA256)
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		opts = crypto.Hash(0) // RFC 8463 section 3: the digest is the message
	}
	sig, err := key.Sign(rand.Reader, digest.Sum(nil), opts)
	if err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	b := base64.StdEncoding.EncodeToString(sig)
	for len(b) > 68 {
		field += b[:68] + "\r\n\t "
		b = b[68:]
	}
	return field + b + "\r\n", nil
}

// AlgorithmOf names what a key signs with, as a= has it.
func AlgorithmOf(key crypto.Signer) (string, error) {
	if key == nil {
		return "", errors.New("no key to sign with")
	}
	switch key.Public().(type) {
	case *rsa.PublicKey:
		return "rsa-sha256", nil
	case ed25519.PublicKey:
		return "ed25519-sha256", nil
	}
	return "", errors.New("neither an RSA nor an Ed25519 key")
}
