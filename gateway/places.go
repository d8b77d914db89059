package gateway

import (
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// reserve takes slots for a message about to be stored: for its domains that
// can be tried at once. Where older mail waits in the store, some places are
// left to it, or new mail would pass it for as long as there is enough.
func (s *scheduler) reserve(domains map[string]bool) store.Own {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := store.Own{For: leaseTime}
	if s.base == nil || s.stopping {
		return own
	}
	for domain := range domains {
		d := s.dest(domain)
		switch {
		case s.slots >= open(s.g.Concurrency, s.behind):
			s.behind = true
		case d.runs >= open(d.limit, d.behind) || time.Now().Before(d.deadUntil):
			d.behind = true
		default:
			s.slots++
			d.runs++
			s.wg.Add(1)
			own.Domains = append(own.Domains, domain)
		}
		s.forget(domain)
	}
	return own
}

// open is how many of n places reservations may fill.
func open(n int, behind bool) int {
	if behind {
		return n - max(1, n/4)
	}
	return n
}

// start runs the leases that came of a reservation and gives back the slots
// that got none. Content that is in memory is used from there.
func (s *scheduler) start(leases []store.Lease, reserved []string, content mail.Content) {
	unused := map[string]bool{}
	for _, domain := range reserved {
		unused[domain] = true
	}
	kept := inMemory(content)
	for _, l := range leases {
		delete(unused, l.Domain)
		s.launch(l, kept, true)
	}
	for domain := range unused {
		s.giveBack([]string{domain})
	}
}

// inMemory is content that outlives its owner's Close; nil where it does not.
func inMemory(content mail.Content) mail.Content {
	if b, ok := content.(interface{ Memory() (mail.Bytes, bool) }); ok {
		if mem, ok := b.Memory(); ok {
			return mem
		}
	}
	if b, ok := content.(mail.Bytes); ok {
		return b
	}
	return nil
}

// giveBack frees reserved slots.
func (s *scheduler) giveBack(domains []string) {
	s.mu.Lock()
	for _, domain := range domains {
		s.slots--
		s.dest(domain).runs--
		s.forget(domain)
		s.wg.Done()
	}
	s.mu.Unlock()
	s.poke()
}

// enterCut takes one of a peer's cut-through places. ups is what leaveCut is to
// be given back.
func (s *scheduler) enterCut(domain string) (ups int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dest(domain)
	if s.stopping || d.cut >= s.g.CutThroughPerPeer {
		s.forget(domain)
		return 0, false
	}
	d.cut++
	return d.ups, true
}

// leaveCut frees the place and reports whether the peer's stream came up since
// it was taken.
func (s *scheduler) leaveCut(domain string, ups int) (up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dest(domain)
	d.cut--
	up = d.ups != ups
	s.forget(domain)
	return up
}
