package component

import (
	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// Bounce is an error stanza in the peer's name that no gateway has written: a
// server on the way could not, or would not, bring the request there. It may
// have brought it and not know.
type Bounce struct{ Refusal *stream.StanzaError }

func (b *Bounce) Error() string { return "server could not reach the peer: " + b.Refusal.Error() }

// readAnswer returns what a result or error brought.
func (l *Link) readAnswer(iq *wire.Element) (*wire.Element, error) {
	if iq.Attr("type") != "error" {
		if len(iq.Children) == 0 {
			return nil, nil
		}
		return iq.Children[0], nil
	}
	refusal, byGateway := readError(iq)
	if !byGateway {
		return nil, &Bounce{refusal}
	}
	return nil, refusal
}

// readError reads a stanza error, and tells whether the peer's own words can
// be taken for it. Servers write errors in the name of domains that they
// cannot reach, with whatever condition fits: "not-authorized" for a
// certificate, "remote-server-not-found" for a time-out. None of that may end
// a message. A gateway says more (xep-draft section 8: an application-specific
// child), or says what any program says of a request that it does not know, or
// not now, which is temporary.
func readError(iq *wire.Element) (e *stream.StanzaError, byGateway bool) {
	e = &stream.StanzaError{Condition: "undefined-condition", Type: "cancel", Element: iq.Child(nsComponent, "error")}
	if e.Element == nil {
		e.Element = &wire.Element{Name: wire.Name{Space: nsComponent, Local: "error"}}
		return e, false
	}
	if t := e.Element.Attr("type"); t != "" {
		e.Type = mail.Sanitise(t)
	}
	for _, c := range e.Element.Children {
		switch {
		case c.Name.Space != nsStanzas:
			byGateway = true
		case c.Name.Local == "text":
			e.Text = mail.Sanitise(string(c.Text))
		default:
			e.Condition = mail.Sanitise(c.Name.Local)
		}
	}
	switch e.Condition {
	case "service-unavailable", "feature-not-implemented", "bad-request", "resource-constraint", "internal-server-error":
		byGateway = true
	}
	return e, byGateway
}
