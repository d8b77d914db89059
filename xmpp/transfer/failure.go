package transfer

import (
	"strconv"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// maxRetryAfter bounds what a peer can make us wait, in seconds.
const maxRetryAfter = 24 * 60 * 60

// encodeFailure writes a recipient's failure (xep-draft section 8).
func encodeFailure(e *wire.Encoder, f *mail.Failure) {
	startFailure(e, f, true)
	if f.Text != "" {
		e.Start("text", "")
		e.Text(f.Text)
		e.End()
	}
	e.End()
}

// startFailure opens the element; condition is left out where the stanza
// error around it says it.
func startFailure(e *wire.Encoder, f *mail.Failure, condition bool) {
	e.Start("failure", Namespace)
	if condition {
		e.Attr("condition", f.Condition)
	}
	e.Attr("enhanced", f.Status())
	if f.RetryAfter > 0 {
		e.AttrInt("retry-after", int64((f.RetryAfter+time.Second-1)/time.Second))
	}
	if f.Kind == mail.TooLarge {
		e.Start("too-large", "")
		e.End()
	}
}

// decodeFailure reads a recipient's failure as the peer named remote told it.
func decodeFailure(remote string, e *wire.Element) *mail.Failure {
	text := ""
	if t := e.Child(Namespace, "text"); t != nil {
		text = string(t.Text)
	}
	return failureOf(remote, e.Attr("condition"), text, e)
}

func failureOf(remote, condition, text string, e *wire.Element) *mail.Failure {
	var retry time.Duration
	if n, ok := parseCount(e.Attr("retry-after")); ok {
		retry = time.Duration(min(n, maxRetryAfter)) * time.Second
	}
	large := e.Child(Namespace, "too-large") != nil
	return mail.FromStanza(remote, condition, e.Attr("enhanced"), text, large, retry)
}

// replyError is the stanza error for a request that fails as a whole.
func replyError(f *mail.Failure) stream.Reply {
	e := wire.NewEncoder(nil)
	startFailure(e, f, false)
	e.End()
	app, err := e.Bytes()
	if err != nil { // not reached: the values are numbers
		app = nil
	}
	return stream.Reply{Error: &stream.ErrorReply{Type: f.Type, Condition: f.Condition, Text: f.Text, App: app}}
}

// fromStanzaError is the inverse of replyError.
func fromStanzaError(remote string, se *stream.StanzaError) *mail.Failure {
	var detail *wire.Element
	if se.Element != nil {
		detail = se.Element.Child(Namespace, "failure")
	}
	if detail == nil {
		detail = &wire.Element{}
	}
	return failureOf(remote, se.Condition, se.Text, detail)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
