package component

import (
	"context"
	"strings"
	"time"

	"mellium.im/xmpp/jid"
	"mellium.im/xmpp/stanza"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// allPeers is how many times one peer's share of what may be in hand all
// peers have together.
const allPeers = 4

// receive deals with one stanza. What is wrong with it concerns its sender
// alone.
func (s *session) receive(el *wire.Element) {
	if el.Name.Space != nsComponent {
		s.c.counters.dropped.Add(1)
		return
	}
	from, bareFrom, fromErr := domainOf(el.Attr("from"))
	to, bareTo, toErr := domainOf(el.Attr("to"))
	if fromErr == nil && from == s.c.cfg.Domain && s.meet(el) {
		return
	}
	s.heard.Store(true)
	typ := el.Attr("type")
	isAnswer := el.Name.Local == "iq" && (typ == "result" || typ == "error")
	switch {
	case isAnswer:
		if fromErr == nil && bareFrom && toErr == nil && bareTo && to == s.c.cfg.Domain {
			s.answered(from, el)
		} else {
			s.c.counters.strays.Add(1)
		}
	case typ == "error" || el.Name.Local == "presence":
	case fromErr != nil || toErr != nil:
		s.refuse(el, stanza.Modify, stanza.JIDMalformed, "")
	case to != s.c.cfg.Domain:
		s.refuse(el, stanza.Cancel, stanza.ItemNotFound, "no such domain here")
	case el.Name.Local != "iq" || !bareTo:
		// Mail goes from domain to domain; there are no chat users here.
		s.refuse(el, stanza.Cancel, stanza.ServiceUnavailable, "")
	case typ != "get" && typ != "set":
		s.refuse(el, stanza.Modify, stanza.BadRequest, "type is none of get, set, result, error")
	case el.Attr("id") == "":
		s.refuse(el, stanza.Modify, stanza.BadRequest, "no id")
	case len(el.Children) != 1: // RFC 6120 section 8.2.3
		s.refuse(el, stanza.Modify, stanza.BadRequest, "not exactly one payload")
	case s.answerOurselves(el, from):
	case !bareFrom || from == s.c.cfg.Domain || s.c.cfg.Handle == nil:
		s.refuse(el, stanza.Cancel, stanza.ServiceUnavailable, "")
	case !s.c.cfg.AssertAuthenticated:
		s.c.counters.unasserted.Add(1)
		s.refuse(el, stanza.Cancel, stanza.ServiceUnavailable, noAssertion)
	default:
		s.hand(from, el)
	}
}

// domainOf reads a JID (RFC 7622 section 3.1) and returns its domain as
// A-labels; bare says that it has neither local part nor resource.
func domainOf(s string) (domain string, bare bool, err error) {
	local, domain, resource, err := jid.SplitString(s)
	if err != nil {
		return "", false, err
	}
	domain, err = mail.ParseDomain(strings.TrimSuffix(domain, "."))
	return domain, local == "" && resource == "" && !strings.ContainsAny(s, "@/"), err
}

// answered hands a result or error to whoever waits for it: the table's key is
// the peer's domain with the id.
func (s *session) answered(from string, iq *wire.Element) {
	id := iq.Attr("id")
	s.mu.Lock()
	l := s.links[from]
	var answer chan<- *wire.Element
	if l != nil {
		answer = l.waiting[id]
		delete(l.waiting, id) // one answer each: the channel has room for one
	}
	s.mu.Unlock()
	if answer == nil {
		s.c.counters.strays.Add(1)
		return
	}
	if _, own := readError(iq); iq.Attr("type") == "error" && !own {
		s.c.counters.bounced.Add(1)
		l.lose()
	} else {
		l.hear(false)
	}
	answer <- iq
}

// hand gives a request to the handler, on a goroutine of its own, unless the
// peer, or all together, have too much in hand already.
func (s *session) hand(from string, el *wire.Element) {
	l, err := s.link(from)
	if err != nil {
		s.shed(el)
		return
	}
	l.hear(true)
	cfg := &s.c.cfg
	s.mu.Lock()
	full := s.retired || l.handling >= cfg.HandlerSlots || s.handling >= allPeers*cfg.HandlerSlots ||
		l.handling > 0 && l.holding+el.Size > cfg.MaxInBytes || s.handling > 0 && s.holding+el.Size > allPeers*cfg.MaxInBytes
	if !full {
		l.hold(1, el.Size)
	}
	s.mu.Unlock()
	if full {
		s.shed(el)
		return
	}
	s.c.counters.requestsReceived.Add(1)
	iq := &stream.IQ{Type: el.Attr("type"), ID: el.Attr("id"), Payload: el.Children[0]}
	iq.Room = max(1, cfg.MaxStanza-len(l.stanza("iq", "result", iq.ID, nil)))
	size := el.Size
	s.handlers.Go(func() {
		l.reply(iq, cfg.Handle(s.ctx, l.binding, iq))
		s.mu.Lock()
		defer s.mu.Unlock()
		l.hold(-1, -size)
		s.checkDrained()
	})
}

// hold counts requests in hand and their octets; mu is held.
func (l *Link) hold(requests, octets int) {
	l.handling += requests
	l.holding += octets
	l.s.handling += requests
	l.s.holding += octets
	l.lastBusy = time.Now()
}

func (s *session) shed(el *wire.Element) {
	s.c.counters.shed.Add(1)
	s.refuse(el, stanza.Wait, stanza.ResourceConstraint, "too many requests in hand")
}

// reply sends a handler's answer; it may wait for room.
func (l *Link) reply(iq *stream.IQ, r stream.Reply) {
	cfg := &l.s.c.cfg
	whole := l.encodeReply(iq.ID, r)
	if len(whole) > cfg.MaxStanza {
		cfg.Log.Warn("answer is too large for the server", "peer", l.binding.Remote, "size", len(whole))
		if iq.Type == "set" {
			// What it asked may have been done: an error would deny that,
			// silence leaves it in doubt, which is the truth.
			l.s.c.counters.lost.Add(1)
			return
		}
		whole = l.encodeReply(iq.ID, stream.Reply{Error: &stream.ErrorReply{
			Type: string(stanza.Wait), Condition: string(stanza.ResourceConstraint), Text: "answer would be too large",
		}})
	}
	ctx, cancel := context.WithTimeout(l.s.ctx, cfg.RequestTimeout)
	defer cancel()
	if err := l.s.out.answer(ctx, whole); err != nil {
		l.s.c.counters.lost.Add(1)
		cfg.Log.Warn("answer was not sent", "peer", l.binding.Remote, "err", err)
	}
}
