package store

import (
	"context"
	"errors"
	"time"
)

// Bounds of the keys that are kept: of one contact of a mailbox, and of all of
// them. Whoever learns keys from mail must not be able to fill the store.
const (
	MaxKeysPerContact = 16
	MaxKeysPerOwner   = 10_000
)

// ErrTooManyKeys means that a bound of contact keys is reached. Nothing was
// stored.
var ErrTooManyKeys = errors.New("too many contact keys")

// Contacts keeps the keys that our recipients know of people who write to
// them. Addresses are compared as they are: whoever stores and asks puts them
// into one form.
type Contacts interface {
	// PutContactKey stores a key; its name is owner, address and fingerprint.
	// A key that is there already gets the new certificate, name and origin,
	// but a learnt one never takes the place of one that was imported, which is
	// left as it is without an error. ErrTooManyKeys at the bounds.
	PutContactKey(ctx context.Context, k ContactKey) error

	// ContactKeys returns the keys that a mailbox knows of an address, the
	// oldest first.
	ContactKeys(ctx context.Context, owner, address string) ([]ContactKey, error)

	// ListContactKeys lists the keys of a mailbox, or of all mailboxes for "",
	// without their certificates, in the order of owner, address and
	// fingerprint, at most n of them and only those after the given one.
	ListContactKeys(ctx context.Context, owner string, after ContactKey, n int) ([]ContactKey, error)

	// DeleteContactKeys forgets a key, or all keys of the address for the
	// fingerprint "", and says how many.
	DeleteContactKeys(ctx context.Context, owner, address, fingerprint string) (int, error)

	// ContactSigned notes that a message came that is signed with a key. It
	// writes at most once a day for a key; one that is gone is no error.
	ContactSigned(ctx context.Context, owner, address, fingerprint string) error

	// HasContactKeys reports whether any mailbox of a domain knows any key.
	HasContactKeys(ctx context.Context, domain string) (bool, error)
}

// The kinds and origins of contact keys.
const (
	OpenPGP = "openpgp"
	SMIME   = "smime"

	Imported      = "import"    // an operator, for the owner
	FromDirectory = "wkd"       // the web key directory of the address's domain
	FromMail      = "autocrypt" // the Autocrypt field of a message
)

// ContactKey is a key that a mailbox of ours knows of somebody.
type ContactKey struct {
	Owner       string    `json:"owner"`   // the mailbox of ours
	Address     string    `json:"address"` // the contact's
	Fingerprint string    `json:"fingerprint"`
	Kind        string    `json:"kind"`
	Origin      string    `json:"origin"`
	Name        string    `json:"name,omitempty"`   // what people call the contact
	Certificate []byte    `json:"certificate"`      // OpenPGP packets, or DER; null in lists
	Added       time.Time `json:"added"`            // by the store's clock
	Signed      time.Time `json:"signed,omitzero"`  // when a message signed with it last came, to a day; zero if none has
	Expires     time.Time `json:"expires,omitzero"` // of the certificate; zero for never
}

// Learnt reports whether nobody has vouched for the key.
func (k ContactKey) Learnt() bool { return k.Origin != Imported }
