package gateway

import (
	"context"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// reservation is the slots of a message about to be stored, each with a place
// at a destination.
type reservation struct {
	own   store.Own
	sites map[string]string // domain -> the destination where it has its place
}

// reserve takes slots for a message about to be stored: for its domains that
// can be tried at once. Where older mail waits in the store, some places are
// left to it, or new mail would pass it for as long as there is enough; and who
// floods a destination that others send to as well gets none there: the store
// knows whose turn it is.
func (s *scheduler) reserve(ctx context.Context, sender string, domains map[string]bool) reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	res := reservation{own: store.Own{For: leaseTime}, sites: map[string]string{}}
	if s.base == nil || s.stopping {
		return res
	}
	if len(domains) == 1 {
		for domain := range domains {
			s.awaitRoom(ctx, s.siteOf(domain))
		}
		if s.stopping { // since then: nobody would wait for the attempt
			return res
		}
	}
	now := time.Now()
	s.mailAt = now
	for domain := range domains {
		name := s.siteOf(domain)
		d := s.dest(name)
		switch {
		case s.slots >= s.g.Concurrency || s.fresh >= open(s.g.Concurrency, s.behind):
			s.behind, s.wanting = true, true
		case d.dead(now):
		case s.places(d, d.room()) <= 0 || d.runs >= open(d.room(), d.behind):
			d.behind, s.wanting = true, true
		case d.behind && s.floods(sender, name, now):
		default:
			s.slots++
			s.fresh++
			d.runs++
			s.wg.Add(1)
			res.own.Domains = append(res.own.Domains, domain)
			res.sites[domain] = name
		}
		s.forget(name)
	}
	return res
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
func (s *scheduler) start(leases []store.Lease, res reservation, content mail.Content) {
	var kept mail.Content
	if len(leases) > 0 {
		kept = inMemory(content)
	}
	for _, l := range leases {
		h := &held{lease: l, fresh: true, site: res.sites[l.Domain]}
		delete(res.sites, l.Domain)
		s.launch(h, kept, true)
	}
	s.giveBack(res)
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

// giveBack frees the slots of a reservation that nothing was started in.
func (s *scheduler) giveBack(res reservation) {
	if len(res.sites) == 0 {
		return
	}
	s.mu.Lock()
	for _, name := range res.sites {
		s.slots--
		s.fresh--
		d := s.dest(name)
		d.runs--
		s.callIn(d)
		s.forget(name)
		s.wg.Done()
	}
	wanting := s.wanting
	s.mu.Unlock()
	if wanting {
		s.poke()
	}
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

// leaveCut frees the place and learns from the transfer as from an attempt of the
// queue: the peer is the same, whichever way mail comes to it. It reports whether
// the waiting mail is to be made due.
func (s *scheduler) leaveCut(domain string, ups int, r reach, why *mail.Failure) (due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dest(domain)
	d.cut--
	due = d.learn(r, why, d.ups != ups, s.g.Config)
	s.forget(domain)
	return due
}
