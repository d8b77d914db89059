package sqlite

import (
	"context"
	"encoding/json"
	"time"

	"mailxmppd/store"
)

// group is what one lease covers.
type group struct {
	num    int64
	domain string
}

const (
	dueNow        = "SELECT key >> 16, domain FROM deliveries WHERE due <= ? ORDER BY due"
	dueNowButBusy = `SELECT key >> 16, domain FROM deliveries
		WHERE due <= ? AND domain NOT IN (SELECT value FROM json_each(?)) ORDER BY due`
	dueOfGroup = `SELECT key & 65535, token + 1, attempt, in_doubt OR (began > 0 AND ended = 0), delayed, text,
		CASE WHEN began > 0 AND ended = 0 AND doubt_way <> 'xmpp' THEN way ELSE doubt_way END
		FROM deliveries WHERE key BETWEEN ? AND ? AND domain = ? AND due <= ? ORDER BY key`
	leaseGroup = `UPDATE deliveries SET state = 2, due = ?, token = token + 1,
		in_doubt = in_doubt OR (began > 0 AND ended = 0),
		doubt_way = CASE WHEN began > 0 AND ended = 0 AND doubt_way <> 'xmpp' THEN way ELSE doubt_way END,
		ended = CASE WHEN began > 0 AND ended = 0 THEN -1 ELSE ended END
		WHERE key BETWEEN ? AND ? AND domain = ? AND due <= ?`
)

// Claim implements store.Store. A lease that ran out is claimed like anything
// else that is due, and an attempt that had begun under it counts as ended in
// doubt.
func (s *Store) Claim(ctx context.Context, n int, lease time.Duration, busy []string) (leases []store.Lease, err error) {
	if n <= 0 {
		return nil, nil
	}
	query, args := dueNow, []any{int64(0)}
	if len(busy) > 0 {
		list, err := json.Marshal(busy)
		if err != nil {
			return nil, err
		}
		query, args = dueNowButBusy, []any{int64(0), string(list)}
	}
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		leases = nil
		now := s.now()
		args[0] = now
		groups, err := findGroups(c, n, query, args)
		if err != nil {
			return err
		}
		for _, g := range groups {
			l, err := claimGroup(c, g, now, now+millis(lease))
			if err != nil {
				return err
			}
			leases = append(leases, l)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leases, nil
}

// findGroups finds the n groups that have been due for longest.
func findGroups(c *conn, n int, query string, args []any) ([]group, error) {
	var groups []group
	seen := map[group]bool{}
	err := c.query(query, args, func(r row) error {
		g := group{r.int(0), r.text(1)}
		if !seen[g] {
			seen[g] = true
			groups = append(groups, g)
		}
		if len(groups) == n {
			return errEnough
		}
		return nil
	})
	return groups, err
}

func claimGroup(c *conn, g group, now, until int64) (store.Lease, error) {
	r, err := c.first("SELECT "+messageColumns+" FROM messages WHERE num = ?", g.num)
	if err != nil {
		return store.Lease{}, err
	}
	m, err := scanMessage(r)
	if err != nil {
		return store.Lease{}, err
	}
	l := m.lease(g.domain, now)
	first, last := deliveryKeys(g.num)
	err = c.query(dueOfGroup, []any{first, last, g.domain, now}, func(r row) error {
		l.Deliveries = append(l.Deliveries, store.Delivery{
			N: int(r.int(0)), Token: r.int(1), Attempt: int(r.int(2)), InDoubt: r.bool(3), Delayed: r.bool(4),
			LastText: r.text(5), DoubtWay: store.Way(r.text(6)), Expired: now >= m.expires, Left: duration(max(0, m.expires-now)),
		})
		return nil
	})
	if err != nil {
		return store.Lease{}, err
	}
	_, err = c.exec(leaseGroup, until, first, last, g.domain, now)
	return l, err
}

// NextDue implements store.Store.
func (s *Store) NextDue(ctx context.Context) (wait time.Duration, ok bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		r, err := c.first("SELECT due FROM deliveries WHERE due IS NOT NULL ORDER BY due LIMIT 1")
		if err != nil || r == nil {
			return err
		}
		ok, wait = true, duration(max(0, r.int(0)-s.now()))
		return nil
	})
	return wait, ok, err
}

