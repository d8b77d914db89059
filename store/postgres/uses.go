package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const putUse = `INSERT INTO uses AS u (name, user_name, expires_at) SELECT $1, $2, now() + $3 * interval '1 second'
	WHERE EXISTS (SELECT FROM uses WHERE name = $1 AND user_name = $2) OR $4 > (SELECT count(*) FROM uses WHERE name = $1)
	ON CONFLICT (name, user_name) DO UPDATE SET expires_at = greatest(u.expires_at, excluded.expires_at)`

// Use implements store.Uses. Users of one name wait for each other: none of them
// would see the others' notes.
func (s *Store) Use(ctx context.Context, name, user string, most int, valid time.Duration) (ok bool, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey("use", s.schema, name)); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, putUse, name, user, seconds(valid), int64(most))
		ok = tag.RowsAffected() > 0
		return err
	})
	return ok && err == nil, failed(err)
}
