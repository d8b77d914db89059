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
	claimBatch = 8                // leases taken from the store at once
	pollEvery  = 30 * time.Second // the safety net behind Wake
	minWait    = 50 * time.Millisecond
)

// errStopped is the cause of an attempt's end when the program stops.
var errStopped = errors.New("the gateway stops")

// scheduler decides which attempts run: at most Concurrency in all and
// PerDomain to one destination, as many as it shows that it can take; one that
// cannot be reached is left alone for a while, and what becomes due for it is put
// off. It holds memory for what runs, for destinations in trouble and for
// senders of much mail, none for waiting deliveries.
type scheduler struct {
	g    *Gateway
	kick chan struct{} // a slot or a destination became free
	wg   sync.WaitGroup

	mu       sync.Mutex
	base     context.Context // of the attempts; nil before run
	stopping bool
	slots    int                   // taken, of Concurrency
	fresh    int                   // of them by new mail, from its reservation on
	yielded  int                   // not taken, and for a moment left to new mail
	mailAt   time.Time             // when the last new mail came
	behind   bool                  // mail waits in the store for want of a slot
	wanting  bool                  // some may, for want of a slot or a place: who frees one has to say so
	dests    map[string]*dest      // by name
	sites    map[string]string     // domain -> the name of its destination, where that is another
	turns    map[turnKey]time.Time // until when what a sender has put counts
	leases   map[*held]struct{}    // to be renewed
}

// held is a lease in work.
type held struct {
	lease  store.Lease
	cancel context.CancelFunc
	fresh  bool          // new mail, in a slot that was reserved for it
	site   string        // the destination where it has a place, or is to get one; "" for none
	works  bool          // it has it
	turn   chan struct{} // closed when it gets it, while it waits in line
	off    *putOff       // it is not tried
	up     bool          // its domain's stream came up since it began

	settling bool // the attempt has ended
}

func newScheduler(g *Gateway) *scheduler {
	return &scheduler{g: g, kick: make(chan struct{}, 1), dests: map[string]*dest{}, sites: map[string]string{}, turns: map[turnKey]time.Time{}, leases: map[*held]struct{}{}}
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
		s.hear()
		timer.Reset(s.fill(ctx))
		select {
		case <-ctx.Done():
		case destination := <-s.g.Store.Revived():
			s.revived(destination)
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
		n, perDest, busy := s.room()
		if n <= 0 {
			return pollEvery // a slot that becomes free is heard of
		}
		leases, err := s.g.Store.Claim(ctx, n, leaseTime, busy, perDest)
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
		if len(leases) > 0 {
			continue // fewer than asked for may be what one destination was bounded to
		}
		s.caughtUp(busy)
		wait, waiting, err := s.g.Store.NextDue(ctx, busy)
		switch {
		case err != nil || !waiting:
			return pollEvery
		}
		return min(max(wait, minWait), pollEvery)
	}
	return pollEvery
}

// room takes the slots of the leases to claim now and says how many, how many of
// one destination, and what to leave out because there is no place. What is
// claimed may all be for one destination, and for different domains behind a
// shared one, so that no more is than the fullest can take. A quarter of the
// slots is never claimed for: when a long queue comes due at once, new mail that
// found none would get its turn after all of it.
func (s *scheduler) room() (n, perDest int, busy []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := max(0, min(s.g.Concurrency-s.slots, s.g.Concurrency-s.g.Concurrency/4-(s.slots-s.fresh))-s.yielded)
	n, perDest = min(claimBatch, left), int(initialWindow(s.g.Config))
	for name, d := range s.dests {
		switch left := s.places(d, d.limit()); {
		case d.runs == 0:
		case left > 0:
			if perDest = min(perDest, left); d.shared {
				n = min(n, left)
			}
		case len(busy) < maxBusy:
			busy = append(busy, s.behindSite(name, maxBusy-len(busy))...)
		}
	}
	s.slots += n
	s.wanting = true // until it shows that there is nothing
	return n, perDest, busy
}

// vacate frees slots that room took and no lease came for.
func (s *scheduler) vacate(n int) {
	s.mu.Lock()
	s.slots -= n
	s.mu.Unlock()
}

// caughtUp notes that nothing due was left but for the busy destinations. What
// becomes due after that is heard of from the store.
func (s *scheduler) caughtUp(busy []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind, s.wanting = false, len(busy) > 0
	kept := map[string]bool{}
	for _, domain := range busy {
		kept[domain] = true
	}
	for name, d := range s.dests {
		if !kept[name] {
			d.behind = false
		}
	}
}

// begin starts a claimed lease in a slot that room took, or puts it off.
func (s *scheduler) begin(l store.Lease) {
	h := &held{lease: l}
	s.mu.Lock()
	name := s.siteOf(l.Destination())
	d := s.dest(name)
	if h.off = s.offOf(d, l.Age, d.runs >= d.limit()); h.off == nil {
		d.runs++
		h.site = name
	}
	s.wg.Add(1)
	s.mu.Unlock()
	s.launch(h, nil, false)
}

