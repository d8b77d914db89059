package sqlite

import (
	"context"
	"encoding/json"
	"fmt"

	"mailxmppd/store"
)

// User implements store.Users.
func (s *Store) User(ctx context.Context, name string) (u store.User, err error) {
	err = s.read(ctx, func(c *conn) error {
		r, err := c.first("SELECT name, verifier, addresses FROM users WHERE name = ?", name)
		if err != nil {
			return err
		}
		if r == nil {
			return store.ErrNotFound
		}
		u, err = userOf(r)
		return err
	})
	return u, err
}

// PutUser implements store.Users.
func (s *Store) PutUser(ctx context.Context, u store.User) error {
	addresses, err := json.Marshal(append([]string{}, u.Addresses...))
	if err != nil {
		return fmt.Errorf("addresses of user %q: %w", u.Name, err)
	}
	return s.writer.do(ctx, plain, len(addresses), func(c *conn) error {
		_, err := c.exec(`INSERT INTO users (name, verifier, addresses) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET verifier = excluded.verifier, addresses = excluded.addresses`,
			u.Name, u.Verifier, string(addresses))
		return err
	})
}

// DeleteUser implements store.Users.
func (s *Store) DeleteUser(ctx context.Context, name string) error {
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		n, err := c.exec("DELETE FROM users WHERE name = ?", name)
		if err == nil && n == 0 {
			return store.ErrNotFound
		}
		return err
	})
}

// Users implements store.Users.
func (s *Store) Users(ctx context.Context) (users []store.User, err error) {
	err = s.read(ctx, func(c *conn) error {
		users = nil
		return c.query("SELECT name, verifier, addresses FROM users ORDER BY name", nil, func(r row) error {
			u, err := userOf(r)
			users = append(users, u)
			return err
		})
	})
	return users, err
}

func userOf(r row) (store.User, error) {
	u := store.User{Name: r.text(0), Verifier: r.text(1)}
	if err := json.Unmarshal([]byte(r.text(2)), &u.Addresses); err != nil {
		return store.User{}, fmt.Errorf("addresses of user %q: %w", u.Name, err)
	}
	return u, nil
}
