package sqlite

import (
	"context"
	"time"

	"mailxmppd/store"
)

const (
	nextLeased  = "SELECT due, domain, next FROM deliveries WHERE state = 2 AND due > ? ORDER BY due"
	nextWaiting = "SELECT due, domain, next FROM deliveries WHERE state < 2 AND due > ? ORDER BY due"
)

// NextDue implements store.Store. Where busy destinations fill a window of what
// is due later, its end is when to look again.
func (s *Store) NextDue(ctx context.Context, busy []string) (wait time.Duration, ok bool, err error) {
	p := newPicking(1, busy, 0)
	at := neverDue
	err = s.snapshot(ctx, func(c *conn) error {
		now := s.now()
		look := func(query string, from int64, later bool) error {
			passed := 0
			return c.query(query, []any{from}, func(r row) error {
				passed++
				free := !p.busy[store.Destination(r.text(1), r.text(2))]
				if free || later && passed == window {
					at = min(at, r.int(0))
				}
				if free || passed == window || !later && r.int(0) > now {
					return errEnough
				}
				return nil
			})
		}
		for _, l := range []struct {
			query string
			from  int64
			later bool
		}{{nextLeased, -neverDue, true}, {nextWaiting, -neverDue, false}, {nextWaiting, now, true}} {
			if err := look(l.query, l.from, l.later); err != nil {
				return err
			}
		}
		wait = duration(max(0, at-now))
		return nil
	})
	if err != nil || at == neverDue {
		return 0, false, err
	}
	return wait, true, nil
}
