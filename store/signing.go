package store

import (
	"context"
	"errors"
	"time"

	"mailxmppd/mail"
)

// ErrExists means that something of this name is there already. Nothing was
// done.
var ErrExists = errors.New("is there already")

// Signing keeps the keys with which mail of our domains is signed, for all
// nodes alike. They are not encrypted: what protects them is what protects the
// mail beside them, the rights of the file or of the database.
type Signing interface {
	// SigningKeys returns all keys, by domain, of each the oldest first, those
	// made together by selector.
	SigningKeys(ctx context.Context) ([]SigningKey, error)
	// AddSigningKeys stores keys of one domain, all or none. ErrExists where one
	// of their selectors is taken; with first, where the domain has any key: of
	// nodes that start together one makes them.
	AddSigningKeys(ctx context.Context, keys []SigningKey, first bool) error
	// DeleteSigningKey forgets a key for good; ErrNotFound if there is none.
	DeleteSigningKey(ctx context.Context, domain, selector string) error
}

// ReturnPaths keeps reverse-paths that are too long to be rewritten, by the
// short name that stands for them.
type ReturnPaths interface {
	// PutReturnPath keeps an address for a time from now at least. Idempotence
	// key: name, which always stands for the same address.
	PutReturnPath(ctx context.Context, name string, a mail.Address, valid time.Duration) error
	// ReturnPath returns it; ErrNotFound where there is none, or no longer.
	ReturnPath(ctx context.Context, name string) (mail.Address, error)
}

// SigningKey is a private key that signs for a domain (DKIM, RFC 6376).
type SigningKey struct {
	Domain   string    `json:"domain"` // A-labels
	Selector string    `json:"selector"`
	Private  []byte    `json:"private,omitempty"` // PKCS #8
	Forced   bool      `json:"forced,omitempty"`  // signs before DNS shows its record
	Created  time.Time `json:"created,omitzero"`  // the store's time, set by the store
}
