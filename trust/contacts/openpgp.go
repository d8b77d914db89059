package contacts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// maxSigners bounds the signatures that are looked at in one message.
const maxSigners = 8

// verifyOpenPGP verifies the OpenPGP signature with one certificate.
func (m *Message) verifyOpenPGP(ctx context.Context, c *Certificate, now time.Time) (outcome, error) {
	raw, sigs, problem := signaturesOf(m.part.signature, c.entity)
	if problem != "" {
		return outcome{true, problem}, nil
	}
	if len(sigs) == 0 {
		return outcome{}, nil
	}
	// The key that signs well may be one of several subkeys; each signature has
	// its own time.
	for _, sig := range sigs {
		if why := verifyTime(sig.CreationTime, now); why != "" {
			return outcome{true, why}, nil
		}
	}
	if err := c.Usable(now); err != nil {
		return outcome{true, err.Error()}, nil
	}
	r, err := m.octets()
	if err != nil {
		return outcome{}, err
	}
	defer r.Close()
	content := &watched{r: cancelled{ctx, r}}
	sig, _, err := openpgp.VerifyDetachedSignature(openpgp.EntityList{c.entity}, content, bytes.NewReader(raw), pgpPolicy(now))
	switch {
	case content.err != nil:
		return outcome{}, fmt.Errorf("content: %w", content.err)
	case err != nil:
		return outcome{true, pgpWords(err, sigs)}, nil
	}
	if key, ok := c.entity.SigningKeyById(now, *sig.IssuerKeyId, pgpPolicy(now)); !ok || tooLong(key.PublicKey) {
		return outcome{true, "the subkey that signed has expired, is revoked or too weak"}, nil
	}
	return outcome{tried: true}, nil
}

func tooLong(k *packet.PublicKey) bool {
	bits, err := k.BitLength()
	return err != nil || bits > maxRSABits
}

// signaturesOf picks the signatures that a certificate's keys claim to have
// made. A detached signature is a row of signature packets and nothing else
// (RFC 9580 section 10.4): what could hold more, compressed or encrypted, is
// refused unopened.
func signaturesOf(signature []byte, e *openpgp.Entity) (raw []byte, sigs []*packet.Signature, problem string) {
	if bytes.Contains(signature, []byte("-----BEGIN PGP ")) {
		block, err := armor.Decode(bytes.NewReader(signature))
		if err != nil || block.Type != openpgp.SignatureType {
			return nil, nil, "the signature cannot be read"
		}
		if signature, err = io.ReadAll(io.LimitReader(block.Body, maxSignature)); err != nil {
			return nil, nil, "the signature cannot be read"
		}
	}
	var out bytes.Buffer
	r := packet.NewOpaqueReader(bytes.NewReader(signature))
	for n := 0; ; n++ {
		p, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return out.Bytes(), sigs, ""
		case err != nil:
			return nil, nil, "the signature cannot be read"
		case n == maxSigners:
			return nil, nil, fmt.Sprintf("more than %d signatures", maxSigners)
		case p.Tag == tagMarker || p.Tag == tagPadding:
			continue
		case p.Tag != tagSignature:
			return nil, nil, "what stands for the signature is something else"
		}
		parsed, err := p.Parse()
		sig, ok := parsed.(*packet.Signature)
		if err != nil || !ok || sig.IssuerKeyId == nil || len((openpgp.EntityList{e}).EntitiesById(*sig.IssuerKeyId)) == 0 {
			continue // of a version or by a key that is not known: somebody else's
		}
		sigs = append(sigs, sig)
		if err := p.Serialize(&out); err != nil {
			return nil, nil, "the signature cannot be read"
		}
	}
}

// pgpWords says in ours words why a signature is wrong: the library's may hold
// what the sender chose.
func pgpWords(err error, sigs []*packet.Signature) string {
	policy := pgpPolicy(time.Time{})
	for _, sig := range sigs {
		if policy.RejectMessageHashAlgorithm(sig.Hash) {
			return "the signature uses a hash that is too weak"
		}
	}
	switch {
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return "the signature has expired"
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return errExpired.Error()
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return errRevoked.Error()
	}
	return wrongSignature
}

// watched remembers why reading failed, so that content which cannot be read is
// not taken for content that was changed.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}
