package gateway

import (
	"context"
	"errors"
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

// errStopped is the cause of an attempt's end when the program stops.
var errStopped = errors.New("the gateway stops")

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
	slots    int  // taken, of Concurrency
	behind   bool // mail waits in the store for want of a slot
	dests    map[string]*dest
	leases   map[*held]struct{} // to be renewed
}

// held is a lease in work.
type held struct {
	lease  store.Lease
	cancel context.CancelFunc
	ups    int // of its destination when the attempt began
}

func newScheduler(g *Gateway) *scheduler {
	return &scheduler{g: g, kick: make(chan struct{}, 1), dests: map[string]*dest{}, leases: map[*held]struct{}{}}
}

// run claims and starts deliveries until ctx ends.
func (s *scheduler) run(ctx context.Context, grace time.Duration) {
	base, cut := context.WithCancelCause(context.Background())
	s.mu.Lock()
	s.base = base
	s.mu.Unlock()
	renewing := make(chan struct{})
	go func() { defer close(renewing); s.keepLeases(base) }()
	defer func() { cut(errStopped); <-renewing }()

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
	s.drain(grace, func() { cut(errStopped) })
}

// drain waits for running attempts and for those that reservations may still
// become, then cuts them short: they end as temporary or in doubt and are
// settled so.
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

func (s *scheduler) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// fill starts what is due and says how long nothing more will be.
func (s *scheduler) fill(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		n, busy, wake := s.room()
		if n <= 0 {
			return wake
		}
		leases, err := s.g.Store.Claim(ctx, n, leaseTime, busy)
		if err != nil {
			s.vacate(n)
			if ctx.Err() == nil {
				s.g.Log.Error("claiming deliveries", "err", err)
			}
			return time.Second
		}
		for _, l := range leases {
			s.begin(l)
		}
		s.vacate(n - len(leases))
		if len(leases) < n {
			s.caughtUp(busy)
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

// room takes the slots of the leases to claim now and says how many, which
// domains to leave out, and when the first of these comes back.
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
	n = min(claimBatch, s.g.Concurrency-s.slots)
	s.slots += n
	return n, busy, wake
}

// vacate frees slots that room took and no lease came for.
func (s *scheduler) vacate(n int) {
	s.mu.Lock()
	s.slots -= n
	s.mu.Unlock()
}

// caughtUp notes that nothing due was left but for the busy destinations.
func (s *scheduler) caughtUp(busy []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind = false
	kept := map[string]bool{}
	for _, domain := range busy {
		kept[domain] = true
	}
	for domain, d := range s.dests {
		if !kept[domain] {
			d.behind = false
		}
	}
}

// begin starts a claimed lease in a slot that room took. The limit of its domain may be passed by what
// one claim returns.
func (s *scheduler) begin(l store.Lease) {
	s.mu.Lock()
	s.dest(l.Domain).runs++
	s.wg.Add(1)
	s.mu.Unlock()
	s.launch(l, nil, false)
}

// launch runs an attempt on a goroutine of its own, its slot being taken.
func (s *scheduler) launch(l store.Lease, content mail.Content, begun bool) {
	s.mu.Lock()
	ctx, cancel := context.WithTimeout(s.base, attemptLimit)
	h := &held{l, cancel, s.dest(l.Domain).ups}
	s.leases[h] = struct{}{}
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		defer cancel()
		r := s.g.attempt(ctx, l, content, begun)
		s.end(h, r)
	}()
}

// end frees the slot and learns from the attempt, which has been settled.
func (s *scheduler) end(h *held, r reach) {
	domain := h.lease.Domain
	s.mu.Lock()
	delete(s.leases, h)
	s.slots--
	d := s.dest(domain)
	d.runs--
	due := d.learn(r, d.ups != h.ups, s.g.Config)
	s.forget(domain)
	s.mu.Unlock()
	if due {
		s.release(domain, "destination is back, waiting mail released")
	}
	s.poke()
}

// release makes due what waits for a destination that answers again; msg is for
// the log, where something did.
func (s *scheduler) release(domain, msg string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n, err := s.g.Store.Release(ctx, domain)
	switch {
	case err != nil:
		s.g.Log.Error("waiting mail not released", "domain", domain, "err", err)
	case n > 0:
		s.g.Log.Info(msg, "domain", domain, "deliveries", n)
	}
}

func (s *scheduler) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
