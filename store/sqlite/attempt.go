package sqlite

import (
	"context"
	"time"

	"mailxmppd/store"
)

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
	err := s.writer.do(ctx, beginning, 0, func(c *conn) error {
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
	err = s.writer.do(ctx, renewing, 0, func(c *conn) error {
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
