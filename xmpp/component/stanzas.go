package component

import (
	"bytes"
	"errors"
	"io"

	"mailxmppd/xmpp/wire"
)

const (
	nsComponent    = "jabber:component:accept" // XEP-0114
	nsStanzas      = "urn:ietf:params:xml:ns:xmpp-stanzas"
	nsStreamErrors = "urn:ietf:params:xml:ns:xmpp-streams"
	nsPing         = "urn:xmpp:ping"     // XEP-0199
	nsVersion      = "jabber:iq:version" // XEP-0092
	nsDiscoInfo    = "http://jabber.org/protocol/disco#info"
	nsDiscoItems   = "http://jabber.org/protocol/disco#items"
)

// stanzas reads the server's stream: frames cuts it, and the parser of package
// wire judges each piece, as strictly as anything that comes from the network.
type stanzas struct {
	frames *frames
	limits wire.Limits
	opened []byte // the stream's opening tag, the context of every stanza
	feed   feed
	parser *wire.Parser
	broken bool // the parser has refused something and has to begin anew
}

// feed gives the parser what was cut off for it, and no more.
type feed struct{ bytes.Reader }

func newStanzas(r io.Reader, l wire.Limits) *stanzas {
	s := &stanzas{frames: newFrames(r, maxTag), limits: l}
	s.parser = wire.NewParser(&s.feed, l)
	return s
}

// header reads the server's stream header.
func (s *stanzas) header() (*wire.Header, error) {
	opened, err := s.frames.header()
	if err != nil {
		return nil, err
	}
	s.opened = opened
	s.feed.Reset(opened)
	return s.parser.Header()
}

// next reads one stanza. A *wire.Error says that one was refused and is gone;
// the next can be read. Any other error is the end.
func (s *stanzas) next() (*wire.Element, error) {
	if s.broken {
		s.parser = wire.NewParser(&s.feed, s.limits)
		s.feed.Reset(s.opened)
		if _, err := s.parser.Header(); err != nil {
			return nil, err
		}
		s.broken = false
	}
	piece, err := s.frames.next(s.limits.StanzaBytes)
	if err == errTooLarge {
		return nil, &wire.Error{Condition: wire.PolicyViolation, Text: "stanza too large"}
	}
	if err != nil {
		return nil, err
	}
	s.feed.Reset(piece)
	el, err := s.parser.Next()
	if err == nil && s.feed.Len()+s.parser.Buffered() == 0 {
		return el, nil
	}
	s.broken = true
	if refused, ok := errors.AsType[*wire.Error](err); ok {
		return nil, refused
	}
	return nil, &wire.Error{Condition: wire.NotWellFormed, Text: "stanza ends elsewhere than it seems"}
}
