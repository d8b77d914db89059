package component

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// Link is what goes between our domain and one peer domain over the server.
// Safe for concurrent use.
type Link struct {
	s       *session
	binding mail.Binding
	address string // " from='..' to='..'>" of every stanza, escaped
	born    time.Time
	done    chan struct{}

	up bool // Up was called; notify guards it

	// The session's mu guards these.
	waiting  map[string]chan<- *wire.Element // requests by id, each channel with room for its answer
	handling int                             // requests of the peer in hand
	holding  int                             // octets of them
	lastBusy time.Time
	heard    bool // the peer has been heard, and no server has said since that it cannot be reached
	inbound  bool // it was heard before anything was asked of it
	ended    bool
}

// Binding says for whom the link speaks. The server knows what proved it; what
// TLS it used is not told.
func (l *Link) Binding() mail.Binding { return l.binding }

// MaxStanza is the size in octets that a whole stanza may have on its way.
func (l *Link) MaxStanza() int { return l.s.c.cfg.MaxStanza }

// Done is closed when the link is dead.
func (l *Link) Done() <-chan struct{} { return l.done }

// Inbound reports whether the peer was the first to ask.
func (l *Link) Inbound() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.inbound
}

// link finds or makes the link to a peer.
func (s *session) link(remote string) (*Link, error) {
	s.notify.Lock()
	defer s.notify.Unlock()
	l, old, err := s.find(remote)
	if old != nil {
		old.tellDown()
	}
	return l, err
}

// find also returns the link that made room, if one did.
func (s *session) find(remote string) (l, old *Link, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return nil, nil, errEnded
	}
	now := time.Now()
	if l = s.links[remote]; l != nil {
		if now.Sub(l.born) < s.c.cfg.MaxLife || !l.idle() {
			return l, nil, nil
		}
		old = l
	} else if len(s.links) >= s.c.cfg.MaxPeers {
		for _, other := range s.links {
			if other.idle() && now.Sub(other.lastBusy) > s.c.cfg.IdleBeforeEvict {
				old = other
				break
			}
		}
		if old == nil {
			return nil, nil, mail.Fail(mail.ResourceShort, "too many peers over one component", nil)
		}
	}
	if old != nil {
		old.end()
	}
	l = &Link{
		s: s, born: now, lastBusy: now, done: make(chan struct{}), waiting: map[string]chan<- *wire.Element{},
		binding: mail.Binding{Local: s.c.cfg.Domain, Remote: remote, Proof: "component", Addr: s.conn.RemoteAddr().String()},
	}
	l.address = addresses(l.binding.Local, remote)
	s.links[remote] = l
	return l, old, nil
}

func (s *session) live(remote string) *Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.links[remote]; l != nil && l.heard && !s.retired {
		return l
	}
	return nil
}

// idle and end are called with mu held.
func (l *Link) idle() bool { return len(l.waiting) == 0 && l.handling == 0 }

func (l *Link) end() {
	if !l.ended {
		l.ended = true
		l.heard = false
		delete(l.s.links, l.binding.Remote)
		close(l.done)
	}
}

// endLinks ends all links with the session.
func (s *session) endLinks() {
	s.notify.Lock()
	defer s.notify.Unlock()
	s.mu.Lock()
	var all []*Link
	for _, l := range s.links {
		all = append(all, l)
		l.end()
	}
	s.mu.Unlock()
	for _, l := range all {
		l.tellDown()
	}
}

// hear notes that the peer itself has spoken.
func (l *Link) hear(asks bool) {
	s := l.s
	s.notify.Lock()
	defer s.notify.Unlock()
	s.mu.Lock()
	if !l.heard && !l.ended && !l.up {
		l.inbound = asks
	}
	l.heard = !l.ended
	tell := l.heard && !l.up
	s.mu.Unlock()
	if tell {
		l.up = true
		if s.c.cfg.Up != nil {
			s.c.cfg.Up(l.binding.Local, l.binding.Remote)
		}
	}
}

// lose notes that a server on the way cannot reach the peer.
func (l *Link) lose() {
	l.s.notify.Lock()
	defer l.s.notify.Unlock()
	l.s.mu.Lock()
	l.heard = false
	l.s.mu.Unlock()
	l.tellDown()
}

// tellDown tells that the link is not live any more; notify is held.
func (l *Link) tellDown() {
	if !l.up {
		return
	}
	l.up = false
	if down := l.s.c.cfg.Down; down != nil {
		down(l.binding.Local, l.binding.Remote)
	}
}

// Request sends an IQ of type "get" or "set" and waits for its answer, at most
// RequestTimeout. payload is the encoded child element, copied before Request
// waits for anything. The answer's child is returned, nil if it has none. For
// errors see the package comment.
func (l *Link) Request(ctx context.Context, typ string, payload []byte) (*wire.Element, error) {
	s := l.s
	id := newID()
	whole := l.stanza("iq", typ, id, payload)
	if len(whole) > s.c.cfg.MaxStanza {
		return nil, fmt.Errorf("%w: %d octets, the server takes %d", stream.ErrNotSent, len(whole), s.c.cfg.MaxStanza)
	}
	answer := make(chan *wire.Element, 1)
	if !l.expect(id, answer) {
		return nil, fmt.Errorf("%w: %w", stream.ErrNotSent, errEnded)
	}
	defer l.forget(id)
	ctx, cancel := context.WithTimeoutCause(ctx, s.c.cfg.RequestTimeout, stream.ErrTimeout)
	defer cancel()
	sent, err := s.out.request(ctx, whole)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", stream.ErrNotSent, err)
	}
	s.c.counters.requestsSent.Add(1)
	select {
	case el := <-answer:
		return l.readAnswer(el)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.done:
	}
	select {
	case el := <-answer: // it came, and then the connection ended
		return l.readAnswer(el)
	default:
	}
	if !sent.begun.Load() {
		return nil, fmt.Errorf("%w: %w", stream.ErrNotSent, stream.ErrClosed)
	}
	return nil, stream.ErrClosed
}

// newID makes an id that nobody but who was asked can know: 96 random bits.
func newID() string {
	var b [12]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// expect enters a request into the table, unless none is taken.
func (l *Link) expect(id string, answer chan<- *wire.Element) bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.retired || l.ended {
		return false
	}
	l.waiting[id] = answer
	l.s.asking++
	l.lastBusy = time.Now()
	return true
}

func (l *Link) forget(id string) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	delete(l.waiting, id)
	l.s.asking--
	l.lastBusy = time.Now()
	l.s.checkDrained()
}
