package component

import (
	"mellium.im/xmpp/stanza"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// addresses are the from and to of every stanza of a link, with the end of the
// start tag. Both are parsed domains: XML can carry them.
func addresses(local, remote string) string {
	b, _ := wire.AppendAttr(nil, "from", mail.UnicodeDomain(local))
	b, _ = wire.AppendAttr(b, "to", mail.UnicodeDomain(remote))
	return string(append(b, '>'))
}

// stanza encodes a whole stanza. id came out of the parser, or is ours.
func (l *Link) stanza(name, typ, id string, payload []byte) []byte {
	b := make([]byte, 0, len(name)*2+len(typ)+len(id)+len(l.address)+len(payload)+64)
	b = append(b, '<')
	b = append(b, name...)
	b, _ = wire.AppendAttr(b, "type", typ)
	b, _ = wire.AppendAttr(b, "id", id)
	b = append(b, l.address...)
	b = append(b, payload...)
	b = append(b, "</"...)
	b = append(b, name...)
	return append(b, '>')
}

func (l *Link) encodeReply(id string, r stream.Reply) []byte {
	if r.Error != nil {
		return l.stanza("iq", "error", id, r.Error.Encode())
	}
	return l.stanza("iq", "result", id, r.Payload)
}

// answerOurselves answers what every domain must, whoever asks: ping
// (XEP-0199), software version (XEP-0092) and service discovery (XEP-0030). It
// reports false for anything else.
func (s *session) answerOurselves(iq *wire.Element, from string) bool {
	p := iq.Children[0]
	if iq.Attr("type") != "get" {
		return false
	}
	e := wire.NewEncoder(nil)
	switch {
	case p.Is(nsPing, "ping"):
	case p.Is(nsVersion, "query") && s.c.cfg.Version != "":
		e.Start("query", nsVersion)
		e.Start("name", "")
		e.Text("mailxmppd")
		e.End()
		e.Start("version", "")
		e.Text(s.c.cfg.Version)
		e.End()
		e.End()
	case p.Is(nsDiscoInfo, "query"), p.Is(nsDiscoItems, "query"):
		if p.HasAttr("node") { // XEP-0030 section 7: no nodes here
			s.refuse(iq, stanza.Cancel, stanza.ItemNotFound, "")
			return true
		}
		e.Start("query", p.Name.Space)
		if p.Name.Space == nsDiscoInfo && s.c.cfg.DiscoInfo != nil && s.c.cfg.AssertAuthenticated {
			e.Raw(s.c.cfg.DiscoInfo(s.c.cfg.Domain, from))
		}
		e.End()
	default:
		return false
	}
	payload, err := e.Bytes()
	if err != nil {
		s.c.cfg.Log.Error("answer could not be encoded", "peer", from, "err", err)
		s.refuse(iq, stanza.Wait, stanza.InternalServerError, "")
		return true
	}
	s.answer(iq, "result", payload)
	return true
}

// refuse answers a stanza with a stanza error.
func (s *session) refuse(el *wire.Element, typ stanza.ErrorType, condition stanza.Condition, text string) {
	r := stream.ErrorReply{Type: string(typ), Condition: string(condition), Text: text}
	s.answer(el, "error", r.Encode())
}

// answer goes to where the stanza came from, from where it went, so that its
// sender recognises it: the reader's own answer, lost if there is no room.
func (s *session) answer(el *wire.Element, typ string, payload []byte) {
	e := wire.NewEncoder(nil)
	e.Start(el.Name.Local, "")
	e.Attr("type", typ)
	if id := el.Attr("id"); id != "" {
		e.Attr("id", id)
	}
	from, to := el.Attr("to"), el.Attr("from")
	if from == "" || to == "" {
		s.c.counters.dropped.Add(1) // nobody to answer, or nobody to be
		return
	}
	e.Attr("from", from)
	e.Attr("to", to)
	e.Raw(payload)
	e.End()
	b, err := e.Bytes()
	if err != nil || len(b) > s.c.cfg.MaxStanza || s.out.try(b) != nil {
		s.c.counters.lost.Add(1)
	}
}
