package sqlite

import (
	"context"
	"strings"
	"time"

	"mailxmppd/store"
)

// day is how exactly the last signature is noted, in milliseconds.
const day = 24 * 60 * 60 * 1000

// PutContactKey implements store.Contacts.
func (s *Store) PutContactKey(ctx context.Context, k store.ContactKey) error {
	return s.writer.do(ctx, plain, len(k.Certificate), func(c *conn) error {
		r, err := c.first(`SELECT
			(SELECT count(*) FROM contacts WHERE owner = ?1 AND address = ?2 AND fingerprint <> ?3),
			(SELECT count(*) FROM contacts WHERE owner = ?1),
			(SELECT origin FROM contacts WHERE owner = ?1 AND address = ?2 AND fingerprint = ?3)`, k.Owner, k.Address, k.Fingerprint)
		switch {
		case err != nil:
			return err
		case r.text(2) == store.Imported && k.Learnt():
			return nil
		case r.int(0) >= store.MaxKeysPerContact, r.text(2) == "" && r.int(1) >= store.MaxKeysPerOwner:
			return store.ErrTooManyKeys
		}
		_, err = c.exec(`INSERT INTO contacts (owner, address, fingerprint, domain, kind, origin, name, certificate, added, signed, expires)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)
			ON CONFLICT (owner, address, fingerprint) DO UPDATE SET
			origin = excluded.origin, name = excluded.name, certificate = excluded.certificate, expires = excluded.expires`,
			k.Owner, k.Address, k.Fingerprint, ownerDomain(k.Owner), k.Kind, k.Origin, k.Name, append([]byte{}, k.Certificate...), s.now(), instant(k.Expires))
		return err
	})
}

// ContactKeys implements store.Contacts.
func (s *Store) ContactKeys(ctx context.Context, owner, address string) (keys []store.ContactKey, err error) {
	err = s.read(ctx, func(c *conn) error {
		keys = nil
		return c.query(`SELECT owner, address, fingerprint, kind, origin, name, added, signed, expires, certificate
			FROM contacts WHERE owner = ? AND address = ? ORDER BY added, fingerprint`, []any{owner, address}, func(r row) error {
			k := contactKey(r)
			k.Certificate = append([]byte{}, r.blob(9)...)
			keys = append(keys, k)
			return nil
		})
	})
	return keys, err
}

// ListContactKeys implements store.Contacts.
func (s *Store) ListContactKeys(ctx context.Context, owner string, after store.ContactKey, n int) (keys []store.ContactKey, err error) {
	err = s.read(ctx, func(c *conn) error {
		keys = nil
		return c.query(`SELECT owner, address, fingerprint, kind, origin, name, added, signed, expires
			FROM contacts WHERE (?1 = '' OR owner = ?1) AND (owner, address, fingerprint) > (?2, ?3, ?4)
			ORDER BY owner, address, fingerprint LIMIT ?5`, []any{owner, after.Owner, after.Address, after.Fingerprint, n}, func(r row) error {
			keys = append(keys, contactKey(r))
			return nil
		})
	})
	return keys, err
}

// DeleteContactKeys implements store.Contacts.
func (s *Store) DeleteContactKeys(ctx context.Context, owner, address, fingerprint string) (n int, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		gone, err := c.exec("DELETE FROM contacts WHERE owner = ?1 AND address = ?2 AND (?3 = '' OR fingerprint = ?3)", owner, address, fingerprint)
		n = int(gone)
		return err
	})
	return n, err
}

// ContactSigned implements store.Contacts.
func (s *Store) ContactSigned(ctx context.Context, owner, address, fingerprint string) error {
	now := s.now()
	var stale bool
	err := s.read(ctx, func(c *conn) error {
		r, err := c.first("SELECT signed FROM contacts WHERE owner = ? AND address = ? AND fingerprint = ?", owner, address, fingerprint)
		stale = r != nil && r.int(0) <= now-day
		return err
	})
	if err != nil || !stale {
		return err
	}
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		_, err := c.exec("UPDATE contacts SET signed = ? WHERE owner = ? AND address = ? AND fingerprint = ?", now, owner, address, fingerprint)
		return err
	})
}

// HasContactKeys implements store.Contacts.
func (s *Store) HasContactKeys(ctx context.Context, domain string) (has bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		r, err := c.first("SELECT EXISTS (SELECT 1 FROM contacts WHERE domain = ?)", domain)
		has = r.bool(0)
		return err
	})
	return has, err
}

func contactKey(r row) store.ContactKey {
	return store.ContactKey{Owner: r.text(0), Address: r.text(1), Fingerprint: r.text(2), Kind: r.text(3), Origin: r.text(4), Name: r.text(5),
		Added: instantOf(r.int(6)), Signed: instantOf(r.int(7)), Expires: instantOf(r.int(8))}
}

// instant is a time as it is stored, 0 for none.
func instant(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func instantOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// ownerDomain is the domain of a mailbox.
func ownerDomain(owner string) string { return owner[strings.LastIndexByte(owner, '@')+1:] }
