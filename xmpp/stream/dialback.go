package stream

import "mailxmppd/xmpp/wire"

// answerDialback answers what a server sends that would like dialback
// (XEP-0220), before authentication or on an authenticated stream, as Prosody
// does. No key is ours, since we never send one, and none of theirs is ever
// looked at: dialback proves no domain here and lets none onto a stream. "" is
// the answer to answers.
func (m *Manager) answerDialback(el *wire.Element, refusal string) string {
	if el.HasAttr("type") {
		return ""
	}
	var typ, content string
	switch el.Name.Local {
	case "result": // section 2.4.2
		m.counters.dialbackResults.Add(1)
		typ, content = "error", "<error type='cancel'><"+refusal+" xmlns='"+nsStanzas+"'/></error>"
	case "verify": // section 2.2.2
		m.counters.dialbackVerifies.Add(1)
		typ = "invalid"
	default:
		return ""
	}
	b := append([]byte(nil), "<db:"+el.Name.Local+" xmlns:db='"+nsDialback+"' type='"+typ+"'"...)
	for _, a := range [...][2]string{{"from", el.Attr("to")}, {"to", el.Attr("from")}, {"id", el.Attr("id")}} {
		if a[1] != "" {
			b = appendAttr(b, a[0], a[1])
		}
	}
	if content == "" {
		return string(append(b, "/>"...))
	}
	return string(b) + ">" + content + "</db:" + el.Name.Local + ">"
}
