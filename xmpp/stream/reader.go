package stream

import (
	"context"
	"time"

	"mellium.im/xmpp/stanza"

	"mailxmppd/xmpp/wire"
)

// IQ is a request of the peer. That it comes from the link's remote domain
// and is for the local one has been checked.
type IQ struct {
	Type    string // "get" or "set"
	ID      string
	Payload *wire.Element // never nil
	Room    int           // octets that the payload of the result may have; 0 for no bound
}

// Reply answers an IQ: with a result, or with an error.
type Reply struct {
	Payload []byte // the result's child, encoded; nil for none
	Error   *ErrorReply
}

// ErrorReply is a stanza error to send (RFC 6120 section 8.3).
type ErrorReply struct {
	Type      string // cancel, continue, modify, auth, wait
	Condition string // of RFC 6120 section 8.3.3
	Text      string // "" for none
	App       []byte // application-specific child, encoded with its namespace; nil for none
}

// read takes in stanzas until the stream ends and says why it did.
func (l *Link) read() error {
	for {
		el, err := l.parser.Next()
		if err != nil {
			return err
		}
		l.lastRead.Store(time.Now().UnixNano())
		if err := l.receive(el); err != nil {
			return err
		}
	}
}

// receive deals with one top-level element. An error ends the link.
func (l *Link) receive(el *wire.Element) error {
	switch {
	case el.Is(wire.StreamNS, "error"):
		return readPeerError(el)
	case el.Name.Space == nsDialback:
		return l.sayNow(l.m.answerDialback(el, "not-authorized"))
	case el.Name.Space == nsAcks:
		return l.receiveAck(el)
	case el.Name.Space != nsServer:
		return &streamError{condition: "unsupported-stanza-type", text: "element is no stanza"}
	case l.way == outward:
		// Without bidi the stream is ours alone to speak on.
		l.m.counters.foreignStanzas.Add(1)
		return &streamError{condition: "not-authorized", text: "stream takes no stanzas this way"}
	}
	l.acks.handled++
	switch el.Name.Local {
	case "iq":
		return l.receiveIQ(el)
	case "message", "presence":
		_, err := l.admit(el)
		return err
	}
	return &streamError{condition: "unsupported-stanza-type", text: "element is no stanza"}
}

func (l *Link) receiveIQ(el *wire.Element) error {
	ok, err := l.admit(el)
	if !ok || err != nil {
		return err
	}
	if !l.heard {
		l.heard = true
		l.m.settle(l)
	}
	if isAnswer(el) {
		l.answered(el)
		return nil
	}
	typ := el.Attr("type")
	switch {
	case typ != "get" && typ != "set":
		return l.refuse(el, stanza.Modify, stanza.BadRequest, "type is none of get, set, result, error")
	case el.Attr("id") == "":
		return l.refuse(el, stanza.Modify, stanza.BadRequest, "no id")
	case len(el.Children) != 1: // RFC 6120 section 8.2.3
		return l.refuse(el, stanza.Modify, stanza.BadRequest, "not exactly one payload")
	}
	iq := &IQ{Type: typ, ID: el.Attr("id"), Payload: el.Children[0]}
	if known, err := l.answerOurselves(iq); known {
		return err
	}
	return l.hand(iq, el)
}

func isAnswer(el *wire.Element) bool {
	typ := el.Attr("type")
	return el.Name.Local == "iq" && (typ == "result" || typ == "error")
}

// admit checks who a stanza is from and for (RFC 6120 sections 8.1.1.2 and
// 8.1.2.2). ok says that it is an IQ between the link's two domains. An answer
// from somebody else is ignored: it cannot be one to a request of this link.
// Anything else from a domain that this stream does not speak for ends the
// stream (section 4.9.3.9), and so does a stanza without addresses (section
// 4.9.3.7); the rest is answered with a stanza error.
func (l *Link) admit(el *wire.Element) (ok bool, err error) {
	to, from := el.Attr("to"), el.Attr("from")
	if to == "" || from == "" {
		return false, &streamError{condition: "improper-addressing", text: "stanza without from or to"}
	}
	toDomain, toBare, toErr := l.nameOf(to)
	fromDomain, fromBare, fromErr := l.nameOf(from)
	silent := isAnswer(el) || el.Name.Local == "presence" || el.Attr("type") == "error"
	switch {
	case fromErr == nil && fromDomain != l.binding.Remote && !isAnswer(el):
		l.m.counters.foreignStanzas.Add(1)
		return false, &streamError{condition: "invalid-from", text: "stream does not speak for this domain"}
	case silent && (fromErr != nil || toErr != nil || fromDomain != l.binding.Remote || !fromBare ||
		toDomain != l.binding.Local || !toBare):
		l.m.counters.strayAnswers.Add(1)
		return false, nil
	case fromErr != nil || toErr != nil:
		return false, l.refuse(el, stanza.Modify, stanza.JIDMalformed, "")
	case toDomain != l.binding.Local:
		return false, l.refuse(el, stanza.Cancel, stanza.ItemNotFound, "no such domain on this stream")
	case !toBare || !fromBare || el.Name.Local == "message" && !silent:
		// Mail goes from domain to domain; there are no chat users here.
		return false, l.refuse(el, stanza.Cancel, stanza.ServiceUnavailable, "")
	}
	return el.Name.Local == "iq", nil
}

