package smtpbridge

import (
	"context"
	"strconv"
	"strings"
)

// maxHello is the length of a domain (RFC 5321 section 4.5.3.1.2).
const maxHello = 255

// hello answers HELO, EHLO and LHLO. Each listener knows its own: RFC 2033
// section 4.1 has LHLO in place of the other two.
func (s *session) hello(cmd command) bool {
	if (cmd.verb == "LHLO") != s.client.LMTP {
		return s.refuse(serverReply{500, "5.5.1", "this is " + s.protocol()})
	}
	if cmd.arg == "" || len(cmd.arg) > maxHello {
		return s.refuse(serverReply{501, "5.5.4", "syntax: " + cmd.verb + " hostname"})
	}
	s.env = nil // RFC 5321 section 4.1.4: as RSET
	s.greeted = true
	s.client.Helo = cleanHello(cmd.arg)
	s.client.ESMTP = cmd.verb != "HELO"
	if !s.client.ESMTP {
		return s.reply(serverReply{250, "", s.srv.cfg.Hostname})
	}
	return s.out.writeLines(250, append([]string{s.srv.cfg.Hostname}, s.extensions()...)) == nil
}

// extensions lists what is offered now, and nothing that would be refused.
func (s *session) extensions() []string {
	list := []string{
		"PIPELINING",          // RFC 2920
		"SIZE " + s.maxSize(), // RFC 1870
		"8BITMIME",            // RFC 6152
		"SMTPUTF8",            // RFC 6531
		"DSN",                 // RFC 3461
		"ENHANCEDSTATUSCODES", // RFC 2034
	}
	if s.tlsOffered() {
		list = append(list, "STARTTLS") // RFC 3207
	}
	return list
}

func (s *session) maxSize() string { return strconv.FormatInt(s.srv.cfg.Limits.MaxSize, 10) }

func (s *session) tlsOffered() bool { return s.srv.cfg.TLS != nil && s.client.TLS == "" }

// cleanHello keeps of a client's name for itself what cannot do harm in a
// Received field or a log. The name proves nothing, so that nobody is refused
// for an odd one.
func cleanHello(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(".-_:[]", r):
			return r
		}
		return '?'
	}, s)
}

// startTLS: RFC 3207. What the client said so far came in the clear, and may
// have been said by somebody else: it is forgotten (section 4.2). What already
// follows the command in the input was certainly not sent over TLS, and must
// not be taken for it.
func (s *session) startTLS(ctx context.Context, cmd command) bool {
	switch {
	case !s.tlsOffered():
		return s.refuse(serverReply{502, "5.5.1", "STARTTLS is not offered"})
	case cmd.arg != "":
		return s.refuse(serverReply{501, "5.5.4", "STARTTLS takes no argument"})
	case s.in.buffered() > 0:
		return s.violation(serverReply{421, "4.7.0", "commands after STARTTLS without TLS"})
	}
	s.reply(serverReply{220, "2.0.0", "go ahead"})
	if s.out.flush() != nil || !s.handshake(ctx) {
		return false
	}
	s.greeted, s.env, s.client.Helo, s.client.ESMTP = false, nil, "", false
	return true
}
