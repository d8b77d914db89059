package gateway

import (
	"context"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// leaseKey tells leases apart: a message may have several to one domain, of
// deliveries that became due at different times.
type leaseKey struct {
	id    mail.ID
	n     int
	token int64
}

func keyOf(l store.Lease) leaseKey {
	return leaseKey{l.ID, l.Deliveries[0].N, l.Deliveries[0].Token}
}

// keepLeases renews the leases in work; an attempt whose lease is lost is cut
// short, since it could no longer be settled.
func (s *scheduler) keepLeases(ctx context.Context) {
	ticker := time.NewTicker(leaseTime / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.renew(ctx)
		}
	}
}

func (s *scheduler) renew(ctx context.Context) {
	byKey := map[leaseKey]*held{}
	var leases []store.Lease
	s.mu.Lock()
	for h := range s.leases {
		byKey[keyOf(h.lease)] = h
		leases = append(leases, h.lease)
	}
	s.mu.Unlock()
	if len(leases) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTime/4)
	defer cancel()
	lost, err := s.g.Store.Renew(ctx, leases, leaseTime)
	if err != nil {
		s.g.Log.Error("renewing leases", "err", err)
	}
	for _, l := range lost {
		if h := byKey[keyOf(l)]; h != nil && s.holds(h, l) {
			s.g.Log.Warn("lease lost", "id", l.ID, "domain", l.Domain)
			h.cancel()
		}
	}
}

// holds reports whether an attempt may still run although a lease was not
// renewed: no, unless that was narrowed meanwhile. One that was settled during
// the renewal is lost to nobody, and one that is being settled hears from that
// whether it was lost.
func (s *scheduler) holds(h *held, l store.Lease) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.leases[h]
	return ok && !h.settling && len(h.lease.Deliveries) == len(l.Deliveries)
}

// narrow notes that only these deliveries of a lease are in work any more: one
// that has been settled would look as if the lease were lost.
func (s *scheduler) narrow(h *held, l store.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.lease = l
}

// settles notes that an attempt has ended and is being settled. The lease is
// renewed for as long as that takes.
func (s *scheduler) settles(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.settling = true
}
