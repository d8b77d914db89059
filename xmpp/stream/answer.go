package stream

import (
	"mellium.im/xmpp/stanza"

	"mailxmppd/xmpp/wire"
)

// answerOurselves answers what every stream end must: ping (XEP-0199),
// software version (XEP-0092) and service discovery (XEP-0030). known is
// false for anything else.
func (l *Link) answerOurselves(iq *IQ) (known bool, err error) {
	p := iq.Payload
	get := iq.Type == "get"
	switch {
	case get && p.Is(nsPing, "ping"):
		return true, l.answerNow(l.encodeReply(iq.ID, Reply{})...)
	case get && p.Is(nsVersion, "query") && l.cfg.Version != "":
		e := wire.NewEncoder(nil)
		e.Start("query", nsVersion)
		e.Start("name", "")
		e.Text("mailxmppd")
		e.End()
		e.Start("version", "")
		e.Text(l.cfg.Version)
		e.End()
		e.End()
		return true, l.answerEncoded(iq.ID, e)
	case get && (p.Is(nsDiscoInfo, "query") || p.Is(nsDiscoItems, "query")):
		if p.HasAttr("node") { // XEP-0030 section 7: no nodes here
			return true, l.answerNow(l.encodeReply(iq.ID, Reply{Error: &ErrorReply{
				Type: string(stanza.Cancel), Condition: string(stanza.ItemNotFound),
			}})...)
		}
		e := wire.NewEncoder(nil)
		e.Start("query", p.Name.Space)
		if p.Name.Space == nsDiscoInfo && l.cfg.DiscoInfo != nil {
			e.Raw(l.cfg.DiscoInfo(l.binding.Local, l.binding.Remote))
		}
		e.End()
		return true, l.answerEncoded(iq.ID, e)
	}
	return false, nil
}

func (l *Link) answerEncoded(id string, e *wire.Encoder) error {
	payload, err := e.Bytes()
	if err != nil {
		l.cfg.Log.Error("answer could not be encoded", "peer", l.binding.Remote, "err", err)
		return l.answerNow(l.encodeReply(id, Reply{Error: &ErrorReply{
			Type: string(stanza.Wait), Condition: string(stanza.InternalServerError),
		}})...)
	}
	return l.answerNow(l.encodeReply(id, Reply{Payload: payload})...)
}

// refuse answers a stanza with a stanza error, from and to the addresses that
// it had, so that its sender recognises the answer.
func (l *Link) refuse(el *wire.Element, typ stanza.ErrorType, condition stanza.Condition, text string) error {
	l.m.counters.stanzaErrors.Add(1)
	e := wire.NewEncoder(nil)
	e.Start(el.Name.Local, "")
	e.Attr("type", "error")
	if id := el.Attr("id"); id != "" {
		e.Attr("id", id)
	}
	e.Attr("from", el.Attr("to"))
	e.Attr("to", el.Attr("from"))
	e.Raw((&ErrorReply{Type: string(typ), Condition: string(condition), Text: text}).Encode())
	e.End()
	b, err := e.Bytes()
	if err != nil { // cannot be: what the parser took, XML can carry
		return &streamError{condition: "internal-server-error"}
	}
	return l.answerNow(b)
}
