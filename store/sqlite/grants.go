package sqlite

import (
	"context"
	"encoding/json"
	"time"

	"mailxmppd/store"
)

// endOfTime stands for grants that do not expire: the year 9999, in
// milliseconds.
const endOfTime = 253_402_214_400_000

const grantColumns = `kind, recipient, author, peer, state, origin, key, text, told, created, expires, version`

// A new grant has to be within its bounds: those that it adds to are counted.
const putGrant = `INSERT INTO grants (` + grantColumns + `)
	SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 1
	WHERE EXISTS (SELECT 1 FROM grants WHERE kind = ?1 AND recipient = ?2 AND author = ?3)
	OR (?12 = 0 OR ?12 > (SELECT count(*) FROM grants WHERE kind = ?1 AND recipient = ?2 AND origin = ?6 AND expires > ?10))
	AND (?13 = 0 OR ?13 > (SELECT count(*) FROM grants WHERE kind = ?1 AND author = ?3 AND expires > ?10))
	AND (?14 = 0 OR ?14 > (SELECT count(*) FROM grants WHERE kind = ?1 AND peer = ?4 AND expires > ?10))
	ON CONFLICT (kind, recipient, author) DO UPDATE SET peer = excluded.peer, state = excluded.state, origin = excluded.origin,
		key = excluded.key, text = excluded.text, told = excluded.told, expires = excluded.expires, version = version + 1`

// PutGrant implements store.Grants.
func (s *Store) PutGrant(ctx context.Context, g store.Grant, b store.GrantBounds) error {
	expires := int64(endOfTime)
	if !g.Expires.IsZero() {
		expires = g.Expires.UnixMilli()
	}
	return s.writer.do(ctx, plain, len(g.Key)+len(g.Text), func(c *conn) error {
		if b.Fresh {
			r, err := c.first("SELECT 1 FROM grants WHERE kind = ? AND recipient = ? AND author = ? AND expires > ?",
				string(g.Kind), g.Recipient, g.Author, s.now())
			if err != nil {
				return err
			}
			if r != nil {
				return store.ErrExists
			}
		}
		n, err := c.exec(putGrant, string(g.Kind), g.Recipient, g.Author, g.Peer, string(g.State), string(g.Origin),
			append([]byte{}, g.Key...), g.Text, g.Told, s.now(), expires, b.PerRecipient, b.PerAuthor, b.PerPeer)
		if err == nil && n == 0 {
			return store.ErrTooMany
		}
		return err
	})
}

// DeleteGrant implements store.Grants.
func (s *Store) DeleteGrant(ctx context.Context, n store.GrantName) error {
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		rows, err := c.exec("DELETE FROM grants WHERE kind = ? AND recipient = ? AND author = ?", string(n.Kind), n.Recipient, n.Author)
		if err == nil && rows == 0 {
			return store.ErrNotFound
		}
		return err
	})
}

const listGrants = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = ? AND (recipient, author) > (?, ?) AND expires > ? ORDER BY recipient, author LIMIT ?`

const listUntoldGrants = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = ? AND (recipient, author) > (?, ?) AND expires > ? AND told = 0 ORDER BY recipient, author LIMIT ?`

const listGrantsOf = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = ? AND recipient = ? AND author > ? AND expires > ? AND told <= ? ORDER BY author LIMIT ?`

// Grants implements store.Grants.
func (s *Store) Grants(ctx context.Context, f store.GrantFilter) ([]store.Grant, error) {
	query, args := listGrants, []any{string(f.Kind), f.After.Recipient, f.After.Author, s.now(), f.Limit}
	switch {
	case f.Recipient != "":
		after := ""
		if f.After.Recipient == f.Recipient {
			after = f.After.Author
		}
		query, args = listGrantsOf, []any{string(f.Kind), f.Recipient, after, s.now(), !f.Untold, f.Limit}
	case f.Untold:
		query = listUntoldGrants
	}
	return s.readGrants(ctx, query, args...)
}

const findGrants = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = ? AND recipient IN (SELECT value FROM json_each(?)) AND peer = ? AND expires > ? LIMIT 2000`

const findGrantsOf = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = ? AND recipient IN (SELECT value FROM json_each(?)) AND author IN (SELECT value FROM json_each(?)) AND peer = ? AND expires > ? LIMIT 2000`

// FindGrants implements store.Grants.
func (s *Store) FindGrants(ctx context.Context, kind store.GrantKind, recipients []string, peer string, authors []string) ([]store.Grant, error) {
	to, err := json.Marshal(recipients)
	if err != nil {
		return nil, err
	}
	if authors == nil {
		return s.readGrants(ctx, findGrants, string(kind), string(to), peer, s.now())
	}
	from, err := json.Marshal(authors)
	if err != nil {
		return nil, err
	}
	return s.readGrants(ctx, findGrantsOf, string(kind), string(to), string(from), peer, s.now())
}

// AnyGrant implements store.Grants.
func (s *Store) AnyGrant(ctx context.Context, kind store.GrantKind, state store.GrantState, peers []string) (found bool, err error) {
	among, err := json.Marshal(peers)
	if err != nil {
		return false, err
	}
	err = s.read(ctx, func(c *conn) error {
		r, err := c.first(`SELECT 1 FROM grants WHERE kind = ? AND peer IN (SELECT value FROM json_each(?)) AND (? = '' OR state = ?) AND expires > ? LIMIT 1`,
			string(kind), string(among), string(state), string(state), s.now())
		found = r != nil
		return err
	})
	return found, err
}

func (s *Store) readGrants(ctx context.Context, query string, args ...any) (grants []store.Grant, err error) {
	err = s.read(ctx, func(c *conn) error {
		grants = nil
		return c.query(query, args, func(r row) error {
			g := store.Grant{
				GrantName: store.GrantName{Kind: store.GrantKind(r.text(0)), Recipient: r.text(1), Author: r.text(2)},
				Peer:      r.text(3), State: store.GrantState(r.text(4)), Origin: store.GrantOrigin(r.text(5)),
				Key: append([]byte{}, r.blob(6)...), Text: r.text(7), Told: r.bool(8),
				Created: time.UnixMilli(r.int(9)).UTC(), Version: r.int(11),
			}
			if r.int(10) < endOfTime {
				g.Expires = time.UnixMilli(r.int(10)).UTC()
			}
			grants = append(grants, g)
			return nil
		})
	})
	return grants, err
}

// ToldGrant implements store.Grants.
func (s *Store) ToldGrant(ctx context.Context, n store.GrantName, version int64) error {
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		_, err := c.exec("UPDATE grants SET told = 1 WHERE kind = ? AND recipient = ? AND author = ? AND version = ?",
			string(n.Kind), n.Recipient, n.Author, version)
		return err
	})
}

// expireGrants removes what is not found any more.
func (s *Store) expireGrants(ctx context.Context, now int64) (more bool, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		n, err := c.exec(`DELETE FROM grants WHERE (kind, recipient, author) IN
			(SELECT kind, recipient, author FROM grants WHERE expires <= ? ORDER BY expires LIMIT ?)`, now, maintainStep)
		more = n == maintainStep
		return err
	})
	return more, err
}
