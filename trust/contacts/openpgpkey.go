package contacts

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"mailxmppd/store"
)

// Bounds of an OpenPGP certificate that is read: of its packets in all, and of
// what remains of one once strangers' certifications are left out.
const (
	maxKeyPackets = 5000
	maxOwnSigs    = 200
	maxEntities   = 100
)

// The packet types that a certificate is made of (RFC 9580 section 5).
const (
	tagSignature     = 2
	tagSecretKey     = 5
	tagPublicKey     = 6
	tagSecretSubkey  = 7
	tagMarker        = 10
	tagTrust         = 12
	tagUserID        = 13
	tagPublicSubkey  = 14
	tagUserAttribute = 17
	tagPadding       = 21
)

// pgpPolicy is what OpenPGP keys and signatures must be to prove anything, at a
// point of time. SHA-1 is refused for the signatures that bind a key's parts
// too: whoever can make a collision can add an address to a key.
func pgpPolicy(now time.Time) *packet.Config {
	weak := map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true}
	return &packet.Config{
		Time:                        func() time.Time { return now },
		MinRSABits:                  minRSABits,
		RejectHashAlgorithms:        weak,
		RejectMessageHashAlgorithms: weak,
		RejectPublicKeyAlgorithms:   map[packet.PublicKeyAlgorithm]bool{packet.PubKeyAlgoDSA: true, packet.PubKeyAlgoElGamal: true},
	}
}

// readOpenPGP reads binary OpenPGP certificates.
func readOpenPGP(data []byte) ([]*Certificate, error) {
	clean, err := keyPackets(data)
	if err != nil {
		return nil, err
	}
	entities, err := openpgp.ReadKeyRing(bytes.NewReader(clean))
	if err != nil {
		return nil, errors.New("the OpenPGP key cannot be read")
	}
	var out []*Certificate
	for _, e := range entities {
		c, err := newOpenPGP(e)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no OpenPGP key")
	}
	return out, nil
}

// keyPackets leaves out of a key ring what is not needed to verify with it, and
// refuses what does not belong into one: nothing is decompressed, and packets
// inside of packets are not looked for.
func keyPackets(data []byte) ([]byte, error) {
	var out bytes.Buffer
	r := packet.NewOpaqueReader(bytes.NewReader(data))
	keys, attribute := 0, false
	for n := 0; ; n++ {
		p, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return out.Bytes(), nil
		case err != nil:
			return nil, errors.New("not OpenPGP data, or cut off")
		case n == maxKeyPackets:
			return nil, fmt.Errorf("more than %d OpenPGP packets", maxKeyPackets)
		}
		switch p.Tag {
		case tagSecretKey, tagSecretSubkey:
			return nil, errors.New("this is a private key, which belongs to nobody but its owner: give the public one")
		case tagPublicKey:
			if keys++; keys > maxEntities {
				return nil, fmt.Errorf("more than %d OpenPGP keys", maxEntities)
			}
			attribute = false
		case tagPublicSubkey, tagUserID:
			attribute = false
		case tagUserAttribute: // pictures
			attribute = true
		case tagSignature:
		case tagMarker, tagTrust, tagPadding:
			continue
		default:
			return nil, fmt.Errorf("OpenPGP packet of type %d, which is no part of a key", p.Tag)
		}
		if attribute {
			continue
		}
		if err := p.Serialize(&out); err != nil {
			return nil, err
		}
	}
}

// newOpenPGP keeps what the key's owner says about it, and nobody else: what
// strangers can attach to a key on key servers must not make it too large.
func newOpenPGP(e *openpgp.Entity) (*Certificate, error) {
	c := &Certificate{Kind: store.OpenPGP, Fingerprint: strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint)), entity: e}
	own := len(e.Revocations) + len(e.DirectSignatures)
	for _, id := range e.Identities {
		id.OtherCertifications = nil
		own += len(id.SelfCertifications) + len(id.Revocations)
	}
	for _, s := range e.Subkeys {
		own += len(s.Bindings) + len(s.Revocations)
	}
	if own > maxOwnSigs {
		return nil, fmt.Errorf("key %s: more than %d signatures of its own", c.Fingerprint, maxOwnSigs)
	}
	var data bytes.Buffer
	if err := e.Serialize(&data); err != nil {
		return nil, fmt.Errorf("key %s: cannot be written again", c.Fingerprint)
	}
	if data.Len() > maxCertificate {
		return nil, fmt.Errorf("key %s: larger than %d octets", c.Fingerprint, maxCertificate)
	}
	c.Data = data.Bytes()

	now := time.Now()
	policy := pgpPolicy(now)
	if _, id := e.PrimaryIdentity(now, policy); id != nil {
		c.Name = strings.TrimSpace(id.UserId.Name)
	}
	for _, id := range e.Identities {
		// One that its owner has taken back names nobody.
		if _, err := id.Verify(now, policy); err != nil {
			continue
		}
		if a := form(userAddress(id)); a != "" && !c.For(a) {
			c.Addresses = append(c.Addresses, a)
		}
	}
	slices.Sort(c.Addresses)
	if sig, err := e.PrimarySelfSignature(now, policy); err == nil && sig.KeyLifetimeSecs != nil && *sig.KeyLifetimeSecs > 0 {
		c.Expires = e.PrimaryKey.CreationTime.Add(time.Duration(*sig.KeyLifetimeSecs) * time.Second).UTC()
	}
	return c, nil
}

// userAddress is the address of a user ID, which may be nothing but that.
func userAddress(id *openpgp.Identity) string {
	if id.UserId.Email != "" {
		return id.UserId.Email
	}
	return id.UserId.Id
}

func usableEntity(e *openpgp.Entity, now time.Time) error {
	policy := pgpPolicy(now)
	if _, err := e.VerifyPrimaryKey(now, policy); err != nil {
		switch {
		case errors.Is(err, pgperrors.ErrKeyRevoked):
			return errRevoked
		case errors.Is(err, pgperrors.ErrKeyExpired):
			return errExpired
		case e.PrimaryKey.CreationTime.After(now):
			return errNotYet
		}
		return errWeakKey
	}
	if bits, err := e.PrimaryKey.BitLength(); err != nil || bits > maxRSABits {
		return errWeakKey
	}
	if _, ok := e.SigningKey(now, policy); !ok {
		if bits, _ := e.PrimaryKey.BitLength(); isRSA(e.PrimaryKey) && bits < minRSABits {
			return errWeakKey
		}
		return errPurpose
	}
	return nil
}

func isRSA(k *packet.PublicKey) bool {
	return k.PubKeyAlgo == packet.PubKeyAlgoRSA || k.PubKeyAlgo == packet.PubKeyAlgoRSASignOnly
}
