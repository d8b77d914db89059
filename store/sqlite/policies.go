package sqlite

import (
	"context"
	"time"
)

// GetPolicy implements store.Policies.
func (s *Store) GetPolicy(ctx context.Context, domain string) (policy []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		policy = nil
		r, err := c.first("SELECT policy FROM policies WHERE domain = ? AND expires > ?", domain, s.now())
		if err == nil && r != nil {
			policy = r.blob(0)
		}
		return err
	})
	return policy, err
}

// PutPolicy implements store.Policies.
func (s *Store) PutPolicy(ctx context.Context, domain string, policy []byte, expires time.Time) error {
	return s.writer.do(ctx, plain, len(policy), func(c *conn) error {
		_, err := c.exec(`INSERT INTO policies (domain, policy, expires) VALUES (?, ?, ?)
			ON CONFLICT (domain) DO UPDATE SET policy = excluded.policy, expires = excluded.expires`,
			domain, append([]byte{}, policy...), expires.UnixMilli())
		return err
	})
}

// expirePolicies removes what GetPolicy does not return any more.
func (s *Store) expirePolicies(ctx context.Context, now int64) (more bool, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		n, err := c.exec(`DELETE FROM policies WHERE domain IN
			(SELECT domain FROM policies WHERE expires <= ? ORDER BY expires LIMIT ?)`, now, maintainStep)
		more = n == maintainStep
		return err
	})
	return more, err
}
