package postgres

import "context"

// Key implements store.Keys.
func (s *Store) Key(ctx context.Context, name string, fresh []byte) (key []byte, err error) {
	// An update of nothing makes RETURNING give the row that is there.
	err = s.pool.QueryRow(ctx, `INSERT INTO keys (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING value`, name, fresh).Scan(&key)
	return key, failed(err)
}
