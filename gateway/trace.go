package gateway

import (
	"fmt"
	"strings"
	"time"

	"mailxmppd/mail"
)

// received writes the Received field for a message that we take (RFC 5321
// section 4.4). Nothing of it comes from the client unchecked. esmtp says that
// the client greeted with EHLO.
func (g *Gateway) received(m *mail.Message, esmtp bool) []byte {
	var b strings.Builder
	from := m.Origin.Peer
	if from == "" {
		from = heloWord(m.Origin.Helo)
	}
	fmt.Fprintf(&b, "Received: from %s (%s)\r\n", from, remoteWord(m.Origin.Remote))
	fmt.Fprintf(&b, "\tby %s with %s id %s", g.Hostname, withWord(m.Origin, esmtp, m.Envelope.SMTPUTF8), m.ID)
	if m.Origin.TLS != "" {
		fmt.Fprintf(&b, "\r\n\t(%s)", commentWord(m.Origin.TLS))
	}
	if rcpts := m.Envelope.Recipients; len(rcpts) == 1 && rcpts[0].Address.IsASCII() {
		fmt.Fprintf(&b, "\r\n\tfor %s", rcpts[0].Address.Path())
	}
	fmt.Fprintf(&b, ";\r\n\t%s\r\n", m.Origin.Received.UTC().Format(time.RFC1123Z))
	return []byte(b.String())
}

// withWord is the protocol as registered by RFC 3848 and RFC 6531 section 4.3;
// XMPP has no registered word.
func withWord(o mail.Origin, esmtp, utf8 bool) string {
	word := map[string]string{"smtp": "SMTP", "lmtp": "LMTP", "xmpp": "XMPP"}[o.Transport]
	switch {
	case word == "":
		return "local"
	case word == "XMPP":
		return word
	case utf8:
		word = "UTF8" + word
	case esmtp && word == "SMTP":
		word = "ESMTP"
	}
	if o.TLS != "" {
		word += "S"
	}
	if o.User != "" {
		word += "A"
	}
	return word
}

// heloWord keeps a HELO argument that is a domain or a literal.
func heloWord(helo string) string {
	if d, err := mail.ParseDomain(helo); err == nil {
		return d
	}
	return "unknown"
}

// remoteWord writes "192.0.2.1:25" as the address literal "[192.0.2.1]".
func remoteWord(remote string) string {
	host := remote
	if i := strings.LastIndexByte(remote, ':'); i >= 0 {
		host = strings.Trim(remote[:i], "[]")
	}
	if strings.Contains(host, ":") {
		host = "IPv6:" + host
	}
	if d, err := mail.ParseDomain("[" + host + "]"); err == nil {
		return d
	}
	return "local"
}

// commentWord keeps a text that is safe inside a comment (RFC 5322 section
// 3.2.2).
func commentWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`()\`, r) {
			return '_'
		}
		return r
	}, s)
}
