package peers

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"mailxmppd/store"
)

// knowledge is what is remembered of a domain.
type knowledge int

const (
	nothing knowledge = iota
	sighted           // seen with the feature within 30 days
	absent            // it said that it has not, within NegativeFor
	failed            // it could not be asked a short while ago; never stored
)

const (
	freshFor    = time.Minute      // a fact read from the store; another node may learn better
	failedFor   = 10 * time.Minute // a failed probe of a domain never seen
	rewriteTime = time.Hour        // a sighting is written again no sooner
	maxFacts    = 10000
)

// fact is knowledge held in this process.
type fact struct {
	known   knowledge
	until   time.Time // of believing it without asking the store again
	written time.Time // of a sighting, by this process
	doubt   bool      // the domain has opened a stream since: no absence counts
}

// stored is what the store keeps of a domain; its age is the store's.
type stored struct {
	Feature bool `json:"feature"`
}

// memory is what was learned of domains: the store's, with a small cache.
type memory struct {
	store       store.Peers
	negativeFor time.Duration

	mu    sync.Mutex
	facts map[string]fact
}

// recall returns what is known of a domain.
func (m *memory) recall(ctx context.Context, domain string) (knowledge, error) {
	m.mu.Lock()
	f := m.facts[domain]
	m.mu.Unlock()
	if time.Now().Before(f.until) {
		return f.known, nil
	}
	known, err := m.read(ctx, domain)
	if err != nil {
		return nothing, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f = m.facts[domain]
	if time.Now().Before(f.until) {
		return f.known, nil // learned while we read
	}
	if known == absent && f.doubt {
		known = nothing
	}
	f.known, f.until = known, time.Now().Add(freshFor)
	m.keep(domain, f)
	return known, nil
}

func (m *memory) read(ctx context.Context, domain string) (knowledge, error) {
	p, err := m.store.Peer(ctx, domain)
	if errors.Is(err, store.ErrNotFound) {
		return nothing, nil
	}
	if err != nil {
		return nothing, err
	}
	var s stored
	if err := json.Unmarshal(p.Facts, &s); err != nil {
		return nothing, err
	}
	switch {
	case s.Feature && p.Age < sightingFor:
		return sighted, nil
	case !s.Feature && p.Age < m.negativeFor:
		return absent, nil
	}
	return nothing, nil
}

// note writes down whether a domain has said to have the feature.
func (m *memory) note(ctx context.Context, domain string, feature bool) error {
	known := absent
	if feature {
		known = sighted
	}
	now := time.Now()
	m.mu.Lock()
	f := m.facts[domain]
	recent := feature && f.known == sighted && now.Sub(f.written) < rewriteTime
	f.known, f.until, f.doubt = known, now.Add(freshFor), false
	if !recent {
		f.written = now
	}
	m.keep(domain, f)
	m.mu.Unlock()
	if recent {
		return nil
	}
	facts, err := json.Marshal(stored{Feature: feature})
	if err == nil {
		err = m.store.PutPeer(ctx, store.Peer{Domain: domain, Facts: facts})
	}
	if err != nil {
		m.mu.Lock()
		f := m.facts[domain]
		f.written = time.Time{}
		m.keep(domain, f)
		m.mu.Unlock()
	}
	return err
}

// noteFailed spares a domain of which nothing is known further questions for
// a while.
func (m *memory) noteFailed(domain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.facts[domain]; f.known == nothing {
		f.known, f.until = failed, time.Now().Add(failedFor)
		m.keep(domain, f)
	}
}

// seen takes back what a domain's silence or its own word has earned it: it
// has opened a stream to us (xep-draft section 4.3).
func (m *memory) seen(domain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.facts[domain]
	f.doubt = true
	if f.known == absent || f.known == failed {
		f.known, f.until = nothing, time.Time{}
	}
	m.keep(domain, f)
}

// keep enters a fact; when there are too many, any other goes: the store has
// what matters. Called with mu held.
func (m *memory) keep(domain string, f fact) {
	if _, ok := m.facts[domain]; !ok && len(m.facts) >= maxFacts {
		for other := range m.facts {
			delete(m.facts, other)
			break
		}
	}
	m.facts[domain] = f
}
