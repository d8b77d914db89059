package contacts

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// maxCertificate bounds what is kept of one key: the largest real ones, with
// dozens of user IDs and subkeys, are far below.
const maxCertificate = 64 << 10

// The sizes of RSA keys that prove something. Below, the key can be broken;
// above, verifying costs more than anybody's real key needs.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// Why a key proves nothing. The texts are shown to recipients.
var (
	errExpired = errors.New("the key has expired")
	errRevoked = errors.New("the key is revoked")
	errWeakKey = errors.New("the key is too weak or of a kind that is not taken")
	errNotYet  = errors.New("the key is not valid yet")
	errPurpose = errors.New("the key is not for signing mail")
)

// Certificate is somebody's public key with the addresses that it is for.
type Certificate struct {
	Kind        string   // store.OpenPGP or store.SMIME
	Fingerprint string   // of the primary key, or SHA-256 of the certificate; upper-case hexadecimal
	Data        []byte   // OpenPGP packets, or DER
	Addresses   []string // that it names itself, in the form of Form
	Name        string   // that it names itself; "" if none
	Expires     time.Time

	entity *openpgp.Entity   // of an OpenPGP certificate
	x509   *x509.Certificate // of an S/MIME one
}

// Form is the form in which addresses of owners and contacts are stored and
// compared. Capital letters of a local part make no difference: nobody whose
// mail is known by "Romeo@" is another person than "romeo@", and whoever can
// sign with the key has shown who he is.
func Form(a mail.Address) string {
	a.Local = strings.ToLower(a.Local)
	return a.String()
}

// form reads an address of a certificate or a card; "" for what is none.
func form(s string) string {
	a, err := mail.ParseAddress(strings.TrimSpace(s))
	if err != nil || a.Domain == "" || len(s) > 320 {
		return ""
	}
	return Form(a)
}

// Usable tells why signatures with the key would prove nothing now; nil if they
// do.
func (c *Certificate) Usable(now time.Time) error {
	if c.Kind == store.OpenPGP {
		return usableEntity(c.entity, now)
	}
	return usableX509(c.x509, now)
}

// For reports whether the certificate names an address itself.
func (c *Certificate) For(address string) bool { return slices.Contains(c.Addresses, address) }

// Stored reads a certificate as the store has it.
func Stored(k store.ContactKey) (*Certificate, error) {
	var c *Certificate
	var err error
	switch k.Kind {
	case store.OpenPGP:
		var all []*Certificate
		if all, err = readOpenPGP(k.Certificate); err == nil && len(all) == 1 {
			c = all[0]
		}
	case store.SMIME:
		c, err = readX509(k.Certificate)
	}
	if err == nil && (c == nil || c.Fingerprint != k.Fingerprint) {
		err = fmt.Errorf("the stored key %s of %s is damaged", k.Fingerprint, k.Address)
	}
	return c, err
}
