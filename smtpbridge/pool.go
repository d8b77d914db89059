package smtpbridge

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	errClientClosed = errors.New("client is closed")
	errHopBusy      = errors.New("all connections to the next hop are in use")
)

// connPool keeps connections per site, a place as one kind of hop uses it, and
// bounds their number: at most perSite in use and idle together. An idle
// connection is closed after idleFor.
type connPool struct {
	perSite, maxIdle int
	idleFor          time.Duration

	mu     sync.Mutex
	closed bool
	sites  map[string]*site // those in use or with idle connections
}

// site is one entry of the pool. Its fields but slots are guarded by the
// pool's mutex.
type site struct {
	key   string
	slots chan struct{} // one element per attempt that has entered
	users int           // attempts that have entered or wait to
	idle  []*hopConn    // the most recently used last
}

func newConnPool(perSite, maxIdle int, idleFor time.Duration) *connPool {
	return &connPool{perSite: perSite, maxIdle: min(maxIdle, perSite), idleFor: idleFor, sites: map[string]*site{}}
}

// enter waits until another connection to the site is allowed, for at most the
// time given. Whoever has entered must leave.
func (p *connPool) enter(ctx context.Context, key string, wait time.Duration) (*site, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClientClosed
	}
	s := p.sites[key]
	if s == nil {
		s = &site{key: key, slots: make(chan struct{}, p.perSite)}
		p.sites[key] = s
	}
	s.users++
	p.mu.Unlock()

	select {
	case s.slots <- struct{}{}:
		return s, nil
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case s.slots <- struct{}{}:
		return s, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = errHopBusy
	}
	p.drop(s)
	return nil, err
}

// leave undoes enter.
func (p *connPool) leave(s *site) {
	<-s.slots
	p.drop(s)
}

func (p *connPool) drop(s *site) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
	p.forget(s)
}

// forget removes a site that holds nothing. p.mu is held.
func (p *connPool) forget(s *site) {
	if s.users == 0 && len(s.idle) == 0 && p.sites[s.key] == s {
		delete(p.sites, s.key)
	}
}

// take returns the most recently used idle connection, or nil.
func (p *connPool) take(s *site) *hopConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return nil
	}
	hc := s.idle[n-1]
	s.idle[n-1] = nil
	s.idle = s.idle[:n-1]
	hc.idleTimer.Stop()
	hc.reused = true
	return hc
}

// put keeps hc for the next attempt, or closes it.
func (p *connPool) put(s *site, hc *hopConn) {
	p.mu.Lock()
	if p.closed || len(s.idle) >= p.maxIdle {
		p.mu.Unlock()
		hc.quit()
		return
	}
	defer p.mu.Unlock()
	s.idle = append(s.idle, hc)
	hc.idleSince = time.Now()
	if hc.idleTimer == nil {
		hc.idleTimer = time.AfterFunc(p.idleFor, func() { p.expire(s, hc) })
	} else {
		hc.idleTimer.Reset(p.idleFor)
	}
}

// expire closes hc if it is still idle. A timer that fired just as hc was
// taken and put back finds it too young; put has set the timer again.
func (p *connPool) expire(s *site, hc *hopConn) {
	p.mu.Lock()
	found := false
	for i, other := range s.idle {
		if other == hc && time.Since(hc.idleSince) >= p.idleFor {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			found = true
			break
		}
	}
	p.forget(s)
	p.mu.Unlock()
	if found {
		hc.quit()
	}
}

func (p *connPool) close() {
	p.mu.Lock()
	p.closed = true
	var idle []*hopConn
	for _, s := range p.sites {
		for _, hc := range s.idle {
			hc.idleTimer.Stop()
			idle = append(idle, hc)
		}
		s.idle = nil
		p.forget(s)
	}
	p.mu.Unlock()
	for _, hc := range idle {
		hc.quit()
	}
}

// poolKey tells apart what must not share connections: a different proof, name
// or login.
func poolKey(h Hop, p place) string {
	return strings.Join([]string{
		h.Protocol, p.network, p.addr, p.host, string(h.tlsMode()), p.tlsName(h), h.User,
		strconv.FormatBool(p.trusted), strconv.FormatBool(h.Implicit), p.policy.key(),
	}, " ")
}
