package proof

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
)

// Pin is the SHA-256 of a public key as the certificate has it
// (SubjectPublicKeyInfo). A peer has one for the key in use and one for the
// key that will follow or stands ready in reserve.
type Pin [sha256.Size]byte

// ParsePin reads a pin in hexadecimal.
func ParsePin(s string) (p Pin, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(p) {
		return Pin{}, fmt.Errorf("pin %.80q: want the SHA-256 of a public key, 64 hexadecimal digits", s)
	}
	return Pin(b), nil
}

// PinOf computes the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// String is the form that ParsePin reads.
func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// matchPins looks at the key alone: names, dates and issuer of the certificate
// are what the operator has replaced by the pin.
func matchPins(pins []Pin, leaf *x509.Certificate) error {
	shown := PinOf(leaf)
	if slices.Contains(pins, shown) {
		return nil
	}
	return fmt.Errorf("its key %s is not one of the %d pinned", shown, len(pins))
}
