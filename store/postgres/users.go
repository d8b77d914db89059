package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

// User implements store.Users.
func (s *Store) User(ctx context.Context, name string) (store.User, error) {
	var u store.User
	err := s.pool.QueryRow(ctx, `SELECT name, verifier, addresses FROM users WHERE name = $1`, name).Scan(&u.Name, &u.Verifier, &u.Addresses)
	if err != nil {
		return store.User{}, failed(err)
	}
	return u, nil
}

// PutUser implements store.Users.
func (s *Store) PutUser(ctx context.Context, u store.User) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO users (name, verifier, addresses) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET verifier = excluded.verifier, addresses = excluded.addresses`,
		u.Name, u.Verifier, append([]string{}, u.Addresses...))
	return failed(err)
}

// DeleteUser implements store.Users.
func (s *Store) DeleteUser(ctx context.Context, name string) error {
	tag, err := s.pool.Exec(ctx, `DELETE FROM users WHERE name = $1`, name)
	if err == nil && tag.RowsAffected() == 0 {
		return store.ErrNotFound
	}
	return failed(err)
}

// Users implements store.Users.
func (s *Store) Users(ctx context.Context) ([]store.User, error) {
	rows, err := s.pool.Query(ctx, `SELECT name, verifier, addresses FROM users ORDER BY name`)
	if err != nil {
		return nil, failed(err)
	}
	users, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (u store.User, err error) {
		err = r.Scan(&u.Name, &u.Verifier, &u.Addresses)
		return u, err
	})
	return users, failed(err)
}
