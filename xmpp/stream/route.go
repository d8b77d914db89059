package stream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// route is what is known of a pair of domains. The manager's mu guards it.
type route struct {
	links         []*Link // in use, the newest last
	inward        []*Link // the same, one way
	outward       []*Link
	first, second attempts // at the first link of the pair, and at one for bulk
}

// attempts is the state of dialling for one purpose.
type attempts struct {
	dial      *dialling
	failures  int // in a row
	notBefore time.Time
	lastErr   error
}

const (
	maxBackOff = 30 * time.Second
	maxRoutes  = 4096 // beyond it, routes with nothing to remember are forgotten
)

// dialling is one dial that any number of callers wait for.
type dialling struct {
	once sync.Once
	done chan struct{}
	link *Link
	err  error
}

func (d *dialling) finish(l *Link, err error) {
	d.once.Do(func() {
		d.link, d.err = l, err
		close(d.done)
	})
}

func (d *dialling) finished() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// group is where the links of one way stand.
func (r *route) group(w way) *[]*Link {
	switch w {
	case inward:
		return &r.inward
	case outward:
		return &r.outward
	}
	return &r.links
}

// pick chooses among the links: the oldest for small requests, the newest for
// bulk. Both sides see the same order, so that neither has to mark one. A link
// that has yet to answer a ping comes last: it may be what a crash of the peer
// has left.
func (r *route) pick(newest bool) (found *Link) {
	for _, l := range r.links {
		switch {
		case !l.usable():
		case found == nil || found.doubtful():
			found = l
		case newest && !l.doubtful():
			found = l
		}
	}
	return found
}

// found ends the waits for a link: there is one. What the peer opened shows
// that it can be reached, and ends the back-off.
func (r *route) found(l *Link) {
	for i, a := range [...]*attempts{&r.first, &r.second} {
		if a.dial != nil && len(r.links) > i {
			a.dial.finish(l, nil)
			a.dial = nil
		}
	}
	if l.inbound {
		r.first.failures, r.first.notBefore, r.first.lastErr = 0, time.Time{}, nil
	}
}

// idle reports whether the route holds nothing that matters now.
func (r *route) idle(now time.Time) bool {
	return len(r.links)+len(r.inward)+len(r.outward) == 0 && r.first.idle(now) && r.second.idle(now)
}

func (a *attempts) idle(now time.Time) bool { return a.dial == nil && !now.Before(a.notBefore) }

// failed notes a failure and sets the time of the next attempt.
func (m *Manager) failed(a *attempts, err error) {
	a.failures++
	a.lastErr = err
	a.notBefore = time.Now().Add(m.backOff(a.failures))
}

// early is the answer while the time of the next attempt has not come.
func (a *attempts) early() error {
	out := &NegotiationError{Stage: StageBackOff, Err: a.lastErr}
	if last, ok := errors.AsType[*NegotiationError](a.lastErr); ok {
		out.Condition, out.Permanent, out.Peer = last.Condition, last.Permanent, last.Peer
	}
	return out
}

// backOff is the time after the n-th failure in a row: doubling, with jitter
// so that many pairs do not dial in step.
func (m *Manager) backOff(n int) time.Duration {
	d := m.cfg.BackOff
	for ; n > 1 && d < maxBackOff; n-- {
		d *= 2
	}
	d = min(d, max(maxBackOff, m.cfg.BackOff))
	return d/2 + rand.N(d/2+1)
}

// route finds or makes the route of a pair; mu is held.
func (m *Manager) route(p pair) *route {
	if r := m.routes[p]; r != nil {
		return r
	}
	if len(m.routes) >= maxRoutes {
		now := time.Now()
		for old, r := range m.routes {
			if r.idle(now) {
				delete(m.routes, old)
			}
		}
	}
	r := &route{}
	m.routes[p] = r
	return r
}

// settle notes that a dialled link works: a stanza has come over it. Until
// then its end counts as a failed dial, or a peer that accepts streams only to
// drop them would be dialled without a pause.
func (m *Manager) settle(l *Link) {
	if l.origin == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l.origin.failures, l.origin.notBefore, l.origin.lastErr = 0, time.Time{}, nil
}

// broke notes that the peer ended a link, or made us end it, for the reason
// err. It is called while the link still stands in its route.
func (m *Manager) broke(l *Link, err error) {
	if l.origin == nil || l.heard || l.way != bothWays || l.ending.Load() || time.Since(l.born) >= maxBackOff {
		return
	}
	out := &NegotiationError{Stage: StageReady, Err: fmt.Errorf("stream ended before it was of use: %w", err)}
	if theirs, ok := errors.AsType[*peerError](err); ok {
		out.Condition, out.Peer, out.Permanent = theirs.condition, true, !passing(theirs.condition)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed(l.origin, out)
}
