package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"mailxmppd/mail"
)

// Link returns a live link between the two domains (A-labels), or dials the
// targets in their order, each for at most NegotiateTimeout. Callers at the
// same time share one dial; it goes on when ctx ends, for whoever asks next.
// After a failure the pair is not dialled for a time that doubles: until then
// the answer is a *NegotiationError with StageBackOff and the last error. An
// inbound link that comes meanwhile ends all waits. A proven peer without bidi
// is StageBidi, and not dialled again while the stream lasts that came of it.
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
	if r := m.routes[p]; r != nil && r.outwardStream() != nil {
		return nil, nil, noBidi() // said on a stream that still stands
	}
	if len(targets) == 0 {
		return nil, nil, &NegotiationError{Stage: StageDial, Err: errors.New("no address to dial")}
	}
	a := &m.route(p).first
	if a.dial == nil && time.Now().Before(a.notBefore) {
		return nil, nil, a.early()
	}
	return m.dial(p, a, targets), nil, nil
}

// dial joins or starts a dial; mu is held and the manager not stopping. A
// route with a dial under way is not forgotten, so that a stays valid.
func (m *Manager) dial(p pair, a *attempts, targets []Target) *dialling {
	if a.dial == nil {
		a.dial = &dialling{done: make(chan struct{})}
		m.wg.Add(1)
		go m.dialAll(p, a, a.dial, slices.Clone(targets))
	}
	return a.dial
}

func (m *Manager) dialAll(p pair, a *attempts, d *dialling, targets []Target) {
	defer m.wg.Done()
	link, err := m.tryAll(p, a, targets)
	m.mu.Lock()
	if a.dial == d {
		a.dial = nil
	}
	if err != nil && !d.finished() {
		m.failed(a, err)
	}
	m.mu.Unlock()
	d.finish(link, err)
}

// tryAll dials one target after the other, and once where a peer refers to.
func (m *Manager) tryAll(p pair, a *attempts, targets []Target) (*Link, error) {
	var err error
	referred := false
	for len(targets) > 0 {
		t := targets[0]
		targets = targets[1:]
		link, failure := m.dialOne(p, a, t)
		if failure == nil || m.ctx.Err() != nil {
			return link, failure
		}
		m.counters.dialFailures.Add(1)
		m.cfg.Log.Info("stream not made", "peer", p.remote, "local", p.local, "host", t.Host, "remote", t.Addr,
			"err", mail.Sanitise(failure.Error()))
		err = tellingOf(err, failure)
		if n, ok := errors.AsType[*NegotiationError](failure); ok && n.Stage == StageBidi {
			return nil, failure // there is a stream, and the domain's other hosts will say the same
		}
		if other := m.referral(failure, t); len(other) > 0 && !referred {
			referred = true
			m.counters.redirects.Add(1)
			targets = append(other, targets...)
		}
	}
	return nil, err
}

// tellingOf keeps the error that says most: what the proven peer itself said
// comes before what a host of its network did.
func tellingOf(old, new error) error {
	if n, ok := errors.AsType[*NegotiationError](old); ok && n.Peer && n.Condition != "see-other-host" {
		return old
	}
	return new
}

// dialOne makes a link by way of one address. Where the peer has no bidi, a
// stream that carries no mail comes of it, and the error says StageBidi.
func (m *Manager) dialOne(p pair, a *attempts, t Target) (*Link, error) {
	n := m.negotiate(p)
	n.dialled, n.origin = &t, a
	own, err := n.certificate(p.local)
	if err != nil {
		return nil, &NegotiationError{Stage: StageTLS, Permanent: true, Err: fmt.Errorf("own certificate: %w", err)}
	}
	m.counters.dialled.Add(1)
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.NegotiateTimeout)
	defer cancel()
	raw, err := (&net.Dialer{Timeout: m.cfg.DialTimeout}).DialContext(ctx, "tcp", t.Addr)
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
	if t.StartTLS {
		n.begin(inClear{raw}, StageStartTLS)
		if err := n.askTLS(); err != nil {
			return nil, n.fail(err)
		}
	}
	conn := tls.Client(raw, n.clientTLS(own, !t.StartTLS))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &NegotiationError{Stage: StageTLS, Err: err}
	}
	n.begin(conn, StageHeader)
	if err := n.initiate(ctx); err != nil {
		return nil, n.fail(err)
	}
	l := n.link(false)
	if err := m.adopt(l); err != nil {
		n.fail(&streamError{condition: "system-shutdown"})
		return nil, err
	}
	if l.way == outward {
		return nil, noBidi()
	}
	return l, nil
}

func noBidi() error {
	return &NegotiationError{Stage: StageBidi, Permanent: true, Peer: true,
		Err: fmt.Errorf("%w: no bidirectional streams (XEP-0288)", errNoFeature)}
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
