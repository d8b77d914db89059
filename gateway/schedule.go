package gateway

import (
	"context"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const (
	claimBatch  = 8                // leases taken from the store at once
	pollEvery   = 30 * time.Second // the safety net behind Wake
	deadMin     = 5 * time.Second  // how long an unreachable destination is left alone at first
	renewEvery  = leaseTime / 4
	initialRuns = 5 // attempts to a destination nothing is known of
)

// scheduler decides which attempts run: at most Concurrency in all and
// PerDomain to one domain, growing with success; a destination that cannot be
// reached is left alone for a while. It holds memory for what runs and for
// destinations in trouble, none for waiting deliveries.
type scheduler struct {
	g    *Gateway
	kick chan struct{} // a slot or a destination became free
	wg   sync.WaitGroup

	mu       sync.Mutex
	base     context.Context // of the attempts; nil before run
	stopping bool
	slots    int // taken, of Concurrency
	dests    map[string]*dest
	leases   map[*held]struct{} // to be renewed
}

// dest is what is known of one recipient domain. Entries that say nothing are
// removed.
type dest struct {
	runs, limit int       // attempts now, and at most
	cut         int       // cut-through transfers now
	fails       int       // times in a row that it could not be reached
	deadUntil   time.Time // no attempt before
}

// held is a lease in work.
type held struct {
	lease  store.Lease
	cancel context.CancelFunc
}

func newScheduler(g *Gateway) *scheduler {
	return &scheduler{g: g, kick: make(chan struct{}, 1), dests: map[string]*dest{}, leases: map[*held]struct{}{}}
}

// run claims and starts deliveries until ctx ends.
func (s *scheduler) run(ctx context.Context, grace time.Duration) {
	base, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.mu.Lock()
	s.base = base
	s.mu.Unlock()
	go s.keepLeases(base)

	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(s.fill(ctx))
		select {
		case <-ctx.Done():
		case <-s.g.Store.Wake():
		case <-s.kick:
		case <-timer.C:
		}
	}
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.drain(grace, cancel)
}

// drain waits for running attempts, then cuts them short: they end as
// temporary or in doubt and are settled so.
func (s *scheduler) drain(grace time.Duration, cut func()) {
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return
	case <-time.After(grace):
	}
	cut()
	select {
	case <-done:
	case <-time.After(grace):
		s.g.Log.Error("attempts did not end in time, their leases will run out")
	}
}

// fill starts what is due and says how long nothing more will be.
func (s *scheduler) fill(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		n, busy, wake := s.room()
		if n == 0 {
			return wake
		}
		leases, err := s.g.Store.Claim(ctx, n, leaseTime, busy)
		if err != nil {
			if ctx.Err() == nil {
				s.g.Log.Error("claiming deliveries", "err", err)
			}
			return time.Second
		}
		for _, l := range leases {
			s.begin(l)
		}
		if len(leases) > 0 {
			continue
		}
		wait, waiting, err := s.g.Store.NextDue(ctx)
		switch {
		case err != nil || !waiting:
			return min(pollEvery, wake)
		case wait <= 0: // due, but its destination is busy or dead
			return min(max(wake, 50*time.Millisecond), time.Second)
		}
		return min(wait, wake, pollEvery)
	}
	return pollEvery
}

// room says how many leases to claim, which domains to leave out, and when the
// first of these comes back.
func (s *scheduler) room() (n int, busy []string, wake time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wake = pollEvery
	now := time.Now()
	for domain, d := range s.dests {
		if left := d.deadUntil.Sub(now); left > 0 {
			wake = min(wake, left)
		} else if d.runs < d.limit {
			continue
		}
		busy = append(busy, domain)
	}
	return min(claimBatch, s.g.Concurrency-s.slots), busy, wake
}

// begin starts a claimed lease. The limit of its domain may be passed by what
// one claim returns.
func (s *scheduler) begin(l store.Lease) {
	s.mu.Lock()
	s.slots++
	s.dest(l.Domain).runs++
	s.mu.Unlock()
	s.launch(l, nil, false)
}

// reserve takes slots for a message about to be stored: for its domains that
// can be tried at once.
func (s *scheduler) reserve(domains map[string]bool) store.Own {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := store.Own{For: leaseTime}
	if s.base == nil || s.stopping {
		return own
	}
	for domain := range domains {
		d := s.dest(domain)
		if s.slots < s.g.Concurrency && d.runs < d.limit && time.Now().After(d.deadUntil) {
			s.slots++
			d.runs++
			own.Domains = append(own.Domains, domain)
		}
		s.forget(domain)
	}
	return own
}