// launch runs an attempt on a goroutine of its own, its slot being taken.
func (s *scheduler) launch(h *held, content mail.Content, begun bool) {
	s.mu.Lock()
	var ctx context.Context
	ctx, h.cancel = context.WithTimeout(s.base, attemptLimit)
	s.leases[h] = struct{}{}
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		defer h.cancel()
		s.end(h, s.g.attempt(ctx, h, content, begun))
	}()
}

// end frees the slot and learns from the attempt, which has been settled.
func (s *scheduler) end(h *held, t trial) {
	s.mu.Lock()
	delete(s.leases, h)
	s.slots--
	if h.fresh {
		s.fresh--
	} else {
		s.yield(t)
	}
	var due []string
	s.depart(h)
	if d := s.dests[s.siteOf(h.lease.Destination())]; d != nil {
		s.callIn(d) // there is a slot more
	}
	if t.site != "" {
		s.settleDown(h.lease.Destination(), t.site)
		d := s.dest(t.site)
		d.took(t.took)
		if d.learn(t.reach, t.why, h.up, s.g.Config) {
			due = s.behindSite(t.site, maxReleased)
		}
		s.forget(t.site)
	}
	wanting := s.wanting
	s.mu.Unlock()
	for _, destination := range due {
		s.release(destination, "destination is back, waiting mail released")
	}
	if wanting {
		s.poke()
	}
}

const (
	yieldFor  = 200 * time.Millisecond // how long a retry's slot is left to new mail
	mailFlows = time.Second            // how long new mail counts as coming
)

// yield keeps a slot from retries for a moment, after one that found nobody at its
// destination, while new mail comes. When thousands of dead destinations come due
// at once and refuse at once, their retries otherwise fill the store with
// settlements, behind which new mail waits for its own write; nothing of them is
// in a hurry. A retry that a destination answers yields nothing. s.mu is held.
func (s *scheduler) yield(t trial) {
	if t.off == nil && t.reach != unreachable || time.Since(s.mailAt) > mailFlows {
		return
	}
	s.yielded++
	time.AfterFunc(yieldFor, func() {
		s.mu.Lock()
		s.yielded--
		wanting := s.wanting
		s.mu.Unlock()
		if wanting {
			s.poke()
		}
	})
}

// maxReleased bounds the destinations whose mail is released when their destination
// is back; what waits for others comes by itself.
const maxReleased = 500

// releaseLimit bounds one release. The store works in small steps, tens of
// thousands of deliveries a second.
const releaseLimit = 10 * time.Minute

// release makes due what waits for a domain, or by a next hop that it was
// redirected to, that answers again; msg is for the log, where something did. It
// ends with the program at the latest: what is not released by then comes in its
// own time.
func (s *scheduler) release(destination, msg string) {
	s.mu.Lock()
	base := s.base
	s.mu.Unlock()
	if base == nil {
		base = context.Background()
	}
	ctx, cancel := context.WithTimeout(base, releaseLimit)
	defer cancel()
	n, err := s.g.Store.Release(ctx, destination)
	switch {
	case err != nil:
		s.g.Log.Error("waiting mail not all released, the rest is tried in its own time", "domain", destination, "deliveries", n, "err", err)
	case n > 0:
		s.g.Log.Info(msg, "domain", destination, "deliveries", n)
	}
}

// releaseBeside is release for a caller that somebody waits for.
func (s *scheduler) releaseBeside(destination, msg string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	s.wg.Go(func() { s.release(destination, msg) })
}

// revive forgets that a domain's destination was unreachable. up says that the
// stream to it came up: then it is a peer, and its attempts that run now are to
// hear of it.
func (s *scheduler) revive(domain string, up bool) {
	s.mu.Lock()
	if up {
		s.settleDown(domain, domain)
		for h := range s.leases {
			h.up = h.up || h.lease.Destination() == domain
		}
	}
	name := s.siteOf(domain)
	if d := s.dests[name]; d != nil {
		d.revived(s.g.Config)
		if up {
			d.ups++
		}
		s.forget(name)
	}
	s.mu.Unlock()
	s.poke()
}

// hear takes in what other nodes have released, before it is claimed: what is
// put off, because its destination counts as dead here, may wait for hours.
func (s *scheduler) hear() {
	for {
		select {
		case destination := <-s.g.Store.Revived():
			s.revived(destination)
		default:
			return
		}
	}
}

// revived is revive for what another node has found out, "" for all.
func (s *scheduler) revived(destination string) {
	if destination == "" {
		s.reviveAll()
		return
	}
	s.revive(destination, false)
}

// reviveAll forgets that destinations were unreachable, and lists what is behind
// those that were, as far as it is known.
func (s *scheduler) reviveAll() (behind []string) {
	s.mu.Lock()
	for name, d := range s.dests {
		if len(behind) < maxReleased && (d.outages > 0 || d.failing > 0) {
			behind = append(behind, s.behindSite(name, maxReleased-len(behind))...)
		}
		d.revived(s.g.Config)
		s.forget(name)
	}
	s.mu.Unlock()
	s.poke()
	return behind
}

func (s *scheduler) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
