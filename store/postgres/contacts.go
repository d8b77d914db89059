package postgres

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

// PutContactKey implements store.Contacts.
func (s *Store) PutContactKey(ctx context.Context, k store.ContactKey) error {
	var expires *time.Time
	if !k.Expires.IsZero() {
		expires = &k.Expires
	}
	return failed(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// Two that come at once to the last free place must not both get it.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, k.Owner); err != nil {
			return err
		}
		var ofContact, ofOwner int
		var origin string
		err := tx.QueryRow(ctx, `SELECT
			(SELECT count(*) FROM contacts WHERE owner = $1 AND address = $2 AND fingerprint <> $3),
			(SELECT count(*) FROM contacts WHERE owner = $1),
			coalesce((SELECT origin FROM contacts WHERE owner = $1 AND address = $2 AND fingerprint = $3), '')`,
			k.Owner, k.Address, k.Fingerprint).Scan(&ofContact, &ofOwner, &origin)
		switch {
		case err != nil:
			return err
		case origin == store.Imported && k.Learnt():
			return nil
		case ofContact >= store.MaxKeysPerContact, origin == "" && ofOwner >= store.MaxKeysPerOwner:
			return store.ErrTooManyKeys
		}
		_, err = tx.Exec(ctx, `INSERT INTO contacts (owner, address, fingerprint, domain, kind, origin, name, certificate, added_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now(), $9)
			ON CONFLICT (owner, address, fingerprint) DO UPDATE SET
			origin = excluded.origin, name = excluded.name, certificate = excluded.certificate, expires_at = excluded.expires_at`,
			k.Owner, k.Address, k.Fingerprint, k.Owner[strings.LastIndexByte(k.Owner, '@')+1:], k.Kind, k.Origin, k.Name, orEmpty(k.Certificate), expires)
		return err
	}))
}

// ContactKeys implements store.Contacts.
func (s *Store) ContactKeys(ctx context.Context, owner, address string) ([]store.ContactKey, error) {
	return s.contactKeys(ctx, `SELECT owner, address, fingerprint, kind, origin, name, added_at, signed_at, expires_at, certificate
		FROM contacts WHERE owner = $1 AND address = $2 ORDER BY added_at, fingerprint`, owner, address)
}

// ListContactKeys implements store.Contacts.
func (s *Store) ListContactKeys(ctx context.Context, owner string, after store.ContactKey, n int) ([]store.ContactKey, error) {
	return s.contactKeys(ctx, `SELECT owner, address, fingerprint, kind, origin, name, added_at, signed_at, expires_at, NULL::bytea
		FROM contacts WHERE ($1 = '' OR owner = $1) AND (owner, address, fingerprint) > ($2, $3, $4)
		ORDER BY owner, address, fingerprint LIMIT $5`, owner, after.Owner, after.Address, after.Fingerprint, n)
}

func (s *Store) contactKeys(ctx context.Context, query string, args ...any) ([]store.ContactKey, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, failed(err)
	}
	keys, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (k store.ContactKey, err error) {
		var signed, expires *time.Time
		err = r.Scan(&k.Owner, &k.Address, &k.Fingerprint, &k.Kind, &k.Origin, &k.Name, &k.Added, &signed, &expires, &k.Certificate)
		k.Added = k.Added.UTC()
		if signed != nil {
			k.Signed = signed.UTC()
		}
		if expires != nil {
			k.Expires = expires.UTC()
		}
		return k, err
	})
	return keys, failed(err)
}

// DeleteContactKeys implements store.Contacts.
func (s *Store) DeleteContactKeys(ctx context.Context, owner, address, fingerprint string) (int, error) {
	tag, err := s.pool.Exec(ctx, `DELETE FROM contacts WHERE owner = $1 AND address = $2 AND ($3 = '' OR fingerprint = $3)`, owner, address, fingerprint)
	return int(tag.RowsAffected()), failed(err)
}

// ContactSigned implements store.Contacts.
func (s *Store) ContactSigned(ctx context.Context, owner, address, fingerprint string) error {
	_, err := s.pool.Exec(ctx, `UPDATE contacts SET signed_at = now() WHERE owner = $1 AND address = $2 AND fingerprint = $3
		AND (signed_at IS NULL OR signed_at < now() - interval '1 day')`, owner, address, fingerprint)
	return failed(err)
}

// HasContactKeys implements store.Contacts.
func (s *Store) HasContactKeys(ctx context.Context, domain string) (has bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM contacts WHERE domain = $1)`, domain).Scan(&has)
	return has, failed(err)
}
