package stream

import (
	"errors"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

var (
	// ErrNotSent means that the request certainly never left.
	ErrNotSent = errors.New("request was not sent")
	// ErrClosed means that the link died before the answer came: the request
	// may have been carried out.
	ErrClosed = errors.New("link closed before the answer")
	// ErrTimeout means that no answer came in time: the request may have been
	// carried out.
	ErrTimeout = errors.New("no answer in time")
	// ErrShutdown means that the manager takes no new links.
	ErrShutdown = errors.New("streams are shut down")
)

// StanzaError is a peer's refusal of a request (RFC 6120 section 8.3).
type StanzaError struct {
	Condition string        // "undefined-condition" if the peer named none
	Type      string        // cancel, continue, modify, auth, wait
	Text      string        // sanitised
	Element   *wire.Element // the error element, for its application-specific child
}

func (e *StanzaError) Error() string {
	s := "stanza error " + e.Condition
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

func stanzaError(iq *wire.Element) *StanzaError {
	e := &StanzaError{Condition: "undefined-condition", Type: "cancel", Element: iq.Child(nsServer, "error")}
	if e.Element == nil {
		e.Element = &wire.Element{Name: wire.Name{Space: nsServer, Local: "error"}}
		return e
	}
	if t := e.Element.Attr("type"); t != "" {
		e.Type = mail.Sanitise(t)
	}
	for _, c := range e.Element.Children {
		switch {
		case c.Name.Space != nsStanzas:
		case c.Name.Local == "text":
			e.Text = mail.Sanitise(string(c.Text))
		default:
			e.Condition = mail.Sanitise(c.Name.Local)
		}
	}
	return e
}

// Stages of negotiation, for NegotiationError.
const (
	StageBackOff  = "back-off" // too early after a failure to try again
	StageDial     = "dial"
	StageStartTLS = "starttls" // what comes before TLS
	StageTLS      = "tls"
	StageHeader   = "header"
	StageAuth     = "auth"
	StageBidi     = "bidi" // the peer authenticated us but offers no bidirectional streams
	StageReady    = "ready"
)

// NegotiationError says why no link came to be.
type NegotiationError struct {
	Stage     string
	Condition string // stream error or SASL condition, the peer's or ours; may be ""
	Permanent bool   // asking again soon will not help: a matter of certificates, features or configuration
	Peer      bool   // the peer said so, over TLS that proved its domain
	Err       error  // may be nil
}

func (e *NegotiationError) Error() string {
	s := "stream negotiation failed at " + e.Stage
	if e.Condition != "" {
		s += ": " + e.Condition
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *NegotiationError) Unwrap() error { return e.Err }

// streamError is a reason of ours to end a stream (RFC 6120 section 4.9.3).
type streamError struct {
	condition, text string
	app             string // application-specific condition, encoded; "" for none
}

func (e *streamError) Error() string { return e.condition + ": " + e.text }

// peerError is the stream error that the peer ended its stream with.
type peerError struct {
	condition, text string
	host            string // with see-other-host: where to go, as the peer put it
}

func (e *peerError) Error() string { return "peer ended the stream: " + e.condition + " " + e.text }

func readPeerError(el *wire.Element) *peerError {
	e := &peerError{condition: "undefined-condition"}
	for _, c := range el.Children {
		switch {
		case c.Name.Space != nsStreamErrors:
		case c.Name.Local == "text":
			e.text = mail.Sanitise(string(c.Text))
		default:
			e.condition = mail.Sanitise(c.Name.Local)
			e.host = strings.TrimSpace(string(c.Text))
		}
	}
	return e
}
