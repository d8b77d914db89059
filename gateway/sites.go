package gateway

import (
	"time"

	"mailxmppd/mail"
)

// Several recipient domains may be behind one destination: a smarthost, or the
// same set of mail exchangers. They share its places, and when it is dead, all of
// them wait. Which one a domain is behind shows when its mail is routed; it is
// remembered from attempt to attempt, and until then a domain stands for itself.
// What an operator has redirected goes by its next hop instead of its domain
// (store.Destination).

const (
	maxDests = 10_000 // destinations remembered beyond those in use
	maxSites = 10_000 // domains of which is remembered where their mail went
	maxBusy  = 2_000  // domains that a claim leaves out; the others are put off
)

// destinationOf is the name of the destination that a transport takes a domain's
// mail to: that of several domains, where the transport can tell, or the domain.
func destinationOf(t Transport, domain string) string {
	if d, ok := t.(interface{ Destination(domain string) string }); ok {
		if name := d.Destination(domain); name != "" {
			return name
		}
	}
	return domain
}

// siteOf is the name of the destination that a domain is behind. s.mu is held.
func (s *scheduler) siteOf(domain string) string {
	if name, ok := s.sites[domain]; ok {
		return name
	}
	return domain
}

// settleDown remembers which destination a domain is behind. s.mu is held.
func (s *scheduler) settleDown(domain, name string) {
	if name == domain {
		delete(s.sites, domain)
		return
	}
	if _, known := s.sites[domain]; !known && len(s.sites) >= maxSites {
		for other := range s.sites { // any: forgetting costs one look
			delete(s.sites, other)
			break
		}
	}
	s.sites[domain] = name
	s.dest(name).shared = true
}

// behindSite lists the domains that are known to be behind a destination, at most
// so many. s.mu is held.
func (s *scheduler) behindSite(name string, most int) []string {
	out := []string{name}
	for domain, site := range s.sites {
		if len(out) >= most {
			break
		}
		if site == name {
			out = append(out, domain)
		}
	}
	return out
}

// dest is what is known of a destination, made if it is not there. s.mu is held.
func (s *scheduler) dest(name string) *dest {
	d := s.dests[name]
	if d == nil {
		s.makeRoom()
		d = &dest{window: initialWindow(s.g.Config)}
		s.dests[name] = d
	}
	return d
}

// makeRoom drops, of 16 destinations in the map's own random order, one that is
// idle, where there are too many: what is forgotten is learned anew.
func (s *scheduler) makeRoom() {
	if len(s.dests) < maxDests {
		return
	}
	looked := 0
	for name, d := range s.dests {
		if d.idle() {
			delete(s.dests, name)
			return
		}
		if looked++; looked == 16 {
			return
		}
	}
}

// forget drops what is known of an idle destination if it says nothing.
func (s *scheduler) forget(name string) {
	d := s.dests[name]
	if d == nil || !d.idle() {
		return
	}
	if d.outages == 0 && d.failing == 0 && !d.dead(time.Now()) && d.limit() == int(initialWindow(s.g.Config)) && time.Since(d.released) >= s.g.RetryFirst {
		delete(s.dests, name)
	}
}

// places is how many of most places a destination has left. However many that
// is, it may not have more than twice the slots that are free for all: a few slow
// destinations that could fill the machine leave some to the others while they
// share the rest. s.mu is held.
func (s *scheduler) places(d *dest, most int) int {
	return min(most, max(1, 2*(s.g.Concurrency-s.slots))) - d.runs
}

// putOff is why a delivery is not tried although it is due, and until when.
type putOff struct {
	wait time.Duration
	dead bool // else it finds no place
	why  *mail.Failure
}

// offOf tells whether a delivery of that age is to be put off; nil if not. A dead
// destination's mail comes back one by one, at the latest when it would have had
// it failed, so that what comes first finds out; success releases the others.
func (s *scheduler) offOf(d *dest, age time.Duration, full bool) *putOff {
	now := time.Now()
	switch {
	case d.dead(now):
		why := "the next hop did not answer other mail"
		if d.why != "" {
			why += ": " + d.why
		}
		return &putOff{d.deadUntil.Sub(now) + s.g.spread(age), true, mail.Fail(mail.Unreachable, why, nil)}
	case full:
		return &putOff{d.turn(now), false, mail.Fail(mail.Unreachable, "all places at the next hop are taken", nil)}
	}
	return nil
}
