package stream

import (
	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

var iqEnd = []byte("</iq>")

const streamEnd = "</stream:stream>"

// appendAttr adds an attribute to a tag under way. Values here are parsed
// domains, ids of ours, or came out of the parser: XML can carry them.
func appendAttr(b []byte, name, value string) []byte {
	out, err := wire.AppendAttr(b, name, value)
	if err != nil {
		return b // without it rather than with half of it
	}
	return out
}

// addresses are the from and to of every stanza of a link, with the end of
// the start tag.
func addresses(p pair) string {
	b := appendAttr(nil, "from", mail.UnicodeDomain(p.local))
	b = appendAttr(b, "to", mail.UnicodeDomain(p.remote))
	return string(append(b, '>'))
}

// stanzaHead is the start tag of an IQ. id is escaped.
func (l *Link) stanzaHead(name, typ, id string) []byte {
	b := make([]byte, 0, len(name)+len(typ)+len(id)+len(l.iqFrom)+32)
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, " type='"...)
	b = append(b, typ...)
	b = append(b, '\'')
	b = appendAttr(b, "id", id)
	return append(b, l.iqFrom...)
}

// encodeReply gives the parts of the answer to a request.
func (l *Link) encodeReply(id string, r Reply) [][]byte {
	if r.Error != nil {
		return [][]byte{l.stanzaHead("iq", "error", id), r.Error.Encode(), iqEnd}
	}
	return [][]byte{l.stanzaHead("iq", "result", id), r.Payload, iqEnd}
}

// Encode returns the <error/> child of a stanza error, in the stream's own
// namespace. The text is made one printable line.
func (r *ErrorReply) Encode() []byte {
	e := wire.NewEncoder(nil)
	e.Start("error", "")
	e.Attr("type", r.Type)
	e.Start(r.Condition, nsStanzas)
	e.End()
	if text := mail.Sanitise(r.Text); text != "" {
		e.Start("text", nsStanzas)
		e.Text(text)
		e.End()
	}
	e.Raw(r.App)
	e.End()
	b, err := e.Bytes()
	if err != nil { // cannot be: names are constants, the text is sanitised
		return []byte("<error type='cancel'><undefined-condition xmlns='" + nsStanzas + "'/></error>")
	}
	return b
}

// encodeStreamEnd closes our side of a stream, after a stream error if there
// is one (RFC 6120 sections 4.4 and 4.9).
func encodeStreamEnd(err *streamError) []byte {
	if err == nil {
		return []byte(streamEnd)
	}
	e := wire.NewEncoder(nil)
	e.Start("stream:error", "")
	e.Start(err.condition, nsStreamErrors)
	e.End()
	if err.text != "" {
		e.Start("text", nsStreamErrors)
		e.Text(err.text)
		e.End()
	}
	e.Raw([]byte(err.app))
	e.End()
	b, _ := e.Bytes() // cannot fail: constants only
	return append(b, streamEnd...)
}

// encodeHeader opens our side of a stream (RFC 6120 section 4.7). id is ""
// for the side that initiates.
func encodeHeader(p pair, id string) []byte {
	b := []byte("<?xml version='1.0'?><stream:stream xmlns='" + nsServer + "' xmlns:stream='" + wire.StreamNS + "'")
	if p.local != "" {
		b = appendAttr(b, "from", mail.UnicodeDomain(p.local))
	}
	if p.remote != "" {
		b = appendAttr(b, "to", mail.UnicodeDomain(p.remote))
	}
	if id != "" {
		b = appendAttr(b, "id", id)
	}
	return append(b, " version='1.0' xml:lang='en'>"...)
}
