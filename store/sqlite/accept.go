package sqlite

import (
	"context"
	"fmt"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Accept implements store.Transfers.
func (s *Store) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, m store.NewMessage) (accepted []mail.ID, leases []store.Lease, err error) {
	d, err := s.draft(m)
	if err != nil {
		return nil, nil, err
	}
	if m.Content != nil {
		if err := s.stage(ctx, d); err != nil {
			return nil, nil, err
		}
		defer s.unstage(d)
	}
	var left int64
	err = s.writer.do(ctx, taking, d.weight(), func(c *conn) (err error) {
		accepted, leases, left, d.waits = nil, nil, 0, false
		t, o, err := find(c, k)
		if err != nil {
			return err
		}
		if t.Known && t.Hash != h {
			return store.ErrConflict
		}
		only := newRecipients(t, m)
		if len(only) > 0 {
			if leases, err = s.takeIn(c, k, h, d, o, only); err != nil {
				return err
			}
		}
		accepted = acceptedIDs(t, m)
		if o != nil {
			// The content is the message's now, unless it brought its own or is not needed.
			left, err = o.end(c, k, m.Content != nil || len(only) == 0 || !anyOpen(d, only))
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if d.waits {
		s.signal()
	}
	s.sweep(ctx, left)
	return accepted, leases, nil
}

// newRecipients numbers those of m's recipients that have not been accepted.
// One that is named twice is one.
func newRecipients(t store.Transfer, m store.NewMessage) []int {
	seen := map[mail.Address]bool{}
	var only []int
	for i, r := range m.Envelope.Recipients {
		if _, was := t.Accepted[r.Address]; !was && !seen[r.Address] {
			only = append(only, i)
		}
		seen[r.Address] = true
	}
	return only
}

func acceptedIDs(t store.Transfer, m store.NewMessage) []mail.ID {
	ids := make([]mail.ID, len(m.Envelope.Recipients))
	for i, r := range m.Envelope.Recipients {
		ids[i] = m.ID
		if id, was := t.Accepted[r.Address]; was {
			ids[i] = id
		}
	}
	return ids
}

func anyOpen(d *draft, only []int) bool {
	for _, i := range only {
		if !d.first(i).Done {
			return true
		}
	}
	return false
}

// takeIn stores the message for its new recipients, with their acceptances.
func (s *Store) takeIn(c *conn, k store.TransferKey, h store.ContentHash, d *draft, o *openTransfer, only []int) ([]store.Lease, error) {
	if d.Content == nil {
		if o == nil {
			return nil, store.ErrNotFound
		}
		if !o.heldBy(k) {
			return nil, store.ErrLeaseLost
		}
		if o.next != o.hash.Size {
			return nil, fmt.Errorf("transfer stands at %d of %d octets", o.next, o.hash.Size)
		}
		d.content, d.size = o.content, o.next
	} else if d.size != h.Size {
		return nil, fmt.Errorf("content of %d octets, not the %d promised", d.size, h.Size)
	}
	leases, num, err := s.insert(c, d, only)
	if err != nil {
		return nil, err
	}
	if num == 0 {
		return nil, fmt.Errorf("message id %s is in use", d.ID)
	}
	if err := s.insertReports(c, d); err != nil {
		return nil, err
	}
	now := s.now()
	for _, i := range only {
		_, err := c.exec(`INSERT INTO acceptances (delivery, domain, local, tid, rcpt, size, sha256, id, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			deliveryKey(num, i), k.Domain, k.Local, k.ID, d.Envelope.Recipients[i].Address.String(), h.Size, h.SHA256[:], string(d.ID), now)
		if err != nil {
			return nil, err
		}
	}
	return leases, nil
}
