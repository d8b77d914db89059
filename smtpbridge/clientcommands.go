package smtpbridge

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
)

// capabilities are the extensions that a next hop offers.
type capabilities struct {
	pipelining bool     // RFC 2920
	eightBit   bool     // RFC 6152
	utf8       bool     // RFC 6531
	dsn        bool     // RFC 3461
	startTLS   bool     // RFC 3207
	requireTLS bool     // RFC 8689
	chunking   bool     // RFC 3030
	binary     bool     // RFC 3030
	priority   bool     // RFC 6710
	size       bool     // RFC 1870
	maxSize    int64    // 0: no limit told
	deliverBy  bool     // RFC 2852
	minBy      int64    // seconds that it needs at least; 0: none told
	auth       []string // RFC 4954: mechanisms, upper-case
	maxRcpts   int      // RFC 9422: recipients of one message; 0: none told
	xforward   []string // Postfix's XFORWARD: attributes, upper-case
}

// parseCapabilities reads the lines of a reply to EHLO or LHLO; the first is
// the greeting, and unknown keywords are of no interest.
func parseCapabilities(lines []string) capabilities {
	var c capabilities
	for i, line := range lines {
		if i == 0 {
			continue
		}
		words := strings.Fields(strings.ToUpper(line))
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "PIPELINING":
			c.pipelining = true
		case "8BITMIME":
			c.eightBit = true
		case "SMTPUTF8":
			c.utf8 = true
		case "DSN":
			c.dsn = true
		case "STARTTLS":
			c.startTLS = true
		case "REQUIRETLS":
			c.requireTLS = true
		case "CHUNKING":
			c.chunking = true
		case "BINARYMIME":
			c.binary = true
		case "MT-PRIORITY":
			c.priority = true
		case "DELIVERBY":
			c.deliverBy = true
			if len(words) > 1 {
				if n, err := strconv.ParseInt(words[1], 10, 64); err == nil && n > 0 {
					c.minBy = n
				}
			}
		case "AUTH":
			c.auth = words[1:]
		case "LIMITS":
			for _, word := range words[1:] {
				if value, ok := strings.CutPrefix(word, "RCPTMAX="); ok {
					if n, err := strconv.Atoi(value); err == nil && n > 0 {
						c.maxRcpts = n
					}
				}
			}
		case "XFORWARD":
			c.xforward = words[1:]
		case "SIZE":
			c.size = true
			if len(words) > 1 {
				if n, err := strconv.ParseInt(words[1], 10, 64); err == nil && n > 0 {
					c.maxSize = n
				}
			}
		}
	}
	return c
}

// needs is what an attempt demands of a next hop.
type needs struct {
	eightBit bool
	binary   bool
	size     int64 // of trace and content
}

func needsOf(a mail.Attempt) needs {
	return needs{
		eightBit: a.Facts.EightBit || slices.ContainsFunc(a.Trace, func(c byte) bool { return c >= 0x80 }),
		binary:   a.Envelope.Body == mail.BodyBinaryMIME,
		size:     int64(len(a.Trace)) + a.Content.Size(),
	}
}

// cannotTake tells why a message cannot go to this next hop as it is; it is
// never made to fit.
func (hc *hopConn) cannotTake(a mail.Attempt, n needs) *mail.Failure {
	if f := hc.cannotName(a.Envelope); f != nil {
		return f
	}
	switch {
	case n.binary && !(hc.caps.binary && hc.caps.chunking):
		// RFC 3030 section 3: not over DATA, whatever the octets look like.
		return mail.Fail(mail.NoConversion, "next hop does not take binary content", nil)
	case n.eightBit && !n.binary && !hc.caps.eightBit:
		return mail.Fail(mail.NoConversion, "next hop does not take 8-bit content", nil)
	case hc.caps.maxSize > 0 && n.size > hc.caps.maxSize:
		return mail.Failf(mail.TooLarge, "message of %d octets, next hop takes %d", n.size, hc.caps.maxSize)
	case a.Envelope.RequireTLS && !hc.lmtp && (hc.proof == "" || !hc.caps.requireTLS):
		// RFC 8689 section 4.2.1; LMTP is the final delivery, where it ends.
		return mail.Fail(mail.TLSRequired, "", nil)
	}
	return hc.cannotPromise(a.Envelope.DeliverBy)
}

// cannotPromise tells why a message that must be there by a time, or come back,
// cannot go to this next hop (RFC 2852 section 4.1.4.1). LMTP is the delivery
// itself and needs no promise.
func (hc *hopConn) cannotPromise(by *mail.DeliverBy) *mail.Failure {
	if by == nil || by.Mode != byReturn || hc.lmtp {
		return nil
	}
	left := secondsLeft(by)
	switch {
	case !hc.caps.deliverBy:
		return mail.Fail(mail.Rejected, "next hop does not promise delivery by a time", nil).WithStatus("5.3.3")
	case left < 1:
		return mail.Fail(mail.Expired, "the time that the sender set for delivery is over", nil)
	case left < hc.caps.minBy:
		return mail.Failf(mail.Expired, "next hop needs %d seconds, and %d are left", hc.caps.minBy, left)
	}
	return nil
}

