package sqlite

import (
	"context"
	"time"
)

const putUse = `INSERT INTO uses (name, user_name, expires) SELECT ?1, ?2, ?3
	WHERE EXISTS (SELECT 1 FROM uses WHERE name = ?1 AND user_name = ?2) OR ?4 > (SELECT count(*) FROM uses WHERE name = ?1)
	ON CONFLICT (name, user_name) DO UPDATE SET expires = max(expires, excluded.expires)`

// Use implements store.Uses.
func (s *Store) Use(ctx context.Context, name, user string, most int, valid time.Duration) (ok bool, err error) {
	err = s.writer.do(ctx, plain, len(name)+len(user), func(c *conn) error {
		n, err := c.exec(putUse, name, user, s.now()+millis(valid), most)
		ok = n > 0
		return err
	})
	return ok, err
}

// expireUses forgets who has used what nobody can use any more.
func (s *Store) expireUses(ctx context.Context, now int64) (more bool, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		n, err := c.exec(`DELETE FROM uses WHERE (name, user_name) IN
			(SELECT name, user_name FROM uses WHERE expires <= ? ORDER BY expires LIMIT ?)`, now, maintainStep)
		more = n == maintainStep
		return err
	})
	return more, err
}
