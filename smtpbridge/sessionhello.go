package smtpbridge

import (
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
	s.reset() // RFC 5321 section 4.1.4
	s.greeted = true
	s.client.Helo, s.client.ESMTP = cleanHello(cmd.arg), cmd.verb != "HELO"
	s.told.applyTo(&s.client)
	if cmd.verb == "HELO" {
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
		"CHUNKING",            // RFC 3030
		"LIMITS RCPTMAX=" + strconv.Itoa(s.srv.cfg.Limits.Recipients), // RFC 9422
	}
	list = append(list, s.offered().keywords()...)
	if mechanisms := s.mechanisms(); len(mechanisms) > 0 {
		list = append(list, "AUTH "+strings.Join(mechanisms, " ")) // RFC 4954
	}
	list = append(list, s.trust.keywords()...)
	if s.tlsOffered() {
		list = append(list, "STARTTLS") // RFC 3207
	}
	return list
}

func (s *session) maxSize() string { return strconv.FormatInt(s.srv.cfg.Limits.MaxSize, 10) }

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
