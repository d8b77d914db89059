package peers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"mailxmppd/store"
)

const (
	freshFor    = time.Minute      // what was read from the store; another node may learn better
	failedFor   = 10 * time.Minute // a passing failure of a domain to which nothing binds us; never stored
	rewriteTime = time.Hour        // a sighting that says nothing new is written again no sooner
	maxEntries  = 10000
)

// entry is what this process holds of a domain.
type entry struct {
	known
	fresh   time.Time // until when the store is not asked again
	unsaved bool      // the store has not written it, or not yet
	doubt   bool      // the domain has opened a stream since: no absence counts
	failed  time.Time // until when it is not tried again
	failure string
	looked  time.Time // until when _xmpps-mail records are not looked for in spite of a negative
}

// memory is what was learned of domains: the store's, with a small cache.
type memory struct {
	store       store.Peers
	negativeFor time.Duration

	writing chan struct{} // taken around reading, changing and writing a record; before mu

	mu      sync.Mutex
	entries map[string]entry
}

// recall returns what is known of a domain and what follows from it now; for
// Negative, why.
func (m *memory) recall(ctx context.Context, domain string) (known, Basis, string, error) {
	e, err := m.load(ctx, domain)
	if err != nil {
		return known{}, Unknown, "", err
	}
	now := time.Now()
	b := e.basis(now, m.negativeFor)
	why := e.why
	switch {
	case b == Negative && e.doubt:
		b = Unknown
	case b == Unknown && now.Before(e.failed):
		b, why = Negative, e.failure
	}
	return e.known, b, why, nil
}

// load returns a domain's entry, from the store unless it is fresh.
func (m *memory) load(ctx context.Context, domain string) (entry, error) {
	m.mu.Lock()
	e := m.entries[domain]
	m.mu.Unlock()
	if time.Now().Before(e.fresh) {
		return e, nil
	}
	k, err := m.read(ctx, domain)
	if err != nil {
		return entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e = m.entries[domain]
	if time.Now().Before(e.fresh) {
		return e, nil // learned while we read
	}
	e.known, e.fresh, e.unsaved = k, time.Now().Add(freshFor), false
	m.keep(domain, e)
	return e, nil
}

// read returns what the store has of a domain.
func (m *memory) read(ctx context.Context, domain string) (known, error) {
	p, err := m.store.Peer(ctx, domain)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return known{}, nil
	case err != nil:
		return known{}, err
	}
	return decode(p.Facts, p.Age, time.Now())
}

// change applies what was learned of a domain and writes it down. It holds in
// this process for a while also where it cannot be written; on what cannot be
// read nothing is built.
//
// What is changed is the store's record, not the one held here: another node
// may have pinned the domain within the minute, and its pin would be written
// over. The store cannot compare and swap, so this can still happen between the
// reading and the writing; nothing else is done in between.
func (m *memory) change(ctx context.Context, domain string, apply func(k *known, now time.Time)) error {
	select {
	case m.writing <- struct{}{}:
		defer func() { <-m.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	stored, err := m.read(ctx, domain)
	if err != nil {
		return err
	}
	now := time.Now()
	m.mu.Lock()
	e := m.entries[domain]
	if !e.unsaved || !now.Before(e.fresh) || !e.sighted.After(stored.latest()) { // else a sighting that the store lacks
		e.known = stored
	}
	apply(&e.known, now)
	e.fresh, e.doubt, e.failed = now.Add(freshFor), false, time.Time{}
	e.unsaved = !saysTheSame(stored, e.known, now)
	m.keep(domain, e)
	m.mu.Unlock()
	if !e.unsaved {
		return nil
	}
	facts, err := e.encode(now)
	if err == nil {
		err = m.store.PutPeer(ctx, store.Peer{Domain: domain, Facts: facts})
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e = m.entries[domain]
	e.unsaved = false
	m.keep(domain, e)
	return nil
}

// latest is when something was last learned of the domain.
func (k known) latest() time.Time {
	return slices.MaxFunc([]time.Time{k.sighted, k.absent, k.negative}, time.Time.Compare)
}

// saysTheSame reports whether nothing has changed, or a sighting only confirms
// what was known and is not much younger.
func saysTheSame(old, k known, now time.Time) bool {
	return old == k ||
		!old.sighted.IsZero() && !k.sighted.IsZero() && k.sighted.Sub(old.sighted) < rewriteTime &&
			old.absent.IsZero() && k.absent.IsZero() && old.negative.Equal(k.negative) &&
			old.service == k.service && old.via == k.via && old.xmppOnly == k.xmppOnly && now.Before(old.pinned) == now.Before(k.pinned) &&
			old.pinned.Sub(k.pinned).Abs() < 2*rewriteTime
}

// mayLook reports whether the _xmpps-mail records of a domain with a negative
// are due to be looked for.
func (m *memory) mayLook(domain string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !time.Now().Before(m.entries[domain].looked)
}

// noteLooked notes that they were, and none was found.
func (m *memory) noteLooked(domain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[domain]
	e.looked = time.Now().Add(freshFor)
	m.keep(domain, e)
}

// noteFailed spares a domain of which nothing is known further questions for a
// while.
func (m *memory) noteFailed(domain, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[domain]
	e.failed, e.failure = time.Now().Add(failedFor), why
	m.keep(domain, e)
}

// seen takes back what a domain's silence or its own word has earned it: it
// has opened a stream to us (xep-draft section 4.3).
func (m *memory) seen(domain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[domain]
	e.doubt, e.failed = true, time.Time{}
	m.keep(domain, e)
}

// keep enters what is held; when there is too much, any other goes: the store
// has what matters. Called with mu held.
func (m *memory) keep(domain string, e entry) {
	if _, ok := m.entries[domain]; !ok && len(m.entries) >= maxEntries {
		for other := range m.entries {
			delete(m.entries, other)
			break
		}
	}
	m.entries[domain] = e
}
