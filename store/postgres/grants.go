package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mailxmppd/store"
)

// endOfTime stands for grants that do not expire.
var endOfTime = time.UnixMilli(253_402_214_400_000).UTC()

const grantColumns = `kind, recipient, author, peer, state, origin, key, text, told, created_at, expires_at, version`

// A new grant has to be within its bounds: those that it adds to are counted.
// Callers at the same time may each add one more.
const putGrant = `INSERT INTO grants AS g (` + grantColumns + `)
	SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, now(), $10, 1
	WHERE EXISTS (SELECT FROM grants WHERE kind = $1 AND recipient = $2 AND author = $3)
	OR ($11 = 0 OR $11 > (SELECT count(*) FROM grants WHERE kind = $1 AND recipient = $2 AND origin = $6 AND expires_at > now()))
	AND ($12 = 0 OR $12 > (SELECT count(*) FROM grants WHERE kind = $1 AND author = $3 AND expires_at > now()))
	AND ($13 = 0 OR $13 > (SELECT count(*) FROM grants WHERE kind = $1 AND peer = $4 AND expires_at > now()))
	ON CONFLICT (kind, recipient, author) DO UPDATE SET peer = excluded.peer, state = excluded.state, origin = excluded.origin,
		key = excluded.key, text = excluded.text, told = excluded.told, expires_at = excluded.expires_at, version = g.version + 1`

// PutGrant implements store.Grants.
func (s *Store) PutGrant(ctx context.Context, g store.Grant, b store.GrantBounds) error {
	if !b.Fresh {
		return s.putGrant(ctx, s.pool, g, b)
	}
	// Who stores the same at the same time waits, and then sees it.
	var there bool
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey("grant", s.schema, string(g.Kind), g.Recipient, g.Author)); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM grants WHERE kind = $1 AND recipient = $2 AND author = $3 AND expires_at > now())`,
			string(g.Kind), g.Recipient, g.Author).Scan(&there)
		if err != nil || there {
			return err
		}
		return s.putGrant(ctx, tx, g, b)
	})
	if err == nil && there {
		return store.ErrExists
	}
	return failed(err)
}

// executor is a pool or a transaction.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func (s *Store) putGrant(ctx context.Context, on executor, g store.Grant, b store.GrantBounds) error {
	expires := g.Expires
	if expires.IsZero() {
		expires = endOfTime
	}
	tag, err := on.Exec(ctx, putGrant, string(g.Kind), g.Recipient, g.Author, g.Peer, string(g.State), string(g.Origin),
		orEmpty(g.Key), g.Text, g.Told, expires, int64(b.PerRecipient), int64(b.PerAuthor), int64(b.PerPeer))
	if err == nil && tag.RowsAffected() == 0 {
		return store.ErrTooMany
	}
	return failed(err)
}

// DeleteGrant implements store.Grants.
func (s *Store) DeleteGrant(ctx context.Context, n store.GrantName) error {
	tag, err := s.pool.Exec(ctx, `DELETE FROM grants WHERE kind = $1 AND recipient = $2 AND author = $3`, string(n.Kind), n.Recipient, n.Author)
	if err == nil && tag.RowsAffected() == 0 {
		return store.ErrNotFound
	}
	return failed(err)
}

const listGrants = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = $1 AND (recipient, author) > ($2, $3) AND expires_at > now() ORDER BY recipient, author LIMIT $4`

const listUntoldGrants = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = $1 AND (recipient, author) > ($2, $3) AND expires_at > now() AND NOT told ORDER BY recipient, author LIMIT $4`

const listGrantsOf = `SELECT ` + grantColumns + ` FROM grants
	WHERE kind = $1 AND recipient = $2 AND author > $3 AND expires_at > now() AND (NOT told OR NOT $5) ORDER BY author LIMIT $4`

// Grants implements store.Grants.
func (s *Store) Grants(ctx context.Context, f store.GrantFilter) ([]store.Grant, error) {
	switch {
	case f.Recipient != "":
		after := ""
		if f.After.Recipient == f.Recipient {
			after = f.After.Author
		}
		return s.readGrants(ctx, listGrantsOf, string(f.Kind), f.Recipient, after, f.Limit, f.Untold)
	case f.Untold:
		return s.readGrants(ctx, listUntoldGrants, string(f.Kind), f.After.Recipient, f.After.Author, f.Limit)
	}
	return s.readGrants(ctx, listGrants, string(f.Kind), f.After.Recipient, f.After.Author, f.Limit)
}

// FindGrants implements store.Grants.
func (s *Store) FindGrants(ctx context.Context, kind store.GrantKind, recipients []string, peer string, authors []string) ([]store.Grant, error) {
	return s.readGrants(ctx, `SELECT `+grantColumns+` FROM grants
		WHERE kind = $1 AND recipient = ANY ($2) AND peer = $3 AND ($4::text[] IS NULL OR author = ANY ($4)) AND expires_at > now() LIMIT 2000`,
		string(kind), recipients, peer, authors)
}

// AnyGrant implements store.Grants.
func (s *Store) AnyGrant(ctx context.Context, kind store.GrantKind, state store.GrantState, peers []string) (found bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM grants
		WHERE kind = $1 AND peer = ANY ($2) AND ($3 = '' OR state = $3) AND expires_at > now())`, string(kind), peers, string(state)).Scan(&found)
	return found, failed(err)
}

func (s *Store) readGrants(ctx context.Context, query string, args ...any) ([]store.Grant, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, failed(err)
	}
	grants, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (g store.Grant, err error) {
		err = r.Scan(&g.Kind, &g.Recipient, &g.Author, &g.Peer, &g.State, &g.Origin, &g.Key, &g.Text, &g.Told, &g.Created, &g.Expires, &g.Version)
		g.Created, g.Expires = g.Created.UTC(), g.Expires.UTC()
		if !g.Expires.Before(endOfTime) {
			g.Expires = time.Time{}
		}
		return g, err
	})
	return grants, failed(err)
}

// ToldGrant implements store.Grants.
func (s *Store) ToldGrant(ctx context.Context, n store.GrantName, version int64) error {
	_, err := s.pool.Exec(ctx, `UPDATE grants SET told = true WHERE kind = $1 AND recipient = $2 AND author = $3 AND version = $4`,
		string(n.Kind), n.Recipient, n.Author, version)
	return failed(err)
}
