package sqlite

import "context"

// Key implements store.Keys.
func (s *Store) Key(ctx context.Context, name string, fresh []byte) (key []byte, err error) {
	err = s.writer.do(ctx, plain, len(fresh), func(c *conn) error {
		if _, err := c.exec("INSERT INTO keys (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", name, fresh); err != nil {
			return err
		}
		r, err := c.first("SELECT value FROM keys WHERE name = ?", name)
		if err == nil {
			key = r.blob(0)
		}
		return err
	})
	return key, err
}