// start runs the leases that came of a reservation and gives back the slots
// that got none. Content that is in memory is used from there.
func (s *scheduler) start(leases []store.Lease, reserved []string, content mail.Content) {
	unused := map[string]bool{}
	for _, domain := range reserved {
		unused[domain] = true
	}
	if b, ok := content.(interface{ Memory() (mail.Bytes, bool) }); ok {
		if mem, ok := b.Memory(); ok {
			content = mem
		}
	}
	kept, _ := content.(mail.Bytes)
	for _, l := range leases {
		delete(unused, l.Domain)
		if kept != nil {
			s.launch(l, kept, true)
		} else {
			s.launch(l, nil, true)
		}
	}
	for domain := range unused {
		s.giveBack([]string{domain})
	}
}

// giveBack frees reserved slots.
func (s *scheduler) giveBack(domains []string) {
	s.mu.Lock()
	for _, domain := range domains {
		s.slots--
		s.dest(domain).runs--
		s.forget(domain)
	}
	s.mu.Unlock()
	s.poke()
}

// launch runs an attempt on a goroutine of its own, its slot being taken.
func (s *scheduler) launch(l store.Lease, content mail.Content, begun bool) {
	s.mu.Lock()
	ctx, cancel := context.WithTimeout(s.base, attemptLimit)
	h := &held{l, cancel}
	s.leases[h] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		defer cancel()
		reached := s.g.attempt(ctx, l, content, begun)
		s.end(h, reached)
	}()
}

// reach is what an attempt showed of its destination.
type reach int

const (
	unknown     reach = iota // nothing was tried
	reached                  // it answered
	unreachable              // it did not
)

// end frees the slot and learns from the attempt.
func (s *scheduler) end(h *held, r reach) {
	domain := h.lease.Domain
	s.mu.Lock()
	delete(s.leases, h)
	s.slots--
	d := s.dest(domain)
	d.runs--
	back := false
	switch r {
	case reached:
		back = d.fails > 0
		d.fails, d.deadUntil = 0, time.Time{}
		d.limit = min(d.limit+1, s.g.PerDomain)
	case unreachable:
		d.fails++
		d.limit = 1
		d.deadUntil = time.Now().Add(min(deadMin<<min(d.fails-1, 10), s.g.RetryFirst))
	}
	s.forget(domain)
	s.mu.Unlock()
	if back {
		s.release(domain)
	}
	s.poke()
}

// release makes due what waits for a destination that answers again.
func (s *scheduler) release(domain string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := s.g.Store.Release(ctx, domain); err != nil {
		s.g.Log.Error("waiting mail not released", "domain", domain, "err", err)
	}
}

// revive forgets that a destination was unreachable.
func (s *scheduler) revive(domain string) {
	s.mu.Lock()
	if d := s.dests[domain]; d != nil {
		d.fails, d.deadUntil, d.limit = 0, time.Time{}, max(d.limit, min(initialRuns, s.g.PerDomain))
		s.forget(domain)
	}
	s.mu.Unlock()
	s.poke()
}

func (s *scheduler) reviveAll() {
	s.mu.Lock()
	var domains []string
	for domain := range s.dests {
		domains = append(domains, domain)
	}
	s.mu.Unlock()
	for _, domain := range domains {
		s.revive(domain)
	}
	s.poke()
}

// enterCut takes one of a peer's cut-through places.
func (s *scheduler) enterCut(domain string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dest(domain)
	if s.stopping || d.cut >= s.g.CutThroughPerPeer {
		s.forget(domain)
		return false
	}
	d.cut++
	return true
}

func (s *scheduler) leaveCut(domain string) {
	s.mu.Lock()
	s.dest(domain).cut--
	s.forget(domain)
	s.mu.Unlock()
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
	plain := d.fails == 0 && d.limit <= initialRuns
	if plain || len(s.dests) > maxDests {
		delete(s.dests, domain)
	}
}

func (s *scheduler) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// keepLeases renews the leases in work; an attempt whose lease is lost is cut
// short, since it could no longer be settled.
func (s *scheduler) keepLeases(ctx context.Context) {
	ticker := time.NewTicker(renewEvery)
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
	byKey := map[string]*held{}
	var leases []store.Lease
	s.mu.Lock()
	for h := range s.leases {
		byKey[string(h.lease.ID)+h.lease.Domain] = h
		leases = append(leases, h.lease)
	}
	s.mu.Unlock()
	if len(leases) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	lost, err := s.g.Store.Renew(ctx, leases, leaseTime)
	if err != nil {
		s.g.Log.Error("renewing leases", "err", err)
	}
	for _, l := range lost {
		if h := byKey[string(l.ID)+l.Domain]; h != nil {
			s.g.Log.Warn("lease lost", "id", l.ID, "domain", l.Domain)
			h.cancel()
		}
	}
}
