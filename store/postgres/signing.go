package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// SigningKeys implements store.Signing.
func (s *Store) SigningKeys(ctx context.Context) ([]store.SigningKey, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+signingColumns+` FROM signing_keys ORDER BY domain, created_at, selector`)
	if err != nil {
		return nil, failed(err)
	}
	keys, err := pgx.CollectRows(rows, scanSigningKey)
	return keys, failed(err)
}

const signingColumns = `domain, selector, private, forced, created_at`

func scanSigningKey(r pgx.CollectableRow) (k store.SigningKey, err error) {
	err = r.Scan(&k.Domain, &k.Selector, &k.Private, &k.Forced, &k.Created)
	k.Created = k.Created.UTC()
	return k, err
}

// AddSigningKeys implements store.Signing.
func (s *Store) AddSigningKeys(ctx context.Context, keys []store.SigningKey, first bool) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// Nodes that start together look one after the other.
		if _, err := tx.Exec(ctx, `LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		for _, k := range keys {
			var taken bool
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM signing_keys WHERE domain = $1 AND (selector = $2 OR $3))`,
				k.Domain, k.Selector, first).Scan(&taken); err != nil {
				return err
			}
			if taken {
				return fmt.Errorf("key %s of %s: %w", k.Selector, k.Domain, store.ErrExists)
			}
		}
		for _, k := range keys {
			if _, err := tx.Exec(ctx, `INSERT INTO signing_keys (domain, selector, private, forced, created_at) VALUES ($1, $2, $3, $4, now())`,
				k.Domain, k.Selector, k.Private, k.Forced); err != nil {
				return err
			}
		}
		return nil
	})
	return failed(err)
}

// DeleteSigningKey implements store.Signing.
func (s *Store) DeleteSigningKey(ctx context.Context, domain, selector string) error {
	tag, err := s.pool.Exec(ctx, `DELETE FROM signing_keys WHERE domain = $1 AND selector = $2`, domain, selector)
	if err == nil && tag.RowsAffected() == 0 {
		return store.ErrNotFound
	}
	return failed(err)
}

// PutReturnPath implements store.ReturnPaths.
func (s *Store) PutReturnPath(ctx context.Context, name string, a mail.Address, valid time.Duration) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO return_paths AS p (name, address, expires_at) VALUES ($1, $2, now() + $3 * interval '1 second')
		ON CONFLICT (name) DO UPDATE SET expires_at = greatest(p.expires_at, excluded.expires_at)`, name, a.String(), seconds(valid))
	return failed(err)
}

// ReturnPath implements store.ReturnPaths.
func (s *Store) ReturnPath(ctx context.Context, name string) (mail.Address, error) {
	var text string
	err := s.pool.QueryRow(ctx, `SELECT address FROM return_paths WHERE name = $1 AND expires_at > now()`, name).Scan(&text)
	if err != nil {
		return mail.Address{}, failed(err)
	}
	return mail.ParseAddress(text)
}