// byReturn is the mode of DELIVERBY that wants an undelivered message back.
const byReturn = 'R'

// secondsLeft is the by-time of RFC 2852 section 4: nine digits at most.
func secondsLeft(by *mail.DeliverBy) int64 {
	const most = 999_999_999
	return max(-most, min(int64(time.Until(by.Deadline)/time.Second), most))
}

// cannotName tells why the envelope's addresses cannot go to this next hop.
func (hc *hopConn) cannotName(env mail.Envelope) *mail.Failure {
	if (env.SMTPUTF8 || env.NeedsUTF8()) && !hc.caps.utf8 {
		return mail.Fail(mail.NotAcceptable, "", nil)
	}
	if unsafePath(env.Sender) || slices.ContainsFunc(env.Recipients, func(r mail.Recipient) bool { return unsafePath(r.Address) }) {
		return mail.Fail(mail.BadAddress, "", nil)
	}
	return nil
}

// unsafePath is the last guard before an address becomes part of a command:
// parsed addresses cannot hold a control character, nor a domain what would
// end the path.
func unsafePath(a mail.Address) bool {
	return strings.ContainsFunc(a.String(), func(r rune) bool { return r < ' ' || r == 0x7f }) || strings.ContainsAny(a.Domain, ` <>"\`)
}

// mailCommand is the MAIL command for an envelope, and for a message if n is
// given, with the parameters of the extensions that the next hop offers.
func (hc *hopConn) mailCommand(env mail.Envelope, n *needs) string {
	b := []byte("MAIL FROM:" + env.Sender.Path())
	if n != nil && hc.caps.size {
		b = strconv.AppendInt(append(b, " SIZE="...), n.size, 10)
	}
	switch {
	case n != nil && n.binary:
		b = append(b, " BODY=BINARYMIME"...)
	case n != nil && n.eightBit:
		b = append(b, " BODY=8BITMIME"...)
	}
	if hc.caps.utf8 && (env.SMTPUTF8 || env.NeedsUTF8()) {
		b = append(b, " SMTPUTF8"...)
	}
	if n != nil && env.RequireTLS && hc.caps.requireTLS && hc.tls != "" {
		b = append(b, " REQUIRETLS"...)
	}
	if n != nil && env.DeliverBy != nil && hc.caps.deliverBy && !hc.lmtp {
		b = append(b, byParameter(env.DeliverBy)...)
	}
	if n != nil && env.Priority != nil && hc.caps.priority {
		b = strconv.AppendInt(append(b, " MT-PRIORITY="...), int64(*env.Priority), 10)
	}
	if hc.caps.dsn {
		if env.Return != "" {
			b = append(b, " RET="+env.Return...)
		}
		if id, ok := xtextOf(env.EnvelopeID); ok {
			b = append(b, " ENVID="+id...)
		}
	}
	return string(append(b, "\r\n"...))
}

// byParameter is DELIVERBY with the time that is left (RFC 2852 section 4).
func byParameter(by *mail.DeliverBy) string {
	s := fmt.Sprintf(" BY=%d;%c", secondsLeft(by), by.Mode)
	if by.Trace {
		s += "T"
	}
	return s
}

// rcptCommand is the RCPT command for a recipient.
func (hc *hopConn) rcptCommand(r mail.Recipient) string {
	b := []byte("RCPT TO:" + r.Address.Path())
	if hc.caps.dsn {
		if names := r.Notify.Names(); names != nil {
			b = append(b, " NOTIFY="+strings.Join(names, ",")...)
		}
		if orcpt, ok := orcptOf(r.Original); ok {
			b = append(b, " ORCPT="+orcpt...)
		}
	}
	return string(append(b, "\r\n"...))
}

// xtextOf encodes a value as xtext (RFC 3461 section 4); false for an empty
// one and for one that xtext cannot hold.
func xtextOf(s string) (string, bool) {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 0x80:
			return "", false
		case c <= ' ' || c > '~' || c == '+' || c == '=':
			fmt.Fprintf(&b, "+%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), s != ""
}

// orcptOf encodes "type;address". Non-ASCII addresses, which only the type
// utf-8 can have, take the form that needs no SMTPUTF8 (RFC 6533 section 3).
func orcptOf(original string) (string, bool) {
	kind, address, ok := strings.Cut(original, ";")
	if !ok || kind == "" || strings.Trim(strings.ToLower(kind), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", false
	}
	if value, ok := xtextOf(address); ok {
		return kind + ";" + value, true
	}
	if !strings.EqualFold(kind, "utf-8") {
		return "", false
	}
	var b strings.Builder
	for _, r := range address {
		if r <= ' ' || r > '~' || r == '\\' || r == '+' || r == '=' {
			fmt.Fprintf(&b, `\x{%02X}`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return kind + ";" + b.String(), b.Len() > 0
}