// nameOf is domainOf with a short way for the two names that all stanzas of
// the link should carry.
func (l *Link) nameOf(s string) (domain string, bare bool, err error) {
	switch s {
	case l.binding.Local, l.binding.Remote:
		return s, true, nil
	}
	return domainOf(s)
}

// hand gives a request to the handler, on a goroutine of its own, unless the
// peer has too much in hand already. The reader never waits for a slot.
func (l *Link) hand(iq *IQ, el *wire.Element) error {
	if l.cfg.Handle == nil || l.way == inward {
		return l.refuse(el, stanza.Cancel, stanza.ServiceUnavailable, "")
	}
	l.mu.Lock()
	full := l.retired || l.handling >= l.cfg.HandlerSlots || l.handling > 0 && l.holding+el.Size > l.cfg.MaxInBytes
	if !full {
		l.handling++
		l.holding += el.Size
		l.touch()
	}
	l.mu.Unlock()
	if full {
		l.m.counters.requestsShed.Add(1)
		return l.refuse(el, stanza.Wait, stanza.ResourceConstraint, "too many requests in hand")
	}
	l.m.counters.requestsReceived.Add(1)
	iq.Room = max(1, l.peerMax-len(l.stanzaHead("iq", "result", iq.ID))-len(iqEnd))
	l.serve(task{iq, el.Size})
	return nil
}

// task is a request to handle, which counts for size octets until it is done.
type task struct {
	iq   *IQ
	size int
}

// lingering is how long a goroutine that has handled a request waits for the
// next one: to make one, and to grow its stack, costs more than many a request.
const lingering = time.Second

// serve gives a task to a goroutine that waits for one, or to a new one.
func (l *Link) serve(t task) {
	select {
	case l.tasks <- t:
		return
	default:
	}
	l.handlers.Go(func() {
		l.handle(t)
		rest := time.NewTimer(lingering)
		defer rest.Stop()
		for {
			select {
			case t := <-l.tasks:
				l.handle(t)
				rest.Reset(lingering)
			case <-rest.C:
				return
			case <-l.ctx.Done():
				return
			}
		}
	})
}

func (l *Link) handle(t task) {
	r := l.cfg.Handle(l.ctx, l, t.iq)
	l.parser.Release(t.iq.Payload)
	l.reply(t.iq, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handling--
	l.holding -= t.size
	l.touch()
	l.checkDrained()
}

// reply sends a handler's answer; it may wait for room, which a handler can
// and the reader cannot.
func (l *Link) reply(iq *IQ, r Reply) {
	parts := l.encodeReply(iq.ID, r)
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > l.peerMax {
		l.cfg.Log.Warn("answer is too large for the peer", "peer", l.binding.Remote, "size", n)
		if iq.Type == "set" {
			// What it asked may have been done: an error would deny that,
			// silence leaves it in doubt, which is the truth.
			return
		}
		parts = l.encodeReply(iq.ID, Reply{Error: &ErrorReply{
			Type: string(stanza.Wait), Condition: string(stanza.ResourceConstraint), Text: "answer would be too large",
		}})
	}
	_, err := l.out.now(l.out.answers, l.answerLimit(), parts...)
	if err == errFull {
		ctx, cancel := context.WithTimeout(l.ctx, l.cfg.RequestTimeout)
		defer cancel()
		_, err = l.out.wait(ctx, l.out.answers, l.answerLimit(), parts...)
	}
	if err != nil && l.usable() {
		l.cfg.Log.Warn("answer was not sent", "peer", l.binding.Remote, "err", err)
	}
}

// answerLimit is the room in the queue for answers: requests leave a quarter
// of MaxOutBytes on top of theirs to them, and handlers leave half of that to
// the reader.
func (l *Link) answerLimit() int { return l.cfg.MaxOutBytes + l.cfg.MaxOutBytes/8 }

// answerNow queues what the reader answers by itself. If even the room kept
// for that is full, the peer asks without reading: the link ends.
func (l *Link) answerNow(parts ...[]byte) error {
	if l.way == inward {
		l.answerElsewhere(parts)
		return nil
	}
	_, _, err := l.out.try(l.readerLimit(), parts...)
	return unread(err)
}

// sayNow is answerNow for what belongs to this very stream and is no stanza.
func (l *Link) sayNow(s string) error {
	if s == "" {
		return nil
	}
	return unread(l.out.nonza(l.readerLimit(), []byte(s)))
}

func (l *Link) readerLimit() int { return l.cfg.MaxOutBytes + l.cfg.MaxOutBytes/4 }

func unread(err error) error {
	if err == errFull {
		return &streamError{condition: "resource-constraint", text: "answers are not being read"}
	}
	return nil // a link that is closing owes no answer
}
