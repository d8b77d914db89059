package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"mailxmppd/mail"
)

// route is what is known of a pair of domains. The manager's mu guards it.
type route struct {
	links     []*Link // in use, the newest last
	dial      *dialling
	failures  int // dials failed in a row
	notBefore time.Time
	lastErr   error
}

const (
	maxBackOff = 30 * time.Second
	maxRoutes  = 4096 // beyond it, routes with nothing to remember are forgotten
)

// idle reports whether the route holds nothing that matters now.
func (r *route) idle(now time.Time) bool {
	return len(r.links) == 0 && r.dial == nil && !now.Before(r.notBefore)
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

// Link returns a live link between the two domains (A-labels), or dials the
// targets in their order, each for at most NegotiateTimeout. Callers at the
// same time share one dial; it goes on when ctx ends, for whoever asks next.
// After a failure the pair is not dialled for a time that doubles: until then
// the answer is a *NegotiationError with StageBackOff and the last error. An
// inbound link that comes meanwhile ends all waits.
func (m *Manager) Link(ctx context.Context, local, remote string, targets []Target) (*Link, error) {
	p := pair{local, remote}
	d, l, err := m.linkOrDial(p, targets)
	if l != nil || err != nil {
		return l, err
	}
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, &NegotiationError{Stage: StageDial, Err: context.Cause(ctx)}
	}
}

func (m *Manager) linkOrDial(p pair, targets []Target) (*dialling, *Link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping {
		return nil, nil, ErrShutdown
	}
	if l := m.live(p); l != nil {
		return nil, l, nil
	}
	if len(targets) == 0 {
		return nil, nil, &NegotiationError{Stage: StageDial, Err: errors.New("no address to dial")}
	}
	r := m.route(p)
	if r.dial != nil {
		return r.dial, nil, nil
	}
	if time.Now().Before(r.notBefore) {
		out := &NegotiationError{Stage: StageBackOff, Err: r.lastErr}
		if last, ok := errors.AsType[*NegotiationError](r.lastErr); ok {
			out.Condition, out.Permanent, out.Peer = last.Condition, last.Permanent, last.Peer
		}
		return nil, nil, out
	}
	r.dial = &dialling{done: make(chan struct{})}
	m.wg.Add(1)
	go m.dialAll(p, r.dial, targets)
	return r.dial, nil, nil
}

func (m *Manager) dialAll(p pair, d *dialling, targets []Target) {
	defer m.wg.Done()
	var link *Link
	var err error
	for _, t := range targets {
		var failure error
		if link, failure = m.dialOne(p, t); failure == nil || m.ctx.Err() != nil {
			err = failure
			break
		}
		m.counters.dialFailures.Add(1)
		m.cfg.Log.Info("stream not made", "peer", p.remote, "local", p.local, "host", t.Host, "remote", t.Addr,
			"err", mail.Sanitise(failure.Error()))
		err = tellingOf(err, failure)
	}
	m.mu.Lock()
	if r := m.routes[p]; r != nil && r.dial == d {
		r.dial = nil
		if err != nil {
			r.failures++
			r.lastErr = err
			r.notBefore = time.Now().Add(m.backOff(r.failures))
		}
	}
	m.mu.Unlock()
	d.finish(link, err)
}

// tellingOf keeps the error that says most: what the proven peer itself said
// comes before what a host of its network did.
func tellingOf(old, new error) error {
	if n, ok := errors.AsType[*NegotiationError](old); ok && n.Peer {
		return old
	}
	return new
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

// dialOne makes a link by way of one address.
func (m *Manager) dialOne(p pair, t Target) (*Link, error) {
	own, err := m.cfg.Certificate(p.local)
	if err != nil {
		return nil, &NegotiationError{Stage: StageTLS, Permanent: true, Err: fmt.Errorf("own certificate: %w", err)}
	}
	m.counters.dialled.Add(1)
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.NegotiateTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, &NegotiationError{Stage: StageDial, Err: err}
	}
	if !m.nurse(raw) {
		raw.Close()
		return nil, ErrShutdown
	}
	defer m.grown(raw)
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	conn := tls.Client(raw, m.clientTLS(p, own))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &NegotiationError{Stage: StageTLS, Permanent: errors.Is(err, errUnproven), Err: err}
	}
	n := m.negotiate(conn)
	n.pair = p
	if err := n.initiate(); err != nil {
		return nil, n.fail(err)
	}
	l := n.link(false)
	if err := m.adopt(l); err != nil {
		n.fail(&streamError{"system-shutdown", ""})
		return nil, err
	}
	return l, nil
}

// nurse puts a dialled connection among those in negotiation.
func (m *Manager) nurse(conn net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping {
		return false
	}
	m.young[conn] = struct{}{}
	return true
}
