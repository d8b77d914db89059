package sqlite

import (
	"context"
	"time"

	"mailxmppd/store"
)

// Totals implements store.Queue.
func (s *Store) Totals(ctx context.Context, f store.Filter, top int) (t store.Totals, err error) {
	states, err := statesOf(f)
	if err != nil {
		return t, err
	}
	w := filtered(f, s.now())
	w.listed(states, f.Domain)
	byDomain := map[string]*store.Total{}
	err = s.snapshot(ctx, func(c *conn) error {
		now, bounds := s.now(), store.AgeClasses()
		return c.query("SELECT d.domain, d.state, m.created FROM "+w.from+w.where(), w.args, func(r row) error {
			d := byDomain[r.text(0)]
			if d == nil {
				d = &store.Total{Domain: r.text(0)}
				byDomain[d.Domain] = d
			}
			class, age := 0, time.Duration(now-r.int(2))*time.Millisecond
			for class < len(bounds) && age >= bounds[class] {
				class++
			}
			d.Deliveries++
			d.Ages[class]++
			switch r.int(1) {
			case stateHeld:
				d.Held++
			case stateLeased:
				d.Leased++
			}
			return nil
		})
	})
	if err != nil {
		return t, err
	}
	return store.Rank(byDomain, top), nil
}
