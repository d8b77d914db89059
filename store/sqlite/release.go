package sqlite

import (
	"context"

	"mailxmppd/store"
)

// releaseStep is how many deliveries one op makes due, so that nobody waits
// long.
const releaseStep = 1000

// Release implements store.Store.
func (s *Store) Release(ctx context.Context, destination string) (total int, err error) {
	now := s.now()
	where, args := "", []any{now, now}
	if next, ok := store.Redirected(destination); ok {
		where, args = " AND next <> '' AND next = ?", append(args, next)
	} else if destination != "" {
		where, args = " AND domain = ? AND next = ''", append(args, destination)
	}
	query := "UPDATE deliveries SET due = ? WHERE key IN (SELECT key FROM deliveries WHERE state < 2 AND due > ?" + where + " ORDER BY due LIMIT ?)"
	args = append(args, releaseStep)
	for n := int64(releaseStep); n == releaseStep; {
		err := s.writer.do(ctx, lazy, 0, func(c *conn) (err error) {
			n, err = c.exec(query, args...)
			return err
		})
		if err != nil {
			return total, err
		}
		total += int(n)
		if n > 0 {
			s.signal()
		}
	}
	return total, nil
}
