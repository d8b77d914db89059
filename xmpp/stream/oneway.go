package stream

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"mailxmppd/xmpp/wire"
)

// way says in which direction stanzas go on a stream. RFC 6120 section 4.5 has
// two streams for the two directions between servers, and ordinary servers
// know nothing else: those cannot carry mail, but they may ask for ping or
// disco#info and must get an answer, and Probe asks them.
type way int

const (
	bothWays way = iota // XEP-0288: what every Link handed out has
	inward              // accepted, takes stanzas of the peer
	outward             // dialled, takes stanzas of ours
)

func (w way) String() string { return [...]string{"both", "in", "out"}[w] }

// maxElsewhere bounds the answers of one inward stream that wait for a stream
// to leave by.
const maxElsewhere = 16

// answerElsewhere sends the answer to a stanza of an ordinary server over a
// stream that takes stanzas to it. Without one in time the answer is lost, as
// with any server that cannot be reached.
func (l *Link) answerElsewhere(parts [][]byte) {
	l.mu.Lock()
	full := l.retired || l.handling >= maxElsewhere
	if !full {
		l.handling++
	}
	l.touch()
	l.mu.Unlock()
	if full {
		l.m.counters.answersLost.Add(1)
		return
	}
	answer := bytes.Join(parts, nil)
	l.handlers.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, l.cfg.RequestTimeout)
		defer cancel()
		if err := l.m.answerBy(ctx, l.pair(), answer); err != nil {
			l.m.counters.answersLost.Add(1)
			l.cfg.Log.Info("answer was not sent", "peer", l.binding.Remote, "local", l.binding.Local, "err", err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.handling--
		l.touch()
		l.checkDrained()
	})
}

func (m *Manager) answerBy(ctx context.Context, p pair, answer []byte) error {
	out := m.toward(p)
	if out == nil {
		if err := m.makeWay(ctx, p); err != nil {
			return err
		}
		if out = m.toward(p); out == nil {
			return ErrClosed
		}
	}
	if len(answer) > out.peerMax {
		return errors.New("answer is too large for the peer")
	}
	out.touch()
	_, err := out.out.wait(ctx, out.out.answers, out.answerLimit(), answer)
	return err
}

// makeWay dials a peer for answers, with the pauses that all dials have: the
// looking up of where to is one of them, or a peer could have us do it as
// often as it asks.
func (m *Manager) makeWay(ctx context.Context, p pair) error {
	if m.cfg.Targets == nil || m.waits(p) {
		return errors.New("no stream to the peer")
	}
	targets, err := m.cfg.Targets(ctx, p.local, p.remote)
	if err == nil && len(targets) == 0 {
		err = errors.New("no address to dial")
	}
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.failed(&m.route(p).first, &NegotiationError{Stage: StageDial, Err: err})
		return err
	}
	_, err = m.Link(ctx, p.local, p.remote, targets)
	if e, ok := errors.AsType[*NegotiationError](err); ok && e.Stage == StageBidi {
		return nil // which is a way for answers
	}
	return err
}

// toward returns a live stream that takes stanzas to the remote domain, or
// nil.
func (m *Manager) toward(p pair) *Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.routes[p]
	if r == nil {
		return nil
	}
	if l := r.pick(false); l != nil {
		return l
	}
	return r.outwardStream()
}

// outwardStream returns the newest outward stream that is live, or nil; the
// manager's mu is held.
func (r *route) outwardStream() *Link {
	for _, l := range slices.Backward(r.outward) {
		if l.usable() {
			return l
		}
	}
	return nil
}

// waits reports whether dialling the pair has to wait.
func (m *Manager) waits(p pair) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.routes[p]
	return r != nil && time.Now().Before(r.first.notBefore)
}

// question is a request whose answer comes over another stream, known by its
// two domains and its id (RFC 6120 section 8.1.3).
type question struct {
	pair pair
	id   string
}

// ask sends a request over a stream that brings no answers, and waits for the
// one that the peer brings by itself.
func (m *Manager) ask(ctx context.Context, out *Link, typ string, payload []byte) (*wire.Element, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.cfg.RequestTimeout, ErrTimeout)
	defer cancel()
	q := question{out.pair(), newID()}
	answer := make(chan *wire.Element, 1)
	m.mu.Lock()
	m.questions[q] = answer
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.questions, q)
		m.mu.Unlock()
	}()
	out.touch()
	if _, err := out.out.wait(ctx, out.out.requests, m.cfg.MaxOutBytes, out.stanzaHead("iq", typ, q.id), payload, iqEnd); err != nil {
		return nil, err
	}
	m.counters.requestsSent.Add(1)
	select {
	case el := <-answer:
		return readAnswer(el)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-m.ctx.Done():
		return nil, ErrShutdown
	}
}

// answeredElsewhere hands an answer that came over one stream to whoever asked
// over another one of the same pair.
func (m *Manager) answeredElsewhere(from *Link, iq *wire.Element) bool {
	q := question{from.pair(), iq.Attr("id")}
	m.mu.Lock()
	answer, ok := m.questions[q]
	delete(m.questions, q)
	var others []*Link
	if r := m.routes[q.pair]; r != nil && !ok {
		others = slices.Clone(r.links)
	}
	m.mu.Unlock()
	if ok {
		answer <- iq // one each: the channel has room for it
		return true
	}
	for _, l := range others {
		if l != from && l.take(iq) {
			l.lastRead.Store(time.Now().UnixNano()) // it brought the question there
			return true
		}
	}
	return false
}
