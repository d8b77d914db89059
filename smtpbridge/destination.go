package smtpbridge

import (
	"slices"
	"strings"
	"sync"
)

// maxSets bounds the domains whose mail exchangers are remembered.
const maxSets = 10_000

// exchangerSets remembers which mail exchangers each domain had at its last
// attempt.
type exchangerSets struct {
	mu sync.Mutex
	of map[string]string // domain -> name of the set
}

// note takes in what was found for a domain: nothing where that failed.
func (s *exchangerSets) note(domain string, hosts []exchanger) {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = strings.ToLower(h.name)
	}
	slices.Sort(names)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(hosts) == 0 {
		delete(s.of, domain)
		return
	}
	if _, known := s.of[domain]; !known && len(s.of) >= maxSets {
		for other := range s.of { // any: forgetting costs one look-up
			delete(s.of, other)
			break
		}
	}
	s.of[domain] = "mx:" + strings.Join(names[:min(len(names), maxHosts)], ",")
}

// Destination names where a hop takes a domain's mail to, without asking the
// DNS: the same for all domains that share a next hop or a set of mail
// exchangers, "" while the domain's exchangers are not known from an attempt.
func (c *Client) Destination(hop Hop, domain string) string {
	if len(hop.Addrs) > 0 {
		return hop.Protocol + ":" + strings.Join(hop.Addrs, ",")
	}
	c.sets.mu.Lock()
	defer c.sets.mu.Unlock()
	return c.sets.of[domain]
}
