package gateway

import "time"

// reach is what an attempt showed of its destination.
type reach int

const (
	unknown     reach = iota // nothing: it was not asked
	unreachable              // it did not answer
	answered                 // it answered, and took nothing
	delivered                // it took mail
)

// dest is what is known of one recipient domain. Entries that say nothing are
// removed.
type dest struct {
	runs, limit int       // attempts now, and at most
	cut         int       // cut-through transfers now
	fails       int       // times in a row that it could not be reached
	deadUntil   time.Time // no attempt before
	released    time.Time // when its waiting mail was last made due by an attempt's success
	ups         int       // how often its stream came up while it is known
	behind      bool      // mail to it waits in the store for want of a place
}

// learn takes in what an attempt showed; up says that the destination's stream
// came up since the attempt began. It reports whether the waiting mail is to
// be made due.
func (d *dest) learn(r reach, up bool, cfg Config) (due bool) {
	now := time.Now()
	switch r {
	case unreachable:
		if up {
			// It came back before this attempt's failure was settled, so the
			// release at that moment passed over its deliveries.
			return true
		}
		if now.Before(d.deadUntil) {
			return false // one outage, seen by several attempts
		}
		d.fails++
		d.limit = 1
		d.deadUntil = now.Add(min(deadMin<<min(d.fails-1, 10), cfg.RetryFirst))
	case answered:
		d.fails, d.deadUntil = 0, time.Time{}
	case delivered:
		// Not more often than a retry would come: a destination that answers
		// now and then must not have its whole queue thrown at it each time.
		due = d.fails > 0 && now.Sub(d.released) >= cfg.RetryFirst
		if due {
			d.released = now
		}
		d.fails, d.deadUntil = 0, time.Time{}
		d.limit = min(d.limit+1, cfg.PerDomain)
	}
	return due
}

// revived forgets that a destination was unreachable.
func (d *dest) revived(cfg Config) {
	d.fails, d.deadUntil, d.limit = 0, time.Time{}, max(d.limit, min(initialRuns, cfg.PerDomain))
}

// revive forgets that a destination was unreachable; up says that its stream
// came up, which attempts that run now are to hear of.
func (s *scheduler) revive(domain string, up bool) {
	s.mu.Lock()
	if d := s.dests[domain]; d != nil {
		d.revived(s.g.Config)
		if up {
			d.ups++
		}
		s.forget(domain)
	}
	s.mu.Unlock()
	s.poke()
}

func (s *scheduler) reviveAll() {
	s.mu.Lock()
	for domain, d := range s.dests {
		d.revived(s.g.Config)
		s.forget(domain)
	}
	s.mu.Unlock()
	s.poke()
}

func (s *scheduler) dest(domain string) *dest {
	d := s.dests[domain]
	if d == nil {
		d = &dest{limit: min(initialRuns, s.g.PerDomain)}
		s.dests[domain] = d
	}
	return d
}

// maxDests bounds the destinations remembered beyond those in use.
const maxDests = 10_000

// forget drops what is known of an idle destination: nothing worth keeping, or
// too much of it.
func (s *scheduler) forget(domain string) {
	d := s.dests[domain]
	if d == nil || d.runs > 0 || d.cut > 0 {
		return
	}
	plain := d.fails == 0 && d.limit <= initialRuns && time.Since(d.released) >= s.g.RetryFirst
	if plain || len(s.dests) > maxDests {
		delete(s.dests, domain)
	}
}
