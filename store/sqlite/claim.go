package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mailxmppd/store"
)

// group is what one lease covers.
type group struct {
	num          int64
	domain, next string
}

const (
	dueOfGroup = `SELECT key & 65535, token + 1, attempt, in_doubt OR (began > 0 AND ended = 0), delayed, text,
		CASE WHEN began > 0 AND ended = 0 AND doubt_way <> 'xmpp' THEN way ELSE doubt_way END, extra
		FROM deliveries WHERE key BETWEEN ? AND ? AND domain = ? AND next = ? AND due <= ? ORDER BY key`
	leaseGroup = `UPDATE deliveries SET state = 2, due = ?, token = token + 1, parked = 0,
		in_doubt = in_doubt OR (began > 0 AND ended = 0),
		doubt_way = CASE WHEN began > 0 AND ended = 0 AND doubt_way <> 'xmpp' THEN way ELSE doubt_way END,
		ended = CASE WHEN began > 0 AND ended = 0 THEN -1 ELSE ended END
		WHERE key BETWEEN ? AND ? AND domain = ? AND next = ? AND due <= ?`
)

// Claim implements store.Store. A lease that ran out is claimed like anything
// else that is due, and an attempt that had begun under it counts as ended in
// doubt.
func (s *Store) Claim(ctx context.Context, n int, lease time.Duration, busy []string, perDest int) ([]store.Lease, error) {
	if n <= 0 {
		return nil, nil
	}
	p := newPicking(n, busy, perDest)
	var got claimed
	err := s.writer.do(ctx, claiming, 0, func(c *conn) error {
		got = claimed{}
		p.reset()
		now := s.now()
		if err := p.byTime(c, now); err != nil {
			return err
		}
		return got.groups(c, p.groups, now, now+millis(lease))
	})
	if err != nil {
		return nil, err
	}
	s.tell(got.aside)
	leases := got.leases
	if len(leases) == n || !p.blocked {
		return leases, nil
	}
	// Beside the writer, since it may pass many domains; what was taken
	// meanwhile is not claimed again.
	p.reset()
	for _, l := range leases {
		p.count(l.Destination())
	}
	p.n -= len(leases)
	if err := s.read(ctx, func(c *conn) error { return p.byDomain(c, s.now(), &s.walked) }); err != nil || len(p.groups) == 0 {
		return leases, err
	}
	err = s.writer.do(ctx, claiming, 0, func(c *conn) error {
		got = claimed{}
		now := s.now()
		return got.groups(c, p.groups, now, now+millis(lease))
	})
	if err != nil {
		return leases, err
	}
	s.tell(got.aside)
	return append(leases, got.leases...), nil
}

// claimed is what came of some groups.
type claimed struct {
	leases []store.Lease
	aside  []aside
}

func (got *claimed) groups(c *conn, groups []group, now, until int64) error {
	for _, g := range groups {
		first, last := deliveryKeys(g.num)
		l, err := claimGroup(c, g, now, until, first, last)
		switch {
		case errors.Is(err, store.ErrUnreadable):
			got.aside = append(got.aside, aside{l.ID, g.domain, err})
			err = putAside(c, g, now, first, last, err)
		case err == nil && len(l.Deliveries) > 0:
			got.leases = append(got.leases, l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// claimWithin leases those deliveries of the groups whose keys lie in a range.
func claimWithin(c *conn, groups []group, now, until, from, to int64) (leases []store.Lease, err error) {
	for _, g := range groups {
		first, last := deliveryKeys(g.num)
		l, err := claimGroup(c, g, now, until, max(first, from), min(last, to))
		if err != nil {
			return nil, err
		}
		if len(l.Deliveries) > 0 {
			leases = append(leases, l)
		}
	}
	return leases, nil
}

// claimGroup leases the due deliveries of a group within a range. With
// store.ErrUnreadable comes the message's id, and nothing was changed.
func claimGroup(c *conn, g group, now, until, first, last int64) (store.Lease, error) {
	r, err := c.first("SELECT "+messageColumns+" FROM messages WHERE num = ?", g.num)
	if err != nil {
		return store.Lease{}, err
	}
	if r == nil { // it would be found due for ever
		return store.Lease{}, fmt.Errorf("%w: there is no row of number %d", store.ErrUnreadable, g.num)
	}
	m, err := scanMessage(r)
	l := m.lease(g.domain, now)
	if err != nil {
		return l, err
	}
	l.Next = g.next
	err = c.query(dueOfGroup, []any{first, last, g.domain, g.next, now}, func(r row) error {
		expires := m.expires + r.int(7)
		l.Deliveries = append(l.Deliveries, store.Delivery{
			N: int(r.int(0)), Token: r.int(1), Attempt: int(r.int(2)), InDoubt: r.bool(3), Delayed: r.bool(4),
			LastText: r.text(5), DoubtWay: store.Way(r.text(6)), Expired: now >= expires, Left: duration(max(0, expires-now)),
		})
		return nil
	})
	if err == nil {
		err = l.CheckDeliveries()
	}
	if err != nil || len(l.Deliveries) == 0 {
		return l, err
	}
	_, err = c.exec(leaseGroup, until, first, last, g.domain, g.next, now)
	return l, err
}
