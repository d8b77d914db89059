package sqlite

import (
	"context"
	"fmt"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// SigningKeys implements store.Signing.
func (s *Store) SigningKeys(ctx context.Context) (keys []store.SigningKey, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		keys, err = signingKeys(c)
		return err
	})
	return keys, err
}

func signingKeys(c *conn) (keys []store.SigningKey, err error) {
	err = c.query("SELECT domain, selector, private, forced, created FROM signing_keys ORDER BY domain, created, selector", nil, func(r row) error {
		keys = append(keys, store.SigningKey{
			Domain: r.text(0), Selector: r.text(1), Private: r.blob(2), Forced: r.bool(3), Created: time.UnixMilli(r.int(4)).UTC(),
		})
		return nil
	})
	return keys, err
}

// AddSigningKeys implements store.Signing.
func (s *Store) AddSigningKeys(ctx context.Context, keys []store.SigningKey, first bool) error {
	size := 0
	for _, k := range keys {
		size += len(k.Private)
	}
	return s.writer.do(ctx, plain, size, func(c *conn) error {
		// A look before the first write: what is refused must leave nothing.
		for _, k := range keys {
			r, err := c.first("SELECT 1 FROM signing_keys WHERE domain = ? AND (selector = ? OR ?) LIMIT 1", k.Domain, k.Selector, first)
			if err != nil {
				return err
			}
			if r != nil {
				return fmt.Errorf("key %s of %s: %w", k.Selector, k.Domain, store.ErrExists)
			}
		}
		now := s.now()
		for _, k := range keys {
			if _, err := c.exec("INSERT INTO signing_keys (domain, selector, private, forced, created) VALUES (?, ?, ?, ?, ?)",
				k.Domain, k.Selector, k.Private, k.Forced, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteSigningKey implements store.Signing.
func (s *Store) DeleteSigningKey(ctx context.Context, domain, selector string) error {
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		n, err := c.exec("DELETE FROM signing_keys WHERE domain = ? AND selector = ?", domain, selector)
		if err == nil && n == 0 {
			return store.ErrNotFound
		}
		return err
	})
}

// PutReturnPath implements store.ReturnPaths.
func (s *Store) PutReturnPath(ctx context.Context, name string, a mail.Address, valid time.Duration) error {
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		_, err := c.exec(`INSERT INTO return_paths (name, address, expires) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET expires = max(expires, excluded.expires)`, name, a.String(), s.now()+millis(valid))
		return err
	})
}

// ReturnPath implements store.ReturnPaths.
func (s *Store) ReturnPath(ctx context.Context, name string) (a mail.Address, err error) {
	err = s.read(ctx, func(c *conn) error {
		r, err := c.first("SELECT address FROM return_paths WHERE name = ? AND expires > ?", name, s.now())
		if err != nil {
			return err
		}
		if r == nil {
			return store.ErrNotFound
		}
		a, err = mail.ParseAddress(r.text(0))
		return err
	})
	return a, err
}

// expireReturnPaths removes what ReturnPath does not return any more.
func (s *Store) expireReturnPaths(ctx context.Context, now int64) (more bool, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		n, err := c.exec(`DELETE FROM return_paths WHERE name IN
			(SELECT name FROM return_paths WHERE expires <= ? ORDER BY expires LIMIT ?)`, now, maintainStep)
		more = n == maintainStep
		return err
	})
	return more, err
}
