package stream

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"mailxmppd/xmpp/wire"
)

// Request sends an IQ of type "get" or "set" and waits for its answer, at most
// RequestTimeout. payload is the encoded child element; it is copied before
// Request waits for anything but room in the queue. The answer's child is
// returned, nil if it has none. For errors see the package comment.
func (l *Link) Request(ctx context.Context, typ string, payload []byte) (*wire.Element, error) {
	id := newID()
	answer := make(chan *wire.Element, 1)
	if !l.await(id, answer) {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, errEnded)
	}
	defer l.forget(id)
	head := l.stanzaHead("iq", typ, id)
	if n := len(head) + len(payload) + len(iqEnd); n > l.peerMax {
		return nil, fmt.Errorf("%w: %d octets, the peer takes %d", ErrNotSent, n, l.peerMax)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, context.Cause(ctx))
	}
	late := time.NewTimer(l.cfg.RequestTimeout)
	defer late.Stop()
	at, err := l.out.now(l.out.requests, l.cfg.MaxOutBytes, head, payload, iqEnd)
	if err == errFull {
		waiting, cancel := context.WithTimeoutCause(ctx, l.cfg.RequestTimeout, ErrTimeout)
		at, err = l.out.wait(waiting, l.out.requests, l.cfg.MaxOutBytes, head, payload, iqEnd)
		cancel()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	l.m.counters.requestsSent.Add(1)
	select {
	case el := <-answer:
		return readAnswer(el)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-late.C:
		return nil, ErrTimeout
	case <-l.silent:
	}
	select {
	case el := <-answer: // it came, and then the link died
		return readAnswer(el)
	default:
	}
	if l.out.neverLeft(at) {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, ErrClosed)
	}
	return nil, ErrClosed
}

func readAnswer(iq *wire.Element) (*wire.Element, error) {
	if iq.Attr("type") == "error" {
		return nil, stanzaError(iq)
	}
	if len(iq.Children) == 0 {
		return nil, nil
	}
	return iq.Children[0], nil
}

// newID makes an id that nobody but who was asked can know: 96 random bits.
func newID() string {
	var b [12]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// await enters a request into the table, unless the link takes none.
func (l *Link) await(id string, answer chan<- *wire.Element) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		return false
	}
	l.waiting[id] = answer
	l.asking++
	l.touch()
	return true
}

func (l *Link) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, id)
	l.asking--
	l.touch()
	l.checkDrained()
}

// answered hands an IQ result or error to whoever waits for it. The pair of
// domains has been checked, so what is left of the key is the id. An answer
// may come over any stream of the pair (RFC 6120 section 10.4): an ordinary
// server with bidi sends it over the stream that it dialled itself.
func (l *Link) answered(iq *wire.Element) {
	if !l.take(iq) && !l.m.answeredElsewhere(l, iq) {
		l.m.counters.strayAnswers.Add(1)
	}
}

// take hands an answer to who waits for it on this link, if anybody does.
func (l *Link) take(iq *wire.Element) bool {
	id := iq.Attr("id")
	l.mu.Lock()
	answer, ok := l.waiting[id]
	delete(l.waiting, id) // one answer each: the channel has room for one
	l.mu.Unlock()
	if ok {
		answer <- iq
	}
	return ok
}

// touch notes that a request is or was under way.
func (l *Link) touch() { l.lastBusy.Store(time.Now().UnixNano()) }