const (
	// The attempt before goes among the earlier ones, its words if it was cut
	// short being those of the one before it.
	pushAttempt = `INSERT INTO attempts
		(delivery, number, way, began, ended, result, status, text, remote, remote_id, proof, tls)
		SELECT key, attempt, way, began, ended, result, status, CASE WHEN ended <= 0 THEN '' ELSE text END, remote, remote_id, proof, tls
		FROM deliveries WHERE key = ? AND began > 0`
	beginAttempt = `UPDATE deliveries SET attempt = attempt + 1, way = ?, cut = cut + 1, began = ?,
		ended = 0, result = 0, status = '', remote = '', remote_id = '', proof = '', tls = ''
		WHERE key = ?`
	holdsLease = "SELECT attempt, in_doubt FROM deliveries WHERE key = ? AND token = ? AND state = 2"
)

// BeginAttempt implements store.Store.
func (s *Store) BeginAttempt(ctx context.Context, l store.Lease, way store.Way) (store.Lease, error) {
	begun := l
	begun.Way = way
	err := s.writer.do(ctx, plain, 0, func(c *conn) error {
		begun.Deliveries = make([]store.Delivery, len(l.Deliveries))
		copy(begun.Deliveries, l.Deliveries)
		now := s.now()
		keys, err := leasedKeys(c, l)
		if err != nil {
			return err
		}
		for i, key := range keys {
			if _, err := c.exec(pushAttempt, key); err != nil {
				return err
			}
			if _, err := c.exec(beginAttempt, string(way), now, key); err != nil {
				return err
			}
			begun.Deliveries[i].Attempt++
		}
		return nil
	})
	if err != nil {
		return l, err
	}
	return begun, nil
}

// SetWay implements store.Store.
func (s *Store) SetWay(ctx context.Context, l store.Lease, way store.Way) error {
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		keys, err := leasedKeys(c, l)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if _, err := c.exec("UPDATE deliveries SET way = ? WHERE key = ?", string(way), key); err != nil {
				return err
			}
		}
		return nil
	})
}

// leasedKeys returns the keys of a lease's deliveries, ErrLeaseLost unless all
// of them are still held under its tokens.
func leasedKeys(c *conn, l store.Lease) ([]int64, error) {
	num, err := findNum(c, l)
	if err != nil {
		return nil, err
	}
	keys := make([]int64, len(l.Deliveries))
	for i, d := range l.Deliveries {
		keys[i] = deliveryKey(num, d.N)
		r, err := c.first(holdsLease, keys[i], d.Token)
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, store.ErrLeaseLost
		}
	}
	return keys, nil
}

// findNum finds a lease's message; one that is gone has lost its leases.
func findNum(c *conn, l store.Lease) (int64, error) {
	r, err := c.first("SELECT num FROM messages WHERE id = ?", string(l.ID))
	if err != nil {
		return 0, err
	}
	if r == nil {
		return 0, store.ErrLeaseLost
	}
	return r.int(0), nil
}

// Renew implements store.Store.
func (s *Store) Renew(ctx context.Context, leases []store.Lease, lease time.Duration) (lost []store.Lease, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		lost = nil
		until := s.now() + millis(lease)
		for _, l := range leases {
			keys, err := leasedKeys(c, l)
			if err == store.ErrLeaseLost {
				lost = append(lost, l)
				continue
			}
			if err != nil {
				return err
			}
			for _, key := range keys {
				if _, err := c.exec("UPDATE deliveries SET due = ? WHERE key = ?", until, key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}
