package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// GetPolicy implements store.Policies.
func (s *Store) GetPolicy(ctx context.Context, domain string) (policy []byte, err error) {
	err = s.pool.QueryRow(ctx, `SELECT policy FROM policies WHERE domain = $1 AND expires_at > now()`, domain).Scan(&policy)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return policy, failed(err)
}

// PutPolicy implements store.Policies.
func (s *Store) PutPolicy(ctx context.Context, domain string, policy []byte, expires time.Time) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO policies (domain, policy, expires_at) VALUES ($1, $2, $3)
		ON CONFLICT (domain) DO UPDATE SET policy = excluded.policy, expires_at = excluded.expires_at`,
		domain, orEmpty(policy), expires)
	return failed(err)
}
